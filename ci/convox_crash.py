#!/usr/bin/env python3
"""Kills a rack in the middle of promotions and looks at who serves afterwards.

    python convox_crash.py BOXRIG [--rounds N]

Each round promotes another release, ends the server by SIGKILL at a moment of its own, starts it again on the same data and asks
the app: the old release or the new one must answer, never none and never both, and the app must come to rest.
"""

import argparse
import http.client
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from convox_rack import DOCKERFILE, SERVER, Rack

MANIFEST = """
services:
  web:
    build: .
    port: 3000
    scale: {count: 2}
    termination: {grace: 3}
  side:
    build: .
    port: 3000
    termination: {grace: 3}
"""


class Server:
    """A `boxrig serve` on one data folder."""

    def __init__(self, program, folder):
        self.program, self.folder, self.child = program, folder, None

    def start(self):
        env = self.folder / "server.env"
        env.unlink(missing_ok=True)
        log = open(self.folder / "server.log", "ab")
        self.child = subprocess.Popen(
            [self.program, "serve", "--listen", "127.0.0.1:0", "--engine", "sandbox", "--data", self.folder / "data", "--env-file", env],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "HOME": str(self.folder), "BOXRIG_CONVOX_OBJECT_BYTES": "1000000"},
        )
        end = time.monotonic() + 30
        while not env.exists():
            assert self.child.poll() is None and time.monotonic() < end, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.02)
        values = dict(line.split("=", 1) for line in env.read_text().splitlines() if "=" in line)
        values = {k.removeprefix("export "): v.strip("'\"") for k, v in values.items()}
        return Rack(values["CONVOX_HOST"], values["CONVOX_PASSWORD"], "convox_crash")

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        self.child.terminate()
        self.child.wait(timeout=20)


def release_of(rack, name):
    """The release that answers at a service's host name; None when none does."""
    connection = http.client.HTTPConnection(rack.url.hostname, rack.url.port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": name})
        answer = connection.getresponse()
        words = answer.read().decode().split()
        return words[0] if answer.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("program")
    options.add_argument("--rounds", type=int, default=6)
    options = options.parse_args()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="boxrig-crash-"))
    server = Server(options.program, folder)
    rack = server.start()
    rack.json("POST", "/apps", {"name": "app"})
    status, _, text = rack.ask("POST", "/apps/app/objects/big", b"x" * 1_000_001, {"Content-Type": "application/octet-stream"})
    assert status == 413 and b"larger than 1000000 bytes" in text, (status, text)
    assert rack.json("GET", "/apps/app/objects") == [] and not list((folder / "data/convox/objects").iterdir())
    build = rack.build("app", {"convox.yml": MANIFEST, "Dockerfile": DOCKERFILE, "server.py": SERVER})
    assert build["status"] == "complete", build
    begin = time.monotonic()
    assert rack.promote("app", build["release"])["release"] == build["release"]
    took = time.monotonic() - begin
    print(f"a promotion takes {took:.1f} s")
    active, killed = build["release"], {"old": 0, "new": 0}
    for n in range(options.rounds):
        new = rack.json("POST", "/apps/app/releases", {"env": f"ROUND={n}"})["id"]
        rack.ask("POST", f"/apps/app/releases/{new}/promote", {})
        delay = moments.uniform(0, took * 1.2)
        time.sleep(delay)
        server.kill()
        rack = server.start()
        # What was recorded when it ended decides; until the promotion goes on, that is what answers.
        served = {name: release_of(rack, f"{name}.app.localhost") for name in ("web", "side")}
        assert None not in served.values(), f"round {n}: nobody serves: {served}"
        first = rack.json("GET", "/apps/app")["release"]
        assert first in (active, new), (first, active, new)
        assert set(served.values()) <= {active, new}, (served, active, new)
        killed["new" if served["web"] == new else "old"] += 1
        # From now on to its end: answers change once, from old to new.
        seen, end = [], time.monotonic() + 90
        while (app := rack.json("GET", "/apps/app"))["status"] != "running":
            seen.append(release_of(rack, "web.app.localhost"))
            assert time.monotonic() < end, app
            time.sleep(0.02)
        changes = [r for i, r in enumerate(seen) if i == 0 or r != seen[i - 1]]
        assert changes in ([], [active], [new], [active, new]), changes
        assert app["release"] == new, (app, new)
        answers = {release_of(rack, f"{name}.app.localhost") for name in ("web", "side") for _ in range(8)}
        assert answers == {new}, f"round {n}: {answers}, not {new} alone"
        processes = [p for p in rack.json("GET", "/apps/app/processes") if p["status"] == "running"]
        assert {p["release"] for p in processes} == {new} and len(processes) == 3, processes
        active = new
        print(f"round {n}: killed after {delay:.2f} s, {served['web'] == new and 'new' or 'old'} served", flush=True)
    rack.ask("DELETE", "/apps/app")
    end = time.monotonic() + 60
    while rack.ask("GET", "/apps/app")[0] != 404:
        assert time.monotonic() < end
        time.sleep(0.1)
    server.stop()
    subprocess.run(["rm", "-rf", folder], check=False)
    print(f"convox_crash.py: {options.rounds} passed, 0 failed (after the kill {killed['old']} times the old release served, {killed['new']} times the new)")


if __name__ == "__main__":
    sys.exit(main())
