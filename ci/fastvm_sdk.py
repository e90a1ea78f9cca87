#!/usr/bin/env python3
"""What people do with the vendor's Python SDK, done against a boxrig server.

Uses the SDK as it is published; nothing of it is patched. Reads FASTVM_BASE_URL and
FASTVM_API_KEY (`boxrig env`). Prints a line per check and, last, `N passed, N failed`.

    python fastvm_sdk.py [--no-exec] [PATTERN...]

`--no-exec` leaves out the checks that run commands (for `--engine memory`). The suite
`tests/lib/live` of the SDK covers the happy path; this script covers what it leaves out:
lifetimes, filters, streams, limits, errors, refusals, the console.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import pathlib
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile

import httpx
import websockets.asyncio.client
from fastvm import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    Fastvm,
    FastvmClient,
    NotFoundError,
    RateLimitError,
)

BASE = os.environ["FASTVM_BASE_URL"].rstrip("/")
KEY = os.environ["FASTVM_API_KEY"]
checks = []
# Made anew for each check by `clients`.
client = plain = marks = None


def clients(check_name):
    """The SDK's two clients; a test server notes which check asked for what."""
    global client, plain, marks
    marks = {"X-Boxrig-Test": check_name}
    # A check must see the first answer: the SDK would resend what it takes for transient.
    options = {"base_url": BASE, "api_key": KEY, "max_retries": 0, "default_headers": marks}
    client, plain = FastvmClient(**options), Fastvm(**options)


def check(function=None, *, execs=False):
    """Registers a check; `execs` marks those that run a command in a machine."""

    def register(f):
        checks.append((f.__name__, f, execs))
        return f

    return register(function) if function else register


@contextlib.contextmanager
def machine(**options):
    """A machine that is gone afterwards."""
    options.setdefault("machine_type", "c1m2")
    if "snapshot_id" in options:
        del options["machine_type"]
    vm = client.vms.launch(**options)
    try:
        yield vm
    finally:
        with contextlib.suppress(NotFoundError):
            client.vms.delete(vm.id)


@contextlib.contextmanager
def refused(kind, status=None, naming=()):
    """The block must be refused with this class of error, status and words."""
    try:
        yield
    except kind as error:
        body = json.dumps(error.body)
        assert status is None or error.status_code == status, f"{error.status_code}, wanted {status}: {body}"
        assert isinstance(error.body, dict) and isinstance(error.body.get("error"), str), f"no error text: {body}"
        for word in (naming,) if isinstance(naming, str) else naming:
            assert word.lower() in body.lower(), f"{word!r} is not named in {body}"
    else:
        raise AssertionError(f"accepted, wanted {kind.__name__} {status or ''}")


