"""A made-up VergeOS that answers every request with values that say where they came from.

Nothing here knows the vendor's SDK. A reply is a function of the request alone, so two clients that ask the same get the
same, and every value is unique to its table, row and column, so that a later request which repeats it shows its origin.
"""

import csv
import os
import re
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
API = os.path.join(HERE, "..", "..", "api")

# Rows of these tables have keys of 40 hexadecimal digits (reference: keys and values).
HEX_TABLES = {
    "volumes", "volume_cifs_shares", "volume_nfs_shares", "vm_service_users", "volume_syncs", "vm_recipes",
    "tenant_recipes", "catalogs", "vm_imports", "auth_source_states", "vnet_queries", "node_queries",
    "service_container_queries", "tenant_node_queries", "vsan_queries", "volume_browser",
}
# What a column must say so that a client does not wait or refuse.
STATE = {
    "*": {"is_snapshot": False, "running": True, "powerstate": True, "error": "", "progress": 100},
    "tasks": {"status": "idle", "running": False},
    "cloud_snapshots": {"status": "normal"},
    "system_diagnostics": {"status": "complete"},
    "vm_imports": {"status": "complete", "importing": False},
}
for _t in ("vnet_queries", "node_queries", "service_container_queries", "tenant_node_queries", "vsan_queries",
           "volume_browser"):
    STATE[_t] = {"status": "complete", "result": "[]"}


def load(name):
    with open(os.path.join(API, name), encoding="utf-8") as f:
        return list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))


def split_top(text, sep=","):
    """Splits at the separators that are outside of brackets and quotes."""
    out, depth, start, quote = [], 0, 0, False
    i = 0
    while i < len(text):
        c = text[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == "'":
                quote = False
        elif c == "'":
            quote = True
        elif c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif depth == 0 and text.startswith(sep, i):
            out.append(text[start:i])
            i += len(sep)
            start = i
            continue
        i += 1
    out.append(text[start:])
    return [p.strip() for p in out if p.strip()]


def alias(entry):
    m = re.search(r"\s+as\s+(\S+)\s*$", entry)
    return m.group(1) if m else entry.strip()


class Types:
    """The type of a value, by table and the name under which it lands."""

    def __init__(self):
        self.of = {}
        self.columns = {}
        for r in load("vergeos-fields.tsv"):
            kind = r["type"].split("|")[0].strip().rstrip("~").strip()
            for entry in split_top(r["wire"]):
                name = alias(entry)
                if not name or name == "(item access)":
                    continue
                self.of.setdefault((r["table"], name), kind)
                self.columns.setdefault(r["table"], []).append(name)

    def get(self, table, name):
        return self.of.get((table, name), "")


TYPES = Types()


def number(*parts):
    return 1_000_000 + zlib.crc32("/".join(map(str, parts)).encode()) % 900_000_000


def key_of(table, *parts):
    n = number("key", table, *parts)
    return f"{n:040x}" if table in HEX_TABLES else n


class World:
    """Answers requests. `forced` maps columns to values that every row has (the parent of a scoped manager)."""

    def __init__(self):
        self.forced = {}
        self.made = {}
        self.none = ()

    def value(self, table, key, name):
        if name in self.forced:
            return self.forced[name]
        for where in (table, "*"):
            if name in STATE.get(where, {}):
                return STATE[where][name]
        kind = TYPES.get(table, name)
        n = number(table, key, name)
        if kind.startswith("bool") or name.startswith(("is_", "has_")) or name == "enabled":
            return True
        if kind.startswith(("int", "datetime", "date")):
            return n
        if kind.startswith("float"):
            return float(n)
        if kind.startswith("list"):
            return []
        if kind.startswith("dict"):
            return {"k": f"v{n}"}
        if kind.startswith("str"):
            return f"v{n}"
        if "#" in name or name in ("name",) or name.endswith(("_name", "_display", "type", "status", "$display")):
            return f"v{n}"
        return n

    def row(self, table, key, fields, equal=()):
        row = {}
        names = [alias(e) for e in split_top(fields or "")]
        if not names or "all" in names or "most" in names:
            names += TYPES.columns.get(table, []) + ["name", "description"]
        for name in names:
            if name.startswith("count(") or name in ("all", "most", "summary", "dashboard"):
                continue
            row[name] = self.value(table, key, name)
        row.update({c: v for c, v in dict(equal).items() if c in row or "#" not in c})
        row["$key"] = dict(equal).get("$key", key)
        if table in HEX_TABLES:
            row["id"] = row["$key"]
        return row

    def reply(self, method, path, query, body):
        """(status, document or None)"""
        parts = path.strip("/").split("/")
        table = parts[0]
        if method == "GET":
            if len(parts) > 1:
                key = parts[1]
                key = int(key) if key.isdigit() and len(key) < 40 else key
                made = self.made.get((table, str(key)), {})
                row = self.row(table, key, query.get("fields"), {**made, "$key": key})
                return 200, [row] if table in ("update_dashboard_x",) else row
            if table in self.none and not self.made:
                return 200, []
            equal = equalities(query.get("filter", ""))
            if table in ("system", "dashboard"):
                return 200, [self.row(table, key_of(table), query.get("fields"), equal)]
            if table.endswith("_dashboard"):
                return 200, self.row(table, key_of(table), query.get("fields"), equal)
            return 200, [self.row(table, equal.get("$key", key_of(table, "|".join(sorted(set(t.strip("()") for t in split_top(query.get("filter", ""), " and ")))))),
                                  query.get("fields"), equal)]
        if method == "POST":
            key = key_of(table, "made")
            self.made[(table, str(key))] = {k: v for k, v in (body or {}).items() if not isinstance(v, (dict, list))}
            return 201, {"location": f"/v4/{table}/{key}", "dbpath": f"{table}/{key}", "$row": key, "$key": str(key)}
        return 200, None


def equalities(text):
    out = {}
    for m in re.finditer(r"([\w$#]+) eq ('(?:[^'\\]|\\.)*'|[\w.]+)", text):
        v = m.group(2)
        if v.startswith("'"):
            v = re.sub(r"\\(.)", r"\1", v[1:-1])
        elif v in ("true", "false"):
            v = v == "true"
        elif v == "null":
            v = None
        elif re.fullmatch(r"-?\d+", v):
            v = int(v)
        out.setdefault(m.group(1), v)
    return out
