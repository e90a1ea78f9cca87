"""The peer's side of the Convox measurements: the vendor's Python SDK on the same canned listener.

usage: convox_sdk.py ORIGIN convox-list   prints one JSON line, as the Rust side does
       convox_sdk.py ORIGIN names         prints the apps' names, a line each, as a script would
"""
import json
import resource
import sys
import time

from convox import ConvoxClient

# As on the Rust side (`src/lib.rs`).
LISTS = 40

client = ConvoxClient(host=sys.argv[1], api_key="k")
if sys.argv[2] == "names":
    for app in client.apps.list():
        print(app.name)
    raise SystemExit(0)
client.apps.list()  # connected, warm
wall, cpu = time.perf_counter(), time.process_time()
units = sum(len(client.apps.list()) for _ in range(LISTS))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"scenario": "convox-list", "units": units, "wall_s": time.perf_counter() - wall,
                  "cpu_s": time.process_time() - cpu, "peak_mib": peak}))
