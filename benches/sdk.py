"""The peer's side of the measurements: the vendor's Python SDK on the same canned listener.

usage: sdk.py ORIGIN SCENARIO [ARG]   prints one JSON line, as the Rust side does
"""
import json
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from fastvm import FastvmClient

# As on the Rust side (`src/lib.rs`).
CALLS = 400
FLIGHT = 64


def cost(scenario, units, wall, cpu):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"scenario": scenario, "units": units, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}))


def main():
    origin, scenario = sys.argv[1], sys.argv[2]
    arg = sys.argv[3] if len(sys.argv) > 3 else None
    client = FastvmClient(api_key="k", base_url=origin)
    vm = "00000000-0000-4000-8000-000000000001"
    client.vms.run(vm, command=["true"])  # connected, warm
    wall, cpu = time.perf_counter(), time.process_time()
    if scenario == "exec":
        for _ in range(CALLS):
            assert client.vms.run(vm, command=["true"]).exit_code == 0
        units = CALLS
    elif scenario == "flight":
        units = CALLS * 4
        with ThreadPoolExecutor(FLIGHT) as pool:
            for result in pool.map(lambda _: client.vms.run(vm, command=["true"]), range(units)):
                assert result.exit_code == 0
    elif scenario == "stream":
        units = 0
        for event in client.vms.stream(vm, command="stream-scenario"):
            if event.type == "o":
                units += len(event.data)
    elif scenario in ("download", "download-sha256"):
        client.download(vm, "/object", arg)
        units = os.path.getsize(arg)
    elif scenario == "upload-dir":
        client.upload(vm, arg, "/root/tree")
        units = 1
    else:
        raise SystemExit(f"unknown scenario {scenario}")
    cost(scenario, units, time.perf_counter() - wall, time.process_time() - cpu)


main()
