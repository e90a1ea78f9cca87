"""What the vendor's SDK computes from a row beside what our getters compute from the same row (api/vergeos-computed.tsv)."""

import datetime
import inspect
import json

import sdk
import world as w

# Values that a column is given so that each way of a computation is taken; beside them every column has its made-up value.
TRIED = {
    "key_in": ["vms/39", "users/7", "/v4/users/7", "tenants/3", "nothing"], "kind_of": ["vms/39", "nothing"],
    "label_of_kind": ["vms/39", "/v4/groups/2"], "before": ["10.1.2.0/24", "10.1.2.3"], "after": ["10.1.2.0/24", "10.1.2.3"],
    "prefix": ["10.1.2.0/24"], "addresses": ["10.1.2.0/24"], "headers": ["A: b\nC: d:e\n"], "words": ["a, b", "a\nb", ""],
    "zero": [0, 5], "never": [0, 5], "positive": [0, 5], "at_least": [94, 95], "text_of_time": [0, 3600, 86400, 90000],
    "text_of_speed": [0, 100, 25000], "text_of_mtu": [0, 1500], "text_of_size": [0, 900, 1536, 5 << 30],
    "text_of_rate": [0, 999, 25_000_000_000], "count": [5, {"$count": 7}, {"instances_total": 8}], "scaled": [0, 5 << 30, 150],
    "title": ["error"], "upper": ["ecdsa"], "either": ["word", ""], "filled": ["words", ""], "number": [2048, "2048"],
    "past": [1, 4_000_000_000, None], "future": [1, 4_000_000_000], "within": [1], "older": [1],
    "inside": [{"name": "switch", "PortID": "p1"}, {"ChassisID": "c", "id": "p2"}], "member": [{"rops": 5, "writes": 6}],
    "when_list": ["list", "text"], "time": [0, 1_700_000_000], "time_us": [0, 1_700_000_000_000_000],
}


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return list(value)
    return value


def same(a, b):
    if isinstance(a, bool) or isinstance(b, bool):
        return bool(a) == bool(b) if b is None or isinstance(b, bool) else False
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        # The SDK rounds to one or two places.
        return abs(a - b) <= 0.051
    return a == b or (a in (None, "", [], {}, 0) and b in (None, "", [], {}, 0))


def variants(entry):
    how, columns, words = entry["how"], entry["from"].split(" "), entry["with"]
    if how in ("is", "is_not"):
        return [{columns[0]: word} for word in words.split(",")]
    if how in ("any", "any_flag"):
        flag = {columns[0]: False} if how == "any_flag" else {}
        return [{**flag, columns[-1]: word} for word in [*words.split(","), "other"]]
    if how.startswith("label") and how != "label_of_kind":
        return [{columns[0]: pair.split("=")[0]} for pair in words.split("|")]
    return [{columns[0]: value} for value in TRIED.get(how, [])]


def compare(ask, differ):
    """Asks for each class and row; `differ` is told what is not the same. Gives the number of comparisons."""
    entries = {}
    for r in w.load("vergeos-computed.tsv"):
        entries.setdefault(r["resource"], []).append(r)
    count, failed, compared = 0, set(), set()
    for cls, computed in sorted(entries.items()):
        kind = sdk.CLASSES.get(cls)
        if kind is None or not hasattr(kind, computed[0]["property"]):
            continue
        table = sdk.TABLE_OF_ROW.get(cls, "")
        key = w.key_of(table, "row", cls)
        base = w.World().row(table, key, "all")
        for entry in computed:
            for column in entry["from"].split(" "):
                base.setdefault(column, w.World().value(table, key, column))
        for entry in computed:
            for change in [*([] if entry["how"] == "headers" else [{}]), *variants(entry)]:
                row = {**base, **change}
                try:
                    made = kind(dict(row), None) if takes_manager(kind) else kind(dict(row))
                    theirs = plain(getattr(made, entry["property"]))
                except (AttributeError, TypeError, ValueError):
                    # A made-up value that is not of the type that the SDK expects.
                    failed.add(f"{cls}.{entry['property']}")
                    continue
                compared.add(f"{cls}.{entry['property']}")
                ours = (ask({"class": cls, "row": row}) or {}).get(entry["property"])
                count += 1
                if not same(theirs, ours):
                    differ(f"{cls}.{entry['property']}", {c: row.get(c) for c in entry["from"].split(" ")}, theirs, ours)
    for name in sorted(failed - compared):
        differ(name, {}, "the SDK fails on every row that was tried", None)
    return count


def takes_manager(kind):
    return len(inspect.signature(kind.__init__).parameters) > 2


if __name__ == "__main__":
    import os
    import subprocess
    import sys

    # Nothing is asked of it.
    env = {**os.environ, "VERGE_HOST": "nowhere", "VERGE_TOKEN": "none"}
    program = subprocess.Popen([sys.argv[1]], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(line):
        program.stdin.write(json.dumps(line) + "\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline())["ok"]

    print(compare(ask, lambda *d: print(*d)))
