#!/usr/bin/env python3
"""What people do with the vendor's Python SDK on a rack, done against a boxrig server.

Uses the SDK as it is published; sockets, service host names and raw bytes, which it does not have, go by Python's own
library. Reads CONVOX_HOST, CONVOX_PASSWORD and BOXRIG_CA_FILE (`boxrig env`). Prints a line per check and, last,
`N passed, N failed`.

    python convox_sdk.py [PATTERN...]
"""

import base64
import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import sys
import threading
import time
import traceback

from convox import ConvoxClient, RetryConfig
from convox.exceptions import ConvoxAPIError, ConvoxAuthError, ConvoxConflictError, ConvoxNotFoundError

from convox_rack import DOCKERFILE, SERVER, Rack, source

HOST = os.environ["CONVOX_HOST"]
PASSWORD = os.environ["CONVOX_PASSWORD"]
API = pathlib.Path(os.environ.get("BOXRIG_API", pathlib.Path(__file__).resolve().parent.parent / "api"))
checks = []
rack = client = None

MANIFEST = """
resources:
  main-db:
    type: postgres
services:
  web:
    build: .
    port: 3000
    environment: [GREETING=hello]
    resources: [main-db]
    scale: {count: 2, memory: 128}
    termination: {grace: 5}
  worker:
    image: boxrig/base
    command: sh -c 'while :; do echo tick $RELEASE; sleep 1; done'
    termination: {grace: 1}
timers:
  report:
    schedule: '* * * * *'
    command: sh -c 'echo it is time'
    service: worker
"""
FILES = {"convox.yml": MANIFEST, "Dockerfile": DOCKERFILE, "server.py": SERVER}


def check(function):
    """Registers a check."""
    checks.append((function.__name__, function))
    return function