def eventually(what, seconds, test):
    """Waits until the test is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if test():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


def api(method, path, body=None, **headers):
    """A request past the SDK, for what its types cannot say."""
    headers = {"X-API-Key": KEY, **marks, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx.request(method, BASE + path, json=body, headers=headers, timeout=60)


# Life of a machine


@check
def health_needs_no_key():
    answer = httpx.get(BASE + "/healthz", headers=marks)
    assert answer.status_code == 200 and answer.json() == {"status": "ok"}, answer.text


@check
def launch_answers_a_running_machine():
    raw = plain.vms.with_raw_response.launch(machine_type="c2m4", name="  two   words ")
    vm = raw.parse()
    try:
        assert raw.http_response.status_code == 201, raw.http_response.status_code
        assert vm.status == "running" and vm.name == "two words", vm
        assert (vm.cpu, vm.memory_mi_b) == (2, 4096), vm
        assert vm.created_at.tzinfo is not None and vm.disk_gi_b > 0 and vm.org_id
    finally:
        gone = client.vms.delete(vm.id)
    assert gone.id == vm.id and gone.deleted is True
    with refused(NotFoundError, 404):
        client.vms.delete(vm.id)


@check
def launch_without_wait_then_wait():
    vm = client.vms.launch(machine_type="c1m2", wait=False)
    try:
        assert client.wait_for_vm_ready(vm.id, timeout=60).status == "running"
        assert vm.name == f"vm-{vm.id[:8]}", vm.name
        assert api("GET", f"/v1/vms/{vm.id}?wait=running&timeout=5").json()["status"] == "running"
    finally:
        client.vms.delete(vm.id)


@check
def names_are_cut_to_64_runes():
    with machine(name="ü" * 80) as vm:
        assert vm.name == "ü" * 64, vm.name


@check
def list_filters():
    mark = f"m{time.time_ns()}"
    with machine(metadata={"team": mark, "tier": "a"}) as one, machine(metadata={"team": mark, "tier": "b"}) as two:

        def ids(**query):
            return {vm.id for vm in client.vms.list(extra_query=query)}

        assert {one.id, two.id} <= ids()
        assert ids(**{"metadata.team": mark}) == {one.id, two.id}
        assert ids(**{"metadata.team": mark, "metadata.tier": "b"}) == {two.id}
        assert ids(**{"metadata.team": "nobody"}) == set()
        client.vms.pause(one.id)
        assert one.id in {vm.id for vm in client.vms.list(status="paused")}
        assert one.id not in {vm.id for vm in client.vms.list(status="running")}
        assert client.vms.list(status="no-such-status") == []


@check
def rename_and_metadata():
    with machine(name="before", metadata={"a": "1"}) as vm:
        assert client.vms.update(vm.id, name="after").name == "after"
        seen = client.vms.retrieve(vm.id)
        assert seen.name == "after" and seen.metadata == {"a": "1"}, "absent metadata must be kept"
        assert client.vms.update(vm.id, metadata={"b": "2"}).metadata == {"b": "2"}
        assert not client.vms.update(vm.id, metadata={}).metadata, "an empty map clears"
        assert client.vms.retrieve(vm.id).name == "after"


@check
def pause_and_resume_are_idempotent():
    with machine() as vm:
        for _ in range(2):
            assert client.vms.pause(vm.id).status == "paused"
        assert client.vms.retrieve(vm.id).paused_at is not None
        with refused(ConflictError, 409):
            client.vms.run(vm.id, command="true")
        for _ in range(2):
            client.vms.resume(vm.id)
            assert client.wait_for_vm_ready(vm.id).status == "running"
        assert client.vms.retrieve(vm.id).paused_at is None


@check(execs=True)
def pause_stops_processes():
    with machine() as vm:
        client.vms.run(vm.id, command="(while :; do date +%s%N > /root/t; mv /root/t /root/tick; sleep 0.02; done) >/dev/null 2>&1 &")
        first = client.vms.run(vm.id, command="cat /root/tick").stdout
        eventually("the process ticks", 5, lambda: client.vms.run(vm.id, command="cat /root/tick").stdout != first)
        client.vms.pause(vm.id)
        paused_for = 1.0
        time.sleep(paused_for)
        client.vms.resume(vm.id)
        ticks = client.vms.run(
            vm.id, command="a=$(cat /root/tick); sleep 0.2; b=$(cat /root/tick); [ $a != $b ] && echo alive"
        )
        assert "alive" in ticks.stdout, ticks


@check(execs=True)
def environment_of_a_machine():
    with machine(env_vars={"GREETING": "hé llo", "EMPTY": ""}) as vm:
        assert vm.env_vars == {"GREETING": "hé llo", "EMPTY": ""}, vm.env_vars
        out = client.vms.run(vm.id, command='printf "%s|%s" "$GREETING" "${EMPTY-unset}"')
        assert out.stdout == "hé llo|", out


# Time to live


@check
def ttl_freezes_while_paused():
    with machine(ttl={"seconds": 3600, "action": "pause"}) as vm:
        now = time.time() * 1000
        assert vm.ttl and vm.ttl.seconds == 3600 and vm.ttl.action == "pause"
        assert now + 3_590_000 < vm.expires_at_ms < now + 3_610_000 and vm.ttl_remaining_ms is None
        paused = client.vms.pause(vm.id)
        assert paused.expires_at_ms is None and 3_590_000 < paused.ttl_remaining_ms <= 3_600_000, paused
        assert client.vms.refresh_ttl(vm.id).ttl_remaining_ms == 3_600_000
        client.vms.resume(vm.id)
        resumed = client.wait_for_vm_ready(vm.id)
        assert resumed.expires_at_ms > now and resumed.ttl_remaining_ms is None, resumed
        time.sleep(0.05)
        assert client.vms.refresh_ttl(vm.id).expires_at_ms > resumed.expires_at_ms


@check
def ttl_pause_expires_and_rearms():
    with machine(ttl={"seconds": 1, "action": "pause"}) as vm:
        eventually("paused by its TTL", 10, lambda: client.vms.retrieve(vm.id).status == "paused")
        paused = client.vms.retrieve(vm.id)
        assert paused.ttl_remaining_ms == 1000, f"a full cycle is armed again: {paused.ttl_remaining_ms}"


@check
def ttl_delete_expires():
    with machine(ttl={"seconds": 1, "action": "delete"}) as vm:

        def gone():
            try:
                return client.vms.retrieve(vm.id).status == "deleting"
            except NotFoundError:
                return True

        eventually("deleted by its TTL", 10, gone)


@check
def ttl_changes():
    with machine() as vm:
        with refused(ConflictError, 409):
            client.vms.refresh_ttl(vm.id)
        assert client.vms.update(vm.id, ttl={"seconds": 60, "action": "delete"}).ttl.seconds == 60
        cleared = api("PATCH", f"/v1/vms/{vm.id}", {"ttl": None})
        assert cleared.status_code == 200, cleared.text
        assert client.vms.retrieve(vm.id).ttl is None
        for seconds in (0, 31_536_001):
            with refused(BadRequestError, 400, "seconds"):
                client.vms.update(vm.id, ttl={"seconds": seconds, "action": "delete"})
        with refused(BadRequestError, 400, "action"):
            client.vms.update(vm.id, ttl={"seconds": 60, "action": "explode"})


# Commands


@check(execs=True)
def run_reports_everything():
    with machine() as vm:
        out = client.vms.run(vm.id, command="echo out; echo err >&2; exit 7")
        assert (out.exit_code, out.stdout, out.stderr) == (7, "out\n", "err\n"), out
        assert not out.timed_out and not out.stdout_truncated and out.duration_ms >= 0
        echoed = client.vms.run(vm.id, command=["cat"], stdin=base64.b64encode("ünï\n".encode()).decode())
        assert echoed.stdout == "ünï\n", echoed
        quoted = client.vms.run(vm.id, command=["printf", "%s,", "a b", "", "$HOME", "'"])
        assert quoted.stdout == "a b,,$HOME,',", quoted
        late = client.vms.run(vm.id, command="echo early; sleep 30", timeout_sec=1)
        assert late.timed_out and late.stdout == "early\n" and late.duration_ms < 10_000, late
        missing = client.vms.run(vm.id, command=["/no/such/program"])
        assert missing.exit_code != 0 and missing.stderr, missing


@check(execs=True)
def run_caps_a_stream_at_4_mib():
    with machine() as vm:
        out = client.vms.run(vm.id, command="head -c 5000000 /dev/zero | tr '\\0' x")
        assert out.exit_code == 0 and out.stdout_truncated and not out.stderr_truncated, out.exit_code
        assert len(out.stdout) == 4 * 1024 * 1024, len(out.stdout)


@check(execs=True)
def run_of_old_clients_is_one_string():
    with machine() as vm:
        answer = api("POST", f"/v1/vms/{vm.id}/exec", {"command": "echo one; echo two"})
        assert answer.status_code == 200 and answer.json()["stdout"] == "one\ntwo\n", answer.text


@check(execs=True)
def stream_has_no_cap_and_ends_in_an_exit():
    with machine() as vm:
        events = list(client.vms.stream(vm.id, command="head -c 9000000 /dev/zero; echo err >&2; exit 3"))
        assert sum(len(e.data) for e in events if e.type == "o") == 9_000_000
        assert b"".join(e.data for e in events if e.type == "e") == b"err\n"
        assert [e.type for e in events].count("x") == 1 and events[-1].type == "x"
        assert events[-1].exit_code == 3 and events[-1].timed_out is False and events[-1].duration_ms >= 0
        assert list(client.vms.stream(vm.id, command=["true"]))[-1].exit_code == 0


@check(execs=True)
def stream_comes_while_the_command_runs():
    with machine() as vm:
        start, first = time.monotonic(), None
        for event in client.vms.stream(vm.id, command="echo now; sleep 2"):
            if event.type == "o" and first is None:
                first = time.monotonic() - start
        assert first is not None and first < 1.5, f"first output after {first} s"


@check(execs=True)
def stream_tells_timeout_and_failed_start():
    with machine() as vm:
        late = list(client.vms.stream(vm.id, command="echo early; sleep 30", timeout_sec=1))
        assert late[-1].timed_out is True and late[0].data == b"early\n", late
        # A text diagnostic in `d` of the exit event would break this SDK's decoder.
        failed = list(client.vms.stream(vm.id, command=["/no/such/program"]))
        assert failed[-1].type == "x" and failed[-1].exit_code != 0, failed


@check(execs=True)
def closing_a_stream_kills_the_command():
    with machine() as vm:
        for _ in client.vms.stream(vm.id, command="echo $$ > /root/pid; echo go; exec sleep 1000"):
            break
        eventually(
            "the command is gone",
            10,
            lambda: client.vms.run(vm.id, command="kill -0 $(cat /root/pid) 2>/dev/null || echo gone").stdout
            == "gone\n",
        )


# Files


@check(execs=True)
def files_round_trip():
    with machine() as vm, tempfile.TemporaryDirectory() as folder:
        source, back = pathlib.Path(folder, "source"), pathlib.Path(folder, "back")
        content = os.urandom(5_000_000)
        source.write_bytes(content)
        client.upload(vm.id, str(source), "/root/made/up/file.bin")
        client.download(vm.id, "/root/made/up/file.bin", str(back))
        assert back.read_bytes() == content
        empty = pathlib.Path(folder, "empty")
        empty.touch()
        client.upload(vm.id, str(empty), "/root/empty")
        client.download(vm.id, "/root/empty", str(back))
        assert back.read_bytes() == b""
        try:
            client.download(vm.id, "/root/nothing", str(back))
        except FileNotFoundError:
            pass
        else:
            raise AssertionError("a missing file was downloaded")


@check(execs=True)
def directories_round_trip():
    with machine() as vm, tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder, "tree")
        (tree / "sub dir" / "ünï").mkdir(parents=True)
        (tree / "empty").mkdir()
        (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
        (tree / "run.sh").chmod(0o755)
        (tree / "sub dir" / "ünï" / "x").write_bytes(os.urandom(300_000))
        (tree / "link").symlink_to("run.sh")
        client.upload(vm.id, str(tree), "/root/tree")
        assert client.vms.run(vm.id, command=["/root/tree/run.sh"]).stdout == "ran\n"
        back = pathlib.Path(folder, "back")
        client.download(vm.id, "/root/tree", str(back))
        assert (back / "empty").is_dir() and (back / "link").readlink() == pathlib.Path("run.sh")
        inner = pathlib.Path("sub dir", "ünï", "x")
        assert (back / inner).read_bytes() == (tree / inner).read_bytes()
        assert (back / "run.sh").stat().st_mode & 0o111 == 0o111


@check(execs=True)
def presigned_urls():
    with machine() as vm:
        signed = client.vms.files.presign(vm.id, path="/root/any")
        assert signed.expires_in_sec > 0 and signed.max_upload_bytes == vm.disk_gi_b * 1024**3, signed
        put = httpx.put(signed.upload_url, content=b"staged", headers={"Content-Type": "application/octet-stream"})
        assert put.is_success, put.text
        assert httpx.get(signed.download_url).content == b"staged"
        fetched = client.vms.files.fetch(vm.id, url=signed.download_url, path="/root/fetched")
        assert fetched.exit_code == 0, fetched
        assert client.vms.run(vm.id, command="cat /root/fetched").stdout == "staged"
        with refused(BadRequestError, 400, "url"):
            client.vms.files.fetch(vm.id, url="http://127.0.0.1:1/x", path="/root/x")
        forged = httpx.get(signed.download_url + "0")
        assert forged.status_code in (401, 403, 404), forged.status_code


# Snapshots


@check
def snapshots():
    with machine(name="origin", metadata={"k": "v"}, env_vars={"SNAP": "shot"}) as vm:
        snapshot = client.snapshots.create(vm_id=vm.id)
        try:
            assert snapshot.name == f"snapshot-{vm.id[:8]}" and snapshot.vm_id == vm.id, snapshot
            eventually("ready", 60, lambda: client.snapshots.retrieve(snapshot.id).status == "ready")
            assert snapshot.id in {s.id for s in client.snapshots.list()}
            assert client.snapshots.update(snapshot.id, name="renamed").name == "renamed"
            seen = client.snapshots.retrieve(snapshot.id)
            assert (seen.metadata, seen.env_vars) == ({"k": "v"}, {"SNAP": "shot"}), seen
            with machine(snapshot_id=snapshot.id) as copy:
                assert (copy.metadata, copy.env_vars) == ({"k": "v"}, {"SNAP": "shot"}), copy
                assert copy.id != vm.id and copy.source_name == "renamed", copy
        finally:
            gone = client.snapshots.delete(snapshot.id)
        assert gone.deleted is True
        with refused(NotFoundError, 404):
            client.snapshots.retrieve(snapshot.id)
        with refused(NotFoundError, 404):
            client.vms.launch(snapshot_id=snapshot.id)
        with refused(NotFoundError, 404):
            client.snapshots.create(vm_id="no-such-machine")


@check
def snapshots_of_one_pause_are_one():
    with machine() as vm:
        client.vms.pause(vm.id)
        first, second = client.snapshots.create(vm_id=vm.id), client.snapshots.create(vm_id=vm.id)
        assert first.id == second.id, (first.id, second.id)
        client.vms.resume(vm.id)
        client.wait_for_vm_ready(vm.id)
        third = client.snapshots.create(vm_id=vm.id)
        assert third.id != first.id
        for snapshot in (first, third):
            client.snapshots.delete(snapshot.id)


@check(execs=True)
def restore_is_a_copy():
    with machine() as vm:
        client.vms.run(vm.id, command="echo before > /root/state; mkdir /root/d; ln -s state /root/l; chmod 600 /root/state")
        snapshot = client.snapshots.create(vm_id=vm.id)
        try:
            eventually("ready", 60, lambda: client.snapshots.retrieve(snapshot.id).status == "ready")
            client.vms.run(vm.id, command="echo after > /root/state")
            with machine(snapshot_id=snapshot.id) as one, machine(snapshot_id=snapshot.id) as two:
                out = client.vms.run(one.id, command="cat /root/l; stat -c %a /root/state; echo mine > /root/state")
                assert out.stdout == "before\n600\n", out
                assert client.vms.run(two.id, command="cat /root/state").stdout == "before\n"
            assert client.vms.run(vm.id, command="cat /root/state").stdout == "after\n"
        finally:
            client.snapshots.delete(snapshot.id)


# Quotas


@check
def quotas_follow_use():
    def use():
        quota = client.quotas.retrieve()
        assert quota.limits.vcpu >= quota.usage.vcpu and quota.org_id
        return quota.usage.vcpu, quota.usage.memory_mi_b

    before = use()
    with machine(machine_type="c2m4") as vm:
        assert use() == (before[0] + 2, before[1] + 4096)
        client.vms.pause(vm.id)
        assert use() == before, "a paused machine uses none"
    assert use() == before


@check
def a_full_quota_is_429():
    # Large machines until the limit on memory or cpu is met; each one is only a number to the quota.
    limits = client.quotas.retrieve().limits
    cpu, gib = max(1, limits.vcpu // 2 + 1), max(1, limits.memory_mi_b // 2048 + 1)
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(3):
                stack.enter_context(machine(machine_type=f"c{cpu}m{gib}"))
        except RateLimitError as error:
            assert error.body["dimension"] in ("vcpu", "memory_mib"), error.body
            return
    raise AssertionError("three machines of more than half the quota were given")


# Console


@check(execs=True)
def console():
    async def session(vm):
        token = client.vms.console_token(vm.id)
        joint = "&" if "?" in token.websocket_path else "?"
        url = BASE.replace("http", "ws", 1) + token.websocket_path + f"{joint}session={token.token}"
        async with websockets.asyncio.client.connect(url, max_size=2**20) as socket:
            await socket.send(json.dumps({"type": "resize", "cols": 91, "rows": 33}))
            seen = ""

            async def until(text):
                nonlocal seen
                while text not in seen:
                    frame = await asyncio.wait_for(socket.recv(), 20)
                    seen += frame if isinstance(frame, str) else frame.decode(errors="replace")

            await socket.send("stty size; echo do''ne\r")
            await until("done")
            assert "33 91" in seen, seen
            await socket.send(json.dumps({"type": "resize", "cols": 70, "rows": 20}))
            await socket.send("stty size; echo ag''ain\r")
            await until("again")
            assert "20 70" in seen, seen
        try:
            async with websockets.asyncio.client.connect(url):
                pass
        except websockets.exceptions.InvalidStatus as error:
            assert error.response.status_code in (401, 403, 404), error.response.status_code
        else:
            raise AssertionError("a console token worked twice")

    with machine() as vm:
        asyncio.run(session(vm))


# Refusals


@check
def what_is_not_done_says_so():
    """Until it is done, each of these is refused by name; never accepted and ignored."""
    with machine() as vm:
        for method, path, operation in (
            ("POST", "/v1/volumes", "createVolume"),
            ("POST", f"/v1/vms/{vm.id}/volumes", "attachVolume"),
            ("GET", f"/v1/vms/{vm.id}/bucket-mounts", "listBucketMounts"),
            ("GET", "/v1/me/ssh-keys", "listSshKeys"),
        ):
            answer = api(method, path, {} if method == "POST" else None)
            assert answer.status_code == 501 and operation in answer.text, answer.text


# Services


@check
def services_keep_their_names():
    with machine() as vm:
        made = client.vms.services.register(vm.id, name="web", port=8080)
        assert (made.name, made.port, made.h2c) == ("web", 8080, False), made
        client.vms.services.register(vm.id, name="web", port=8080)
        with refused(ConflictError, 409, "web"):
            client.vms.services.register(vm.id, name="web", port=8081)
        changed = client.vms.services.update("web", id=vm.id, port=9090, h2c=True)
        assert (changed.port, changed.h2c) == (9090, True), changed
        client.vms.services.update("api", id=vm.id, port=9091)
        assert [s.name for s in client.vms.services.list(vm.id)] == ["api", "web"]
        with refused(BadRequestError, 400, "port"):
            client.vms.services.register(vm.id, name="low", port=80)
        host = f"web--{vm.id.replace('-', '')}.proxy.localhost"
        assert httpx.get(BASE + "/", headers={"Host": host}).status_code == 503
        client.vms.services.delete("web", id=vm.id)
        client.vms.services.delete("web", id=vm.id)
        assert [s.name for s in client.vms.services.list(vm.id)] == ["api"]
        assert httpx.get(BASE + "/", headers={"Host": host}).status_code == 404
        for n in range(15):
            client.vms.services.update(f"s{n}", id=vm.id, port=9000 + n)
        with refused(RateLimitError, 429, "vm_service_quota_exceeded"):
            client.vms.services.register(vm.id, name="more", port=9000)


# Firewall


@check
def firewalls_in_both_forms():
    policy = {"mode": "restricted", "ingress": [{"protocol": "tcp", "portStart": 8080}]}
    with machine(firewall=policy) as vm:
        assert client.vms.retrieve(vm.id).firewall.mode == "restricted"
        shown = client.vms.set_firewall(vm.id, mode="open", ingress=[])
        assert shown.firewall.mode == "open", shown
        shown = client.vms.patch_firewall(vm.id, mode="restricted")
        assert shown.firewall.mode == "restricted", shown
        answer = api("PUT", f"/v1/vms/{vm.id}/firewall", {"egress": {"default": "deny"}})
        assert answer.status_code == 200, answer.text
        assert api("GET", f"/v1/vms/{vm.id}").json()["firewall"] == {"egress": {"default": "deny"}}
        bad = {"egress": {"rules": [{"action": "allow", "kind": "cidr", "value": "x", "protocol": "tcp", "ports": "1"}]}}
        answer = api("PUT", f"/v1/vms/{vm.id}/firewall", bad)
        assert answer.status_code == 400 and "egress.rules[0]" in answer.text, answer.text


# Builds


def built(build):
    """The build when it is over."""
    for _ in range(600):
        now = client.builds.retrieve(build.id)
        if now.status in ("completed", "failed"):
            return now
        time.sleep(0.05)
    raise AssertionError(f"the build does not end: {now}")


@check(execs=True)
def builds_of_images_and_dockerfiles():
    done = built(client.builds.create(image_ref="boxrig/base", name="of an image"))
    assert done.status == "completed" and done.name == "of an image", done
    text = "FROM boxrig/base\nENV MADE=here\nRUN echo built > /made\n"
    done = built(client.builds.create(dockerfile_content=text))
    assert done.status == "completed", done
    with machine(snapshot_id=done.snapshot_id) as vm:
        result = client.vms.run(vm.id, command="cat /made; echo $MADE")
        assert result.stdout == "built\nhere\n", result
    client.snapshots.delete(done.snapshot_id)
    failed = built(client.builds.create(image_ref="python:3.13-slim"))
    assert failed.status == "failed" and "local store" in failed.error, failed
    failed = built(client.builds.create(dockerfile_content="FROM boxrig/base\nRUN exit 7"))
    assert failed.status == "failed" and "Dockerfile:2" in failed.error, failed
    with refused(BadRequestError, 400, "imageRef"):
        client.builds.create()
    with refused(NotFoundError, 404):
        client.builds.retrieve("b1")


@check(execs=True)
def a_context_is_copied():
    place = client.build_contexts.presign()
    with tempfile.TemporaryDirectory() as folder:
        archive = pathlib.Path(folder, "context.tar.gz")
        with tarfile.open(archive, "w:gz") as tar:
            content = b"from the context"
            entry = tarfile.TarInfo("in/file")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        sent = httpx.put(place.upload_url, content=archive.read_bytes(), headers={"Content-Type": "application/gzip"})
        assert sent.status_code < 300, sent.text
    text = "FROM boxrig/base\nCOPY in /in\n"
    done = built(client.builds.create(dockerfile_content=text, context_download_url=place.download_url))
    assert done.status == "completed", done
    with machine(snapshot_id=done.snapshot_id) as vm:
        assert client.vms.run(vm.id, command="cat /in/file").stdout == "from the context"


@check(execs=True)
def imports_of_a_zip():
    place = api("POST", "/v1/snapshot-imports/context-presign", {"sizeBytes": 1000}).json()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("Dockerfile", "FROM boxrig/base\nARG WHO\nCOPY file /file\nRUN echo $WHO > /who\n")
        archive.writestr("file", "zipped")
    sent = httpx.put(place["uploadUrl"], content=packed.getvalue(), headers={"Content-Type": "application/zip"})
    assert sent.status_code < 300, sent.text
    source = {"type": "dockerfile", "contextRef": place["contextRef"], "buildArgs": {"WHO": "you"}}
    answer = api("POST", "/v1/snapshot-imports", {"source": source, "name": "zipped"})
    assert answer.status_code == 202, answer.text
    made = answer.json()
    again = api("POST", "/v1/snapshot-imports", {"source": source})
    assert again.status_code == 400 and "contextRef" in again.text, again.text
    path = f"/v1/snapshot-imports/{made['id']}"
    for _ in range(600):
        now = api("GET", path).json()
        if now["status"] in ("succeeded", "failed", "cancelled"):
            break
        time.sleep(0.05)
    assert now["status"] == "succeeded", now
    assert now["id"] in [i["id"] for i in api("GET", "/v1/snapshot-imports").json()]
    with machine(snapshot_id=now["snapshotId"]) as vm:
        assert client.vms.run(vm.id, command="cat /file /who").stdout == "zippedyou\n"
    assert api("POST", path + "/cancel", {}).status_code == 409
    assert api("DELETE", path).status_code == 200
    assert api("GET", path).status_code == 404
    with refused(NotFoundError, 404):
        client.snapshots.retrieve(now["snapshotId"])


@check(execs=True)
def an_import_is_cancelled():
    place = api("POST", "/v1/snapshot-imports/context-presign", {}).json()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("Dockerfile", "FROM boxrig/base\nRUN sleep 600\n")
    httpx.put(place["uploadUrl"], content=packed.getvalue(), headers={"Content-Type": "application/zip"})
    source = {"type": "dockerfile", "contextRef": place["contextRef"]}
    made = api("POST", "/v1/snapshot-imports", {"source": source}).json()
    path = f"/v1/snapshot-imports/{made['id']}"
    assert api("POST", path + "/cancel", {}).json()["status"] == "cancelled"
    assert api("GET", path).json()["status"] == "cancelled"
    assert api("DELETE", path).status_code == 200


@check
def a_wrong_key_is_401():
    for key in ("wrong", KEY + "x", KEY[:-1]):
        with refused(AuthenticationError, 401):
            Fastvm(base_url=BASE, api_key=key, max_retries=0).vms.list()
    assert httpx.get(BASE + "/v1/vms").status_code == 401


@check
def a_bad_field_is_400_and_named():
    for field, options in (
        ("machineType", {"machine_type": "enormous"}),
        ("machineType", {}),
        ("snapshotId", {"machine_type": "c1m2", "snapshot_id": "snp_1"}),
        ("diskGiB", {"machine_type": "c1m2", "disk_gi_b": 0}),
        ("envVars", {"machine_type": "c1m2", "env_vars": {"1A": "x"}}),
        ("envVars", {"machine_type": "c1m2", "env_vars": {"A": "two\nlines"}}),
        ("metadata", {"machine_type": "c1m2", "metadata": {"k": "v" * 4097}}),
        ("metadata", {"machine_type": "c1m2", "metadata": {str(n): "v" for n in range(257)}}),
        ("seconds", {"machine_type": "c1m2", "ttl": {"seconds": 0, "action": "pause"}}),
    ):
        with refused(BadRequestError, 400, field):
            client.vms.launch(**options)
    for body, field in (({"machineType": 5}, "machineType"), ({"machineType": "c1m2", "name": []}, "name")):
        answer = api("POST", "/v1/vms", body)
        assert answer.status_code == 400 and field in answer.text, answer.text
    broken = httpx.post(BASE + "/v1/vms", content=b'{"machineType":', headers={"X-API-Key": KEY})
    assert broken.status_code == 400, broken.text


@check
def bad_commands_are_400():
    with machine() as vm:
        with refused(BadRequestError, 400, "command"):
            client.vms.run(vm.id, command=[])
        with refused(BadRequestError, 400, "command"):
            client.vms.run(vm.id, command=["", "x"])
        with refused(BadRequestError, 400, "stdin"):
            client.vms.run(vm.id, command=["cat"], stdin="not base64!")


@check
def unknown_ids_are_404():
    for call in (
        lambda: client.vms.retrieve("nope"),
        lambda: client.vms.delete("00000000-0000-4000-8000-000000000000"),
        lambda: client.vms.update("a b/c?d", name="x"),
        lambda: client.vms.pause("nope"),
        lambda: client.vms.resume("nope"),
        lambda: client.vms.refresh_ttl("nope"),
        lambda: client.vms.run("nope", command="true"),
        lambda: client.vms.console_token("nope"),
        lambda: client.vms.files.presign("nope", path="/x"),
        lambda: client.snapshots.retrieve("nope"),
        lambda: client.snapshots.update("nope", name="x"),
        lambda: client.snapshots.delete("nope"),
    ):
        with refused(NotFoundError, 404):
            call()
    try:
        list(client.vms.stream("nope", command="true"))
    except APIStatusError as error:
        assert error.status_code == 404
    else:
        raise AssertionError("a stream from nowhere")


@check
def foreign_pages_are_refused():
    """A page in a browser must not reach the API, not even with a rebound name."""
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = httpx.get(BASE + "/v1/vms", headers={"X-API-Key": KEY, **headers})
        assert answer.status_code in (400, 403, 421), f"{headers}: {answer.status_code}"


@check
def a_launch_with_a_key_happens_once():
    headers = {"Idempotency-Key": f"k{time.time_ns()}"}
    one = client.vms.launch(machine_type="c1m2", extra_headers=headers)
    try:
        two = client.vms.launch(machine_type="c1m2", extra_headers=headers)
        assert two.id == one.id, "the same key made a second machine"
    finally:
        client.vms.delete(one.id)


def main():
    arguments = sys.argv[1:]
    no_exec = "--no-exec" in arguments
    patterns = [a for a in arguments if not a.startswith("--")]
    passed = failed = 0
    for name, function, execs in checks:
        if (no_exec and execs) or (patterns and not any(p in name for p in patterns)):
            continue
        start = time.monotonic()
        clients(name)
        try:
            function()
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(limit=4, file=sys.stdout)
        else:
            passed += 1
            print(f"ok     {name}  {time.monotonic() - start:.2f} s", flush=True)
    print(f"fastvm_sdk.py: {passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
