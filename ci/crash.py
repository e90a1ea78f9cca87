#!/usr/bin/env python3
"""kill -9 of the server while it launches, snapshots, uploads and deletes.

    crash.py PROGRAM [--rounds 200] [--inside 100] [--seed N] [--engine sandbox]
    crash.py PROGRAM --expect-loss

Each round starts the server on the same data, lets clients work, ends the server without
warning (at a random moment, or inside a state write by `BOXRIG_CRASH_AT`), starts it again
and compares what it says with what was acknowledged:

* nothing acknowledged is lost: machines, file contents, snapshots, deletions;
* nothing half-made is visible: what was under way is wholly there or not at all;
* the server answers again within two seconds;
* machines that ran still answer exec.

`--expect-loss` switches the commit off (`BOXRIG_FAULT_NO_COMMIT=1`) and succeeds only if the
comparison then finds a loss: the proof that the test can fail. Standard library only.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

KEY = "crash-test-key"
WORKERS = 3
MACHINES = 6  # at most; more would only slow the comparison
# Where the server can be made to end inside a write (crates/server/src/faults.rs).
POINTS = [
    ("state.begin", 12),
    ("state.write", 60),
    ("state.sync", 12),
    ("state.before_commit", 12),
    ("state.after_commit", 12),
    ("engine.create", 3),
    ("engine.snapshot", 2),
    ("upload.chunk", 4),
    ("delete.engine", 2),
    ("delete.state", 2),
]
RECOVERY = 2.0


class Down(Exception):
    """The server went away before it answered."""


class Loss(Exception):
    """The server says something else than it acknowledged."""


class Server:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.process = self.host = self.port = None

    def start(self, **environment):
        """Starts and gives the seconds until the first answered request."""
        file = os.path.join(self.folder, "env")
        if os.path.exists(file):
            os.unlink(file)
        command = [self.options.program, "serve", "--listen", "127.0.0.1:0", "--engine", self.options.engine]
        command += ["--data", os.path.join(self.folder, "data"), "--env-file", file]
        log = open(os.path.join(self.folder, "log"), "ab")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "BOXRIG_SERVE_API_KEY": KEY, **environment},
        )
        log.close()
        while not os.path.exists(file):
            if self.process.poll() is not None:
                raise Loss(f"the server does not start again: {self.process.returncode}\n{self.tail()}")
            if time.monotonic() - begin > 30:
                raise Loss(f"the server does not become ready\n{self.tail()}")
            time.sleep(0.002)
        with open(file) as lines:
            base = next(line for line in lines if line.startswith("FASTVM_BASE_URL="))
        url = urllib.parse.urlsplit(base.split("=", 1)[1].strip().strip("'\""))
        self.host, self.port = url.hostname, url.port
        self.call("GET", "/v1/vms")
        return time.monotonic() - begin

    def tail(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return "".join(log.readlines()[-15:])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def call(self, method, path, body=None, raw=False, want=None):
        """A request; `Down` when no whole answer came."""
        headers = {"X-API-Key": KEY}
        if raw:
            headers, data = {"Content-Type": "application/octet-stream"}, body
        else:
            data = None if body is None else json.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise Down from error
        if status >= 500:
            # A server that is going away may say so; then nothing was acknowledged.
            raise Down(f"{method} {path}: {status} {text[:200]}")
        if want is not None and status not in want:
            raise Loss(f"{method} {path}: {status} {text[:300]!r}")
        return status, (text if raw or not text else json.loads(text))

    def run(self, vm, command):
        _, out = self.call("POST", f"/v1/vms/{vm}/exec", {"command": ["sh", "-c", command], "timeoutSec": 30}, want=(200,))
        if out["exitCode"] != 0:
            raise Loss(f"machine {vm}: {command!r} gave {out}")
        return out["stdout"]


class Model:
    """What was acknowledged, and what was under way when the server ended."""

    def __init__(self):
        self.lock = threading.Lock()
        self.machines = {}  # id -> {path: sha256}
        self.snapshots = {}  # id -> {path: sha256} at the time
        self.gone = set()
        self.open = {}  # operation number -> what was under way
        self.busy = set()  # machines that an operation holds
        self.counter = 0
        self.done = {}

    def begin(self, **what):
        with self.lock:
            self.counter += 1
            self.open[self.counter] = what
            return self.counter

    def end(self, number):
        with self.lock:
            kind = self.open.pop(number)["kind"]
            self.done[kind] = self.done.get(kind, 0) + 1


class Worker(threading.Thread):
    """Works until the server goes away or it is told to stop."""

    def __init__(self, server, model, seed, stop):
        super().__init__(daemon=True)
        self.server, self.model, self.stop = server, model, stop
        self.random = random.Random(seed)
        self.error = None

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except Down:
            pass
        except Exception as error:  # shown by the main thread
            self.error = error

    def take(self):
        """A machine for this worker alone, or None."""
        with self.model.lock:
            free = [m for m in self.model.machines if m not in self.model.busy]
            if not free:
                return None
            choice = self.random.choice(free)
            self.model.busy.add(choice)
            return choice

    def step(self):
        model = self.model
        with model.lock:
            few = len(model.machines) < 2
            full = len(model.machines) + sum(o["kind"] == "launch" for o in model.open.values()) >= MACHINES
        kind = "launch" if few else self.random.choice(["launch", "upload", "upload", "snapshot", "delete"])
        if kind == "launch" and full:
            kind = "delete"
        if kind == "launch":
            return self.launch()
        vm = self.take()
        if vm is None:
            return time.sleep(0.001)
        try:
            getattr(self, kind)(vm)
        finally:
            with model.lock:
                model.busy.discard(vm)

    def launch(self):
        name = f"crash-{self.random.getrandbits(64):x}"
        number = self.model.begin(kind="launch", name=name)
        _, vm = self.server.call("POST", "/v1/vms", {"machineType": "c1m2", "name": name}, want=(201, 202))
        with self.model.lock:
            self.model.machines[vm["id"]] = {}
        self.model.end(number)

    def upload(self, vm):
        content = self.random.randbytes(self.random.choice([0, 100, 70_000, 400_000]))
        digest = hashlib.sha256(content).hexdigest()
        path = f"/root/file{self.random.randrange(3)}"
        number = self.model.begin(kind="upload", vm=vm, path=path, digest=digest)
        _, signed = self.server.call("POST", f"/v1/vms/{vm}/files/presign", {"path": path}, want=(200,))
        put = urllib.parse.urlsplit(signed["uploadUrl"])
        self.server.call("PUT", f"{put.path}?{put.query}".rstrip("?"), content, raw=True, want=(200, 201, 204))
        body = {"url": signed["downloadUrl"], "path": path, "timeoutSec": 30}
        _, out = self.server.call("POST", f"/v1/vms/{vm}/files/fetch", body, want=(200,))
        if out["exitCode"] != 0:
            raise Loss(f"fetch into {vm}: {out}")
        with self.model.lock:
            self.model.machines[vm][path] = digest
        self.model.end(number)

    def snapshot(self, vm):
        name = f"crash-{self.random.getrandbits(64):x}"
        with self.model.lock:
            files = dict(self.model.machines[vm])
            oldest = next(iter(self.model.snapshots), None) if len(self.model.snapshots) >= 4 else None
        if oldest is not None:
            number = self.model.begin(kind="forget", snapshot=oldest)
            self.server.call("DELETE", f"/v1/snapshots/{oldest}", want=(200, 404))
            with self.model.lock:
                self.model.snapshots.pop(oldest, None)
            self.model.end(number)
        number = self.model.begin(kind="snapshot", name=name, files=files)
        _, made = self.server.call("POST", "/v1/snapshots", {"vmId": vm, "name": name}, want=(201,))
        with self.model.lock:
            self.model.snapshots[made["id"]] = files
        self.model.end(number)

    def delete(self, vm):
        number = self.model.begin(kind="delete", vm=vm)
        self.server.call("DELETE", f"/v1/vms/{vm}", want=(200,))
        with self.model.lock:
            self.model.machines.pop(vm)
            self.model.gone.add(vm)
        self.model.end(number)


def contents(server, vm):
    """The files of a machine with their hashes; proves that exec still works."""
    out = server.run(vm, "cd /root && for f in file?; do [ -e $f ] && sha256sum $f; done; echo end")
    lines = [line.split() for line in out.splitlines()]
    if lines[-1] != ["end"]:
        raise Loss(f"machine {vm}: the list of files ends early: {out!r}")
    return {f"/root/{name}": digest for digest, name in lines[:-1]}


def compare(server, model, deep):
    """Compares the server with the model and brings the model up to what is true."""
    under_way = list(model.open.values())
    _, listed = server.call("GET", "/v1/vms", want=(200,))
    listed = {vm["id"]: vm for vm in listed if vm["status"] != "deleting"}
    launching = {o["name"] for o in under_way if o["kind"] == "launch"}
    deleting = {o["vm"] for o in under_way if o["kind"] == "delete"}
    for vm in list(model.machines):
        if vm in listed:
            continue
        if vm not in deleting:
            raise Loss(f"machine {vm} was acknowledged and is not there")
        del model.machines[vm]
        model.gone.add(vm)
    for vm, seen in listed.items():
        if vm in model.gone:
            raise Loss(f"machine {vm} was deleted and is there again")
        if vm not in model.machines:
            if seen["name"] not in launching:
                raise Loss(f"machine {vm} ({seen['name']}) was never asked for")
            model.machines[vm] = {}
        if seen["status"] != "running":
            raise Loss(f"machine {vm} is {seen['status']} after the restart")
        files, wanted = contents(server, vm), model.machines[vm]
        for o in under_way:
            # A file under way is the old one or the whole new one.
            if o["kind"] == "upload" and o["vm"] == vm and files.get(o["path"]) == o["digest"]:
                wanted[o["path"]] = o["digest"]
        if files != wanted:
            raise Loss(f"machine {vm} holds {files}, acknowledged was {wanted}")
    _, snapshots = server.call("GET", "/v1/snapshots", want=(200,))
    snapshots = {s["id"]: s for s in snapshots}
    making = {o["name"]: o["files"] for o in under_way if o["kind"] == "snapshot"}
    forgetting = {o["snapshot"] for o in under_way if o["kind"] == "forget"}
    for snapshot in list(model.snapshots):
        if snapshot not in snapshots:
            if snapshot not in forgetting:
                raise Loss(f"snapshot {snapshot} was acknowledged and is not there")
            del model.snapshots[snapshot]
    for snapshot, seen in snapshots.items():
        if snapshot not in model.snapshots:
            if seen["name"] not in making:
                raise Loss(f"snapshot {snapshot} ({seen['name']}) was never asked for")
            model.snapshots[snapshot] = making[seen["name"]]
        if seen["status"] != "ready":
            raise Loss(f"snapshot {snapshot} is {seen['status']} after the restart")
    if deep:
        for snapshot, files in model.snapshots.items():
            body = {"snapshotId": snapshot, "name": "crash-restored"}
            _, vm = server.call("POST", "/v1/vms", body, want=(201, 202))
            restored = contents(server, vm["id"])
            server.call("DELETE", f"/v1/vms/{vm['id']}", want=(200,))
            model.gone.add(vm["id"])
            if restored != files:
                raise Loss(f"snapshot {snapshot} gives {restored}, acknowledged was {files}")
    model.open.clear()
    model.busy.clear()


def a_round(server, model, rng, inside, environment):
    """Starts, works, kills. Tells whether the server ended inside a write."""
    crash = {}
    if inside:
        point, most = rng.choice(POINTS)
        crash["BOXRIG_CRASH_AT"] = f"{point}:{rng.randint(1, most)}"
    server.start(**environment, **crash)
    stop = threading.Event()
    workers = [Worker(server, model, rng.random(), stop) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    hit = False
    if inside:
        try:
            server.process.wait(timeout=10)
            hit = server.process.returncode in (-signal.SIGKILL, -signal.SIGABRT)
        except subprocess.TimeoutExpired:
            pass
    else:
        time.sleep(rng.uniform(0.005, 0.5))
    server.kill()
    stop.set()
    for worker in workers:
        worker.join(timeout=90)
        if worker.is_alive():
            raise Loss("a request did not end although the server did")
        if worker.error:
            raise worker.error
    if inside and not hit:
        print(f"note: {crash['BOXRIG_CRASH_AT']} was not reached", flush=True)
    return hit


def clear(server):
    """Leaves no machine running, whatever happened."""
    try:
        if server.process.poll() is None:
            server.kill()
        server.start()
        for vm in server.call("GET", "/v1/vms")[1]:
            server.call("DELETE", f"/v1/vms/{vm['id']}")
        server.process.terminate()
        server.process.wait(timeout=10)
    except (Loss, Down, subprocess.TimeoutExpired) as error:
        print(f"clearing up: {error}")
        server.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--inside", type=int, default=100, help="at least so many rounds end inside a write")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--engine", default="sandbox")
    parser.add_argument("--expect-loss", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"crash.py: seed {options.seed}", flush=True)
    environment = {"BOXRIG_FAULT_NO_COMMIT": "1"} if options.expect_loss else {}
    folder = tempfile.mkdtemp(prefix="boxrig-crash-")
    server, model = Server(options, folder), Model()
    recoveries, hits, rounds = [], 0, 0
    failure = None
    try:
        while rounds < options.rounds or hits < options.inside:
            if rounds >= 2 * options.rounds:
                raise Loss(f"only {hits} of {rounds} rounds ended inside a write")
            # Two rounds of three aim inside a write until there are enough.
            hits += a_round(server, model, rng, hits < options.inside and rounds % 3 != 2, environment)
            rounds += 1
            recoveries.append(server.start(**environment))
            if recoveries[-1] > RECOVERY:
                raise Loss(f"the server needed {recoveries[-1]:.2f} s to answer again")
            compare(server, model, deep=rounds % 10 == 0)
            server.kill()
    except (Loss, Down) as error:
        failure = error
        print(f"round {rounds}: {type(error).__name__}: {error}")
        print(server.tail())
    finally:
        clear(server)
    worst = max(recoveries, default=0)
    print(f"rounds {rounds}, inside a write {hits}, slowest recovery {worst * 1000:.0f} ms, acknowledged {model.done}")
    if options.expect_loss:
        found = isinstance(failure, Loss)
        print(f"crash.py --expect-loss: {int(found)} passed, {int(not found)} failed")
        sys.exit(0 if found else 1)
    if failure is None:
        subprocess.run(["rm", "-rf", folder], check=False)
    else:
        print(f"left for you: {folder}")
    print(f"crash.py: {rounds if failure is None else rounds - 1} passed, {int(failure is not None)} failed")
    sys.exit(1 if failure else 0)


if __name__ == "__main__":
    main()
