"""The peer's side of the VergeOS measurements: the vendor's Python SDK on the same listener.

usage: vergeos_sdk.py HOST SCENARIO [PATH]   with REQUESTS_CA_BUNDLE; prints one JSON line, as the Rust side does
"""
import json
import os
import sys
import time

from pyvergeos import VergeClient

# As on the Rust side (`src/lib.rs`).
ROWS, GETS = 10_000, 300


def memory(name):
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(name))
    return int(line.split()[1]) / 1024


host, scenario = sys.argv[1], sys.argv[2]
path = sys.argv[3] if len(sys.argv) > 3 else None
client = VergeClient(host=host, username="admin", password=os.environ.get("VERGE_PASSWORD", "p"))
if scenario == "first":
    print(client.vms.list(limit=1)[0].name)
    raise SystemExit(0)
before = memory("VmRSS")
wall, cpu = time.perf_counter(), time.process_time()
held = None
if scenario == "list":
    held = client.vms.list()
    units = len(held)
elif scenario == "gets":
    for _ in range(GETS):
        assert client.vms.get(key=1).name
    units = GETS
elif scenario == "upload":
    client.files.upload(path, name="disk.raw")
    units = os.path.getsize(path)
elif scenario == "download":
    client.files.download(key=1, destination=path, overwrite=True)
    units = os.path.getsize(path)
else:
    raise SystemExit(f"unknown scenario {scenario}")
print(json.dumps({"scenario": scenario, "units": units, "wall_s": time.perf_counter() - wall,
                  "cpu_s": time.process_time() - cpu, "peak_mib": memory("VmHWM") - before}))
if held is not None:
    assert len(held) == ROWS and held[0].name and any(vm.is_running for vm in held)