def wait(what, test, seconds=60):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not (found := test()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def fetch(name, tls=False, connection=None):
    """What a service answers by its host name."""
    host, port = rack.url.hostname, rack.url.port
    if connection is None:
        connection = http.client.HTTPConnection(host, port, timeout=20)
        if tls:
            context = ssl.create_default_context(cafile=os.environ["BOXRIG_CA_FILE"])
            raw = socket.create_connection((host, port), timeout=20)
            connection.sock = context.wrap_socket(raw, server_hostname=name)
    connection.request("GET", "/", headers={"Host": name})
    answer = connection.getresponse()
    return answer.status, answer.read().decode().split()


def running(app, service):
    """The service's processes that run."""
    return [p for p in client.processes.list(app, service=service) if p.status == "running"]


@check
def a_web_app():
    """Deployed from a folder, reached, scaled, updated without a failed request, rolled back, looked into, deleted."""
    client.apps.create("shop")
    url = client.api.post("/apps/shop/objects/tmp/s.tgz", content=source(FILES))["Url"]
    build = client.builds.create("shop", url, description="first", git_sha="abc")
    build = wait("the build", lambda: (b := client.builds.get("shop", build.id)).status != "running" and b, 180)
    assert build.status == "complete", client.api.get(f"/apps/shop/builds/{build.id}")
    log = b"".join(rack.socket(f"/apps/shop/builds/{build.id}/logs").frames()).decode()
    assert "RUN echo built" in log, log
    client.releases.promote("shop", build.release)
    wait("the promotion", lambda: client.apps.get("shop").status == "running", 120)
    assert client.apps.get("shop").release == build.release
    assert {s.name: s.domain for s in client.services.list("shop")} == {
        "web": "web.shop.localhost",
        "worker": "worker.shop.localhost",
    }
    assert fetch("web.shop.localhost")[0:1] == (200,)
    assert fetch("web.shop.localhost", tls=True)[1][:2] == [build.release, "hello"]

    client.services.update("shop", "web", count=3)
    wait("three", lambda: len(running("shop", "web")) == 3)
    wait("all three answer", lambda: len({fetch("web.shop.localhost")[1][2] for _ in range(9)}) == 3)

    # A websocket through the router.
    talk = rack.socket("/shout", {"Host": "web.shop.localhost", "Authorization": ""})
    for word in (b"hello", b"again"):
        talk.send(word)
        assert talk.frame() == (1, word.upper())
    talk.io.close()

    # 1,000 requests while it is updated, over connections that stay and such that do not.
    stop, failed, done, seen = threading.Event(), [], [0], set()

    def ask():
        connection = http.client.HTTPConnection(rack.url.hostname, rack.url.port, timeout=20)
        while not stop.is_set():
            try:
                status, words = fetch("web.shop.localhost", connection=connection if done[0] % 2 else None)
                done[0] += 1
                seen.add(words[0])
                if status != 200:
                    failed.append((status, words))
            except Exception as e:
                failed.append(repr(e))
                connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    second = client.environment.set("shop", {"GREETING": "bonjour"})
    wait("the update", lambda: client.apps.get("shop").status == "running" and client.apps.get("shop").release == second.id, 120)
    wait("1,000 requests", lambda: done[0] >= 1000, 120)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, (len(failed), failed[:3])
    assert seen == {build.release, second.id}, seen
    print(f"    {done[0]} requests during the update, 0 failed")
    assert fetch("web.shop.localhost")[1][1] == "bonjour"

    # Back: a new release of the old one; the old one itself is refused.
    try:
        client.releases.rollback("shop", build.release)
        raise AssertionError("an older release was promoted")
    except ConvoxAPIError as e:
        assert e.status_code == 400 and "try rollback" in str(e), e
    back = rack.json("POST", "/apps/shop/releases", {"parent-release": build.release})
    client.releases.promote("shop", back["id"])
    wait("the way back", lambda: client.apps.get("shop").status == "running", 120)
    assert fetch("web.shop.localhost")[1][:2] == [back["id"], "hello"]

    # Commands, the database, the log, the timer.
    pid = running("shop", "web")[0].id
    assert rack.exec("shop", pid, "sh -c 'cat mark; exit 7'") == ("built\n", 7)
    out, code = rack.exec("shop", "web", "sh -c 'psql -At \"$MAIN_DB_URL\" -c \"select 6 * 7\"'")
    assert (out, code) == ("42\n", 0), out
    talk = rack.socket("/apps/shop/logs", {"Since": "10m"})
    lines, begin = "", time.monotonic()
    while "timer/worker/timer-report" not in lines:
        opcode, payload = talk.frame()
        lines += payload.decode()
        assert opcode == 1 and time.monotonic() < begin + 90, lines
    assert re.search(r"^\S+Z service/worker/\S+ tick R", lines, re.M), lines[:500]
    talk.io.close()
    resource = client.resources.get("shop", "main-db")
    assert resource.status == "running" and resource.url.startswith("postgres://"), resource

    client.apps.update("shop", lock=True)
    try:
        client.apps.delete("shop")
        raise AssertionError("a locked app was deleted")
    except ConvoxConflictError:
        pass
    client.apps.update("shop", lock=False)
    client.apps.delete("shop")

    def gone():
        try:
            client.apps.get("shop")
        except ConvoxNotFoundError:
            return True

    wait("its end", gone)
    assert fetch("web.shop.localhost")[0] == 404


@check
def runs_and_files():
    """A run of its own, files in and out, a build out and in."""
    client.apps.create("tool")
    build = rack.build("tool", {"convox.yml": "services:\n  main:\n    image: boxrig/base\n    command: sleep 1000\n    termination: {grace: 0}\n"})
    client.releases.promote("tool", build["release"])
    wait("it runs", lambda: client.apps.get("tool").status == "running" and running("tool", "main"))
    run = client.processes.run("tool", "main", command="sh -c 'echo ran; exit 3'", memory=64)
    wait("its end", lambda: client.processes.get("tool", run.id).status == "failed")
    log = b"".join(rack.socket(f"/apps/tool/processes/{run.id}/logs").frames())
    assert log == b"ran\n", log
    client.processes.stop("tool", run.id)
    pid = running("tool", "main")[0].id
    tgz = source({"tmp/a.txt": "content"})
    import gzip

    status, _, text = rack.ask("POST", f"/apps/tool/processes/{pid}/files", gzip.decompress(tgz), {"Content-Type": "application/octet-stream"})
    assert status == 200, text
    assert rack.exec("tool", pid, "cat /tmp/a.txt") == ("content", 0)
    status, _, tar = rack.ask("GET", f"/apps/tool/processes/{pid}/files?file=/tmp/a.txt")
    assert status == 200 and b"content" in tar, (status, tar[:200])
    assert rack.ask("DELETE", f"/apps/tool/processes/{pid}/files?files=/tmp/a.txt")[0] == 200
    assert rack.exec("tool", pid, "cat /tmp/a.txt")[1] == 1
    assert rack.ask("GET", f"/apps/tool/processes/{pid}/files?file=/no/such")[0] == 404
    status, _, archive = rack.ask("GET", f"/apps/tool/builds/{build['id']}.tgz")
    assert status == 200, archive
    again = client.builds.import_build("tool", archive)
    assert again.status == "complete" and again.id != build["id"], again
    report = rack.json("GET", "/apps/tool/diagnose?all=true")
    assert report["summary"]["total"] >= 1 and report["overview"]["services"][0]["readyReplicas"] == 1, report
    client.services.restart("tool", "main")
    wait("another process", lambda: [p.id for p in running("tool", "main")] not in ([], [pid]))
    wait("a measurement of it", lambda: [m for m in client.apps.metrics("tool") if m.name == "processes" and any(v.max >= 1 for v in m.values)])
    client.apps.delete("tool")


def faults(*rules):
    """Puts a fault script in force, over the server's own socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.environ["INCUS_SOCKET"])
    connection.request("PUT", "/boxrig/v1/faults", json.dumps({"fault": list(rules)}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def status_of(call):
    """The status of the SDK's error, or 200."""
    try:
        call()
    except ConvoxAPIError as e:
        return e.status_code
    return 200


@check
def retries():
    """The SDK asks again on 429 and 503, as often as it is told, after what Retry-After says; never on 500 unless told so."""
    def with_retries(n, **more):
        return ConvoxClient(host=HOST, api_key=PASSWORD, retry=RetryConfig(max_retries=n, backoff_base=0.05, **more))

    client.apps.create("again")
    get = "convox.AppGet"
    try:
        for rule, retries, status in [
            ({"status": 503, "times": 2}, 2, 200),
            ({"status": 503, "times": 2}, 1, 503),
            ({"status": 429, "retry_after": 0, "times": 3}, 3, 200),
            ({"status": 429, "retry_after": 0, "times": 3}, 2, 429),
            ({"status": 502, "times": 1}, 1, 200),
            ({"status": 504, "times": 1}, 1, 200),
            ({"status": 500, "times": 1}, 3, 500),
        ]:
            faults({"action": "status", "operation": get, **rule})
            with with_retries(retries) as c:
                assert status_of(lambda: c.apps.get("again")) == status, (rule, retries)
        faults({"action": "status", "operation": get, "status": 500, "times": 1})
        with with_retries(1, retry_on_500=True) as c:
            assert status_of(lambda: c.apps.get("again")) == 200
        # The SDK repeats what changes something too.
        faults({"action": "status", "operation": "convox.AppCreate", "status": 503, "times": 1})
        with with_retries(1) as c:
            assert status_of(lambda: c.apps.create("again")) == 409
    finally:
        faults()
    client.apps.delete("again")


@check
def session_refresh():
    """A console's session that is over: challenged, begun anew by the SDK, and the request repeated."""
    with ConvoxClient(host=HOST, api_key=PASSWORD, rack="local/boxrig", session="1.over") as c:
        assert c.apps.list() is not None
        session = c._http._client.headers["Session"]
        assert session != "1.over", session
        # It holds: the same id is sent and taken.
        c.system.get()
        assert c._http._client.headers["Session"] == session
        # What makes tokens void makes sessions void too: begun anew once more.
        c.system.jwt_rotate()
        c.apps.list()
        assert c._http._client.headers["Session"] != session
    status, headers, text = rack.ask("GET", "/apps", headers={"Session": ""})
    assert (status, headers["WWW-Authenticate"], text) == (401, 'Session path="/session" token="false"', b"session expired\n")
    wrong = ConvoxClient(host=HOST, api_key="wrong", rack="local/boxrig", session="1.over")
    try:
        wrong.apps.list()
        raise AssertionError("a wrong key was let in")
    except ConvoxAuthError:
        pass
    wrong.close()


@check
def small_things():
    """Registries, certificates, configuration, tokens, resources of the rack, objects."""
    client.registries.add("registry.example/x", "user", "secret")
    assert [r.server for r in client.registries.list()] == ["registry.example/x"]
    client.registries.remove("registry.example/x")
    made = client.certificates.generate(["a.example", "b.example"])
    assert made.domain == "a.example", made
    client.certificates.renew(made.id)
    client.certificates.delete(made.id)
    assert made.id not in [c.id for c in client.certificates.list()]
    client.apps.create("small")
    client.apps.config_set("small", "nginx", base64.b64encode(b"conf").decode())
    assert client.apps.config_get("small", "nginx").value == "conf"
    token = client.system.jwt_token(role="read", duration_in_hour="1")
    read = base64.b64encode(f"jwt:{token.token}".encode()).decode()
    reader = {"Authorization": f"Basic {read}"}
    assert rack.ask("GET", "/apps", headers=reader)[0] == 200
    assert rack.ask("POST", "/apps", {"name": "no"}, reader)[0] == 401
    client.system.jwt_rotate()
    assert rack.ask("GET", "/apps", headers=reader)[0] == 401
    cache = client.resources.system_create("redis", name="cache")
    wait("redis", lambda: client.resources.system_get("cache").status == "running")
    client.resources.system_link("cache", "small")
    try:
        client.resources.system_delete("cache")
        raise AssertionError("a linked resource was deleted")
    except ConvoxConflictError:
        pass
    client.resources.system_unlink("cache", "small")
    client.resources.system_delete("cache")
    assert cache.name not in [r.name for r in client.resources.system_list()]
    client.apps.delete("small")


@check
def bad_input():
    """Broken sources, hostile names and archives, wrong keys: words, and nothing done."""
    client.apps.create("bad")
    for files, words in [
        ({"convox.yml": "services:\n  web:\n    port: x\n"}, "convox.yml:3"),
        ({"convox.yml": "services:\n  web: [\n"}, "convox.yml:"),
        ({"convox.yml": "services:\n  web:\n    build: .\n", "Dockerfile": "FROM boxrig/base\nRUN false\n"}, "Dockerfile:2"),
    ]:
        build = rack.build("bad", files)
        assert build["status"] == "failed" and words in build["reason"], build
    hostile = source({"../../../tmp/boxrig-escaped": "x", "convox.yml": "services:\n  web:\n    image: boxrig/base\n"})
    kept = rack.json("POST", "/apps/bad/objects/tmp/h.tgz", hostile, {"Content-Type": "application/octet-stream"})
    build = client.builds.create("bad", kept["Url"])
    wait("the build", lambda: client.builds.get("bad", build.id).status != "running")
    assert client.builds.get("bad", build.id).status == "failed"
    assert not os.path.exists("/tmp/boxrig-escaped")
    for name in ["../x", "A", "rack", "system", "a b", "a\x00b", "x" * 200, ""]:
        assert rack.ask("POST", "/apps", {"name": name})[0] == 400, name
    for key in ["../../x", "a/../../x", "%2e%2e/x", "a//b"]:
        assert rack.ask("POST", f"/apps/bad/objects/{key}", b"x")[0] in (400, 404), key
    status, headers, text = rack.ask("GET", "/system", headers={"Authorization": "Basic eDp5"})
    assert (status, headers["WWW-Authenticate"], text) == (401, 'Basic realm="convox"', b"invalid authentication\n")
    client.apps.delete("bad")


def structures():
    """The members of each structure in api/convox-structs.yaml, and which may be left out."""
    all_, name = {}, None
    for line in (API / "convox-structs.yaml").read_text().splitlines():
        if top := re.match(r"^(\w+):$", line):
            name = top[1]
            all_[name] = {}
        elif member := re.match(r'^  ([\w-]+): "?([^"]*)"?$', line):
            all_[name][member[1]] = member[2]
    return all_


def fits(value, kind, all_, where):
    """Whether a value is of the kind the table says; in words what is wrong."""
    kind = kind.removesuffix(" opt")
    if kind.endswith("?"):
        if value is None:
            return []
        kind = kind[:-1]
    if kind.startswith("["):
        return [w for n, v in enumerate(value or []) for w in fits(v, kind[1:-1], all_, f"{where}[{n}]")]
    if kind.startswith("map<"):
        return [] if value is None or isinstance(value, dict) else [f"{where}: {value!r} is no map"]
    if kind in all_:
        wrong = [f"{where}: unknown member {k}" for k in value if k not in all_[kind]]
        for member, of in all_[kind].items():
            if member in value:
                wrong += fits(value[member], of, all_, f"{where}.{member}")
            elif not (of.endswith("opt") and not of.startswith("time")):
                wrong.append(f"{where}: no {member}")
        return wrong
    types = {"str": str, "int": int, "float": (int, float), "bool": bool, "time": str}
    wanted = types.get(kind)
    if wanted is None:
        return []
    right = isinstance(value, wanted) and (kind == "bool" or not isinstance(value, bool))
    if kind == "time" and right:
        right = re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$", value) is not None
    return [] if right else [f"{where}: {value!r} is no {kind}"]


@check
def shapes_are_those_of_the_table():
    """Every JSON answer has the members of its structure, each of its type."""
    client.apps.create("form")
    text = "services:\n  web:\n    image: boxrig/base\n    command: sleep 1000\n    port: 3000\n    health: false\n    termination: {grace: 0}\n"
    build = rack.build("form", {"convox.yml": text})
    rack.promote("form", build["release"])
    wait("it runs", lambda: running("form", "web"))
    pid = running("form", "web")[0].id
    rack.json("POST", "/registries", {"server": "r", "username": "u", "password": "p"})
    made = client.certificates.generate(["a.example"])
    client.apps.config_set("form", "c", "eA==")
    client.resources.system_create("memcached", name="memory")
    all_ = structures()
    answers = {
        "/apps": "[App]", "/apps/form": "App", "/apps/form/builds": "[Build]", f"/apps/form/builds/{build['id']}": "Build",
        "/apps/form/releases": "[Release]", f"/apps/form/releases/{build['release']}": "Release",
        "/apps/form/processes": "[Process]", f"/apps/form/processes/{pid}": "Process", "/apps/form/services": "[Service]",
        "/apps/form/manifest/services/web": "ManifestService", "/apps/form/balancers": "[Balancer]",
        "/apps/form/configs": "[AppConfig]", "/apps/form/configs/c": "AppConfig", "/apps/form/diagnose?all=true": "AppDiagnosticReport",
        "/apps/form/metrics": "[Metric]", "/apps/form/services/web/metrics": "[Metric]",
        "/apps/form/metrics-by-service?services=web": "[ServiceMetricsRow]", "/apps/form/resources": "[Resource]",
        "/system": "System", "/system/capacity": "Capacity", "/system/metrics": "[Metric]", "/system/processes?all=true": "[Process]",
        "/instances": "[Instance]", "/registries": "[Registry]", "/certificates": "[Certificate]", "/resources": "[Resource]",
        "/resources/memory": "Resource", "/racks": "[ConsoleRack]", "/racks/local/boxrig": "ConsoleRack",
        "/racks/local/boxrig/host": "RackData", "/machines": "[Machine]", "/apps/form/formation": "[ProcessFormation]",
    }
    all_["ConsoleRack"]["organization"] = "any"
    all_["ConsoleRack"]["state"] = "any"
    wrong = []
    for path, kind in answers.items():
        wrong += fits(rack.json("GET", path), kind, all_, path)
    assert not wrong, "\n".join(wrong)
    wrong = fits(rack.json("OPTIONS", "/resources"), "[ResourceType]", all_, "OPTIONS /resources")
    assert not wrong, "\n".join(wrong)
    client.certificates.delete(made.id)
    client.registries.remove("r")
    client.resources.system_delete("memory")
    client.apps.delete("form")


@check
def every_route_is_answered():
    """Each route of the table is there: no empty 404 or 405, and a 501 only with the operation's name."""
    refused = 0
    rows = [line.split("\t") for line in (API / "convox-routes.tsv").read_text().splitlines()[1:] if line[:1] not in ("#", "")]
    known = {"ObjectExists"}
    for row in rows:
        group, verb, path, op = row[:4]
        if "{challenge path}" in path:
            continue
        path = re.sub(r"\{key:\.\*\}|\{server:\.\*\}|\{path:\.\*\}", "x/y", path)
        path = path.replace("/racks/{org}/{rack}", "/racks/local/boxrig")
        path = re.sub(r"\{[^}]*\}", "none", path)
        if verb == "SOCKET":
            talk = rack.socket(path, {"command": "true"})
            for name in ("Request-Id", "X-Frame-Options", "X-Content-Type-Options"):
                assert name not in talk.headers, (op, name)
            if op not in ("SystemLogs",):
                text = b"".join(talk.frames()).decode()
                assert "ERROR: " in text, (op, text)
                refused += "not implemented" in text
            continue
        status, headers, text = rack.ask("GET" if verb == "ANY" else verb, path, {} if verb in ("POST", "PUT") else None)
        assert op in known or text, f"{op}: {verb} {path} answers {status} and nothing"
        assert status != 405, op
        for name in ("Request-Id", "X-Frame-Options", "X-Content-Type-Options"):
            assert name in headers, (op, name)
        if status == 501:
            refused += 1
            assert op.split(".")[-1].encode() in text, (op, text)
    print(f"    {len(rows)} routes, {refused} of them refused by name")


def main():
    global rack, client
    patterns = sys.argv[1:]
    passed = failed = 0
    for name, function in checks:
        if patterns and not any(p in name for p in patterns):
            continue
        rack = Rack(HOST, PASSWORD, name)
        client = ConvoxClient(host=HOST, api_key=PASSWORD)
        begin = time.monotonic()
        try:
            function()
            passed += 1
            print(f"ok   {name} {time.monotonic() - begin:.1f} s", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
        client.close()
    print(f"convox_sdk.py: {passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
