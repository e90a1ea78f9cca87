"""Watches which requests each member of the vendor's SDK makes, and writes them down as data (api/vergeos-calls.json).

A member is called once with what it requires and once for every optional parameter. Every value that goes in (arguments,
columns of rows, replies) is unique, so a value in a request tells where it came from. What is written down are facts
about requests; no line of the SDK is read here.
"""

import datetime
import inspect
import itertools
import json
import os
import re
import sys
import tempfile

import sdk
import world as w
from samples import OVERRIDES, Labels, samples

GIVEN = "given"
SKIP_PARAMS = {"self", "progress_callback", "callback"}
# What stands for "any column" where a member takes whatever it is given.
ANY_COLUMN, ANY_VALUE = "zqcolumnq", "zqvalueq"


class Origins:
    def __init__(self):
        self.exact, self.parts, self.ints = {}, [], []

    def add(self, value, ref):
        if isinstance(value, bool) or value is None:
            return
        if isinstance(value, datetime.datetime):
            self.add(int(value.timestamp()), ref)
            self.add(int(value.timestamp()) * 1_000_000, ref + ["us"])
            return
        if isinstance(value, datetime.timedelta):
            self.add(int(value.total_seconds()), ref + ["secs"])
            return
        if isinstance(value, dict):
            if hasattr(value, "_manager"):
                self.add(value.get("$key"), ref)
                return
            self.exact[json.dumps(value, sort_keys=True, default=str)] = ref
            if value:
                self.exact[json.dumps(value, default=str)] = ref + ["json"]
                self.exact[json.dumps(value, sort_keys=True, default=str)] = ref + ["json"]
            if value and all(isinstance(x, str) for x in value.values()):
                self.exact["".join(f"{k}:{x}\n" for k, x in value.items())] = ref + ["headers"]
            return
        if isinstance(value, (list, tuple)):
            flat = [v.get("$key") if isinstance(v, dict) else v for v in value]
            if flat and all(isinstance(v, (str, int)) for v in flat):
                text = [str(v) for v in flat]
                self.exact.setdefault(",".join(text), ref + ["comma"] if len(text) > 1 else ref + ["comma"])
                self.exact.setdefault("\n".join(text), ref + ["lines"])
                self.exact[json.dumps(flat)] = ref
                if len(text) > 1 and all(len(t) > 5 for t in text):
                    self.parts += [(",".join(text), ref + ["comma"]), ("\n".join(text), ref + ["lines"])]
            return
        if isinstance(value, (int, float)):
            n = value
            self.exact[n] = ref
            if isinstance(n, int) or n == int(n):
                n = int(n)
                self.exact.setdefault(str(n), ref + ["text"])
                self.ints.append((n, ref))
                self.parts.append((str(n), ref))
                up = -(-n // 256) * 256
                if up != n:
                    self.exact.setdefault(up, ref + ["up256"])
                for conv, mul in (("gib", 1 << 30), ("mib", 1 << 20), ("kib", 1 << 10), ("k", 1000), ("us", 1_000_000),
                                  ("hours", 3600), ("days", 86400), ("minutes", 60)):
                    self.exact.setdefault(n * mul, ref + [conv])
                    self.exact.setdefault(str(n * mul), ref + [conv, "text"])
            return
        if isinstance(value, str) and value:
            if value.upper() != value:
                self.exact.setdefault(value.upper(), ref + ["upper"])
            self.exact.setdefault(value, ref) if len(value) < 6 else self.exact.__setitem__(value, ref)
            if len(value) >= 6:
                self.parts.append((value, ref))
                if value.isdigit():
                    self.exact.setdefault(int(value), ref + ["int"])

    def of(self, v, now):
        """The abstract form of a value."""
        if isinstance(v, bool) or v is None:
            return ["k", v]
        if isinstance(v, dict):
            whole = self.exact.get(json.dumps(v, sort_keys=True, default=str))
            if whole and v:
                return ["v", *[x for x in whole if x != "json"]]
            return ["o", {k: self.of(x, now) for k, x in v.items()}]
        if isinstance(v, (list, tuple)):
            flat = json.dumps([x.get("$key") if isinstance(x, dict) else x for x in v])
            if flat in self.exact and v:
                return ["v", *self.exact[flat]]
            return ["l", [self.of(x, now) for x in v]]
        if v in self.exact and not (isinstance(v, int) and abs(v) < 1000) and not (isinstance(v, str) and len(v) < 6):
            return ["v", *self.exact[v]]
        if isinstance(v, (int, float)):
            for n, ref in self.ints:
                for unit in (86400, 3600, 60, 1):
                    if ref[0] == "a" and abs(v - now - n * unit) < 5:
                        return ["later", ref, unit]
            if abs(v - now) < 20 * 366 * 86400:
                return ["now", int(round((v - now) / 60.0)) * 60]
            return ["k", v]
        out = self.template(v)
        stamped = stamp(v if out is None else out, now)
        if stamped:
            return ["t", stamped]
        return ["k", v] if out is None else ["t", out]

    def template(self, text):
        out, i, found = [], 0, False
        parts = sorted(self.parts, key=lambda p: -len(p[0]))
        for m in re.finditer(r"(?<![\w.])(1[78]\d{8})(?:000000)?(?![\w.])", text):
            delta = int(m.group(1)) - int(datetime.datetime.now().timestamp())
            if abs(delta) < 20 * 366 * 86400:
                ref = ["now", int(round(delta / 60.0)) * 60] + (["us"] if len(m.group(0)) > 10 else [])
                parts.insert(0, (m.group(0), ref))
        while i < len(text):
            for value, ref in parts:
                if text.startswith(value, i) and not (value.isdigit() and (text[i - 1:i].isdigit())):
                    out.append(ref)
                    i += len(value)
                    found = True
                    break
            else:
                if out and isinstance(out[-1], str):
                    out[-1] += text[i]
                else:
                    out.append(text[i])
                i += 1
        return out if found else None


def stamp(text, now):
    """A name with the time in it, in parts; None for others."""
    parts = [text] if isinstance(text, str) else list(text)
    last = parts[-1]
    if not isinstance(last, str):
        return None
    m = re.search(r"(\d{8})([-_])(\d{4}|\d{6})$", last)
    if m and m.group(1) == datetime.datetime.fromtimestamp(now).strftime("%Y%m%d"):
        form = "ymd" + m.group(2) + ("hm" if len(m.group(3)) == 4 else "hms")
        return [*parts[:-1], last[:m.start()], ["stamp", form]]
    m = re.search(r"-(\d{5})$", last)
    if m and str(parts[0]).startswith("share-"):
        return [*parts[:-1], last[:m.start() + 1], ["stamp", "seconds"]]
    return None


def enclosed(text):
    """Whether one pair of parentheses is around the whole."""
    return text.startswith("(") and text.endswith(")") and balanced(text[1:-1])


def balanced(text):
    depth, quote = 0, False
    for i, c in enumerate(text):
        if c == "'" and text[i - 1:i] != "\\":
            quote = not quote
        elif not quote:
            depth += (c == "(") - (c == ")")
            if depth < 0:
                return False
    return depth == 0


def terms(text):
    """The parts of a filter that are joined by `and`, without needless parentheses."""
    parts = w.split_top(text, " and ")
    if len(parts) == 1:
        t = parts[0]
        if enclosed(t) and not w.split_top(t[1:-1], " or ")[1:]:
            return terms(t[1:-1])
        return [t]
    return [x for p in parts for x in terms(p)]


def abstract(calls, args, rows, now):
    """The requests with every value replaced by where it came from."""
    o = Origins()
    for cls, row in rows.items():
        for col, v in row.items():
            o.add(v, ["s", cls, col])
    for name, v in args.items():
        o.add(v, ["a", name])
    steps = []
    for i, (method, path, query, body, doc) in enumerate(calls):
        entries = {}
        for n, seg in enumerate(path.split("/")):
            got = o.of(seg, now) if n else ["k", seg]
            if got[0] == "v" and got[-1] == "text":
                got = got[:-1]
            if n and seg.isdigit() and got[0] != "v":
                got = o.of(int(seg), now)
            entries[f"p.{n}"] = got
        for k, v in query.items():
            if k == "filter":
                for t in terms(v):
                    a = o.template(t)
                    entries["f." + json.dumps(a if a else [t])] = ["f", a if a else [t]]
            elif k == "fields":
                t = o.template(v)
                entries["q.fields"] = ["t", t] if t else ["k", v]
            else:
                a = o.of(v, now)
                if a[0] == "v" and a[-1] == "text":
                    a = a[:-1]
                entries["q." + k] = a
        if isinstance(body, dict):
            flatten("b", body, entries, o, now)
            if not body:
                entries["b"] = ["o", {}]
        elif body is not None:
            entries["b"] = o.of(body, now)
        steps.append((method, entries))
        for at in doc if isinstance(doc, list) else [doc]:
            if isinstance(at, dict):
                # The key is named in several members of a receipt; it is meant by its own name.
                for col, v in sorted(at.items(), key=lambda c: c[0] != "$key"):
                    if col == "$row":
                        continue
                    if not isinstance(v, (bool, dict, list)) and v not in o.exact:
                        o.add(v, ["r", i, col])
                        if isinstance(v, str) and v.isdigit() and len(v) > 5:
                            o.exact[int(v)] = ["r", i, col]
    return steps


BINDINGS = []


def flatten(prefix, body, entries, o, now):
    for k, v in body.items():
        if isinstance(v, dict) and v and o.of(v, now)[0] == "o":
            flatten(f"{prefix}.{k}", v, entries, o, now)
        else:
            entries[f"{prefix}.{k}"] = o.of(v, now)


def signature(fn):
    try:
        return [p for p in inspect.signature(fn).parameters.values()]
    except (TypeError, ValueError):
        return []


def run(accessor, member, kwargs, forced=None, none=()):
    rec = sdk.Recorder()
    rec.world.forced.update(forced or {})
    target, rows = sdk.reach(rec, accessor)
    rec.calls.clear()
    bindings = []
    for t in (target, getattr(target, "_manager", None)):
        try:
            bindings += t._scope_bindings()
        except Exception:
            pass
    rec.world.forced.update(dict(bindings))
    for cls, on_way in rows.items():
        for column in PARENT.get(cls, ()):
            rec.world.forced.setdefault(column, on_way["$key"])
    rec.world.forced.update(forced or {})
    rec.world.none = none
    global BINDINGS
    BINDINGS = bindings
    if sdk.CLASSES.get(type(target).__name__) and hasattr(target, "_manager"):
        rows = dict(rows)
    args = {k: (v(rec) if callable(v) and getattr(v, "_late", False) else v) for k, v in kwargs.items()}
    result, error = None, None
    now = datetime.datetime.now().timestamp()
    try:
        attr = getattr(type(target), member, None)
        if isinstance(attr, property):
            result = getattr(target, member)
        else:
            result = getattr(target, member)(**args)
            if inspect.isgenerator(result):
                result = list(itertools.islice(result, 3))
    except sdk.Stop:
        error = "never ends"
    except Exception as e:  # what the SDK raises is a finding, not a failure of this program
        error = f"{type(e).__name__}: {e}"
    return rec.calls, args, rows, now, result, error


def plain(calls):
    """Whether the bodies are JSON: the SDK takes some things that it cannot send."""
    try:
        json.dumps([c[3] for c in calls])
        return True
    except TypeError:
        return False


def returned(result, calls):
    """Which reply the result is of."""
    kind = type(result).__name__
    if isinstance(result, list):
        kind = "list:" + (type(result[0]).__name__ if result else "")
        result = result[0] if result else None
    if isinstance(result, dict):
        key = result.get("$key")
        for i in range(len(calls) - 1, -1, -1):
            docs = calls[i][4]
            for d in docs if isinstance(docs, list) else [docs]:
                if isinstance(d, dict) and key is not None and str(d.get("$key")) == str(key):
                    return [kind, i]
    return [kind]


def align(a, b):
    """Pairs of steps of two runs, by method and path, in order; None where one has no partner."""
    def name(s):
        return (s[0], json.dumps([s[1].get(f"p.{i}", 0) if i != 1 else bool(s[1].get("p.1")) for i in range(4)]))
    n, m = len(a), len(b)
    best = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            best[i][j] = (best[i + 1][j + 1] + 1 if name(a[i]) == name(b[j])
                          else max(best[i + 1][j], best[i][j + 1]))
    out, i, j = [], 0, 0
    while i < n or j < m:
        if i < n and j < m and name(a[i]) == name(b[j]) and best[i][j] == best[i + 1][j + 1] + 1:
            out.append((i, j)); i += 1; j += 1
        elif j < m and (i == n or best[i][j + 1] >= best[i + 1][j]):
            out.append((None, j)); j += 1
        else:
            out.append((i, None)); i += 1
    return out


def remap(value, ids):
    if isinstance(value, list):
        if len(value) >= 3 and value[0] == "r" and isinstance(value[1], int):
            return ["r", ids.get(value[1], value[1]), *value[2:]]
        if len(value) >= 4 and value[:2] == ["v", "r"] and isinstance(value[2], int):
            return ["v", "r", ids.get(value[2], value[2]), *value[3:]]
        return [remap(x, ids) for x in value]
    if isinstance(value, dict):
        return {k: remap(x, ids) for k, x in value.items()}
    return value


def entry_key(k, ids):
    return "f." + json.dumps(remap(json.loads(k[2:]), ids)) if k.startswith("f.") else k


class Recipe:
    def __init__(self, base):
        self.steps = [{"id": i, "m": m, "e": {k: [[None, v]] for k, v in e.items()}, "if": []}
                      for i, (m, e) in enumerate(base)]
        self.base = base
        self.next = len(base)

    def vary(self, param, label, steps):
        cond = [param, label]
        pairs = align(self.base, steps)
        ids = {j: i for i, j in pairs if i is not None and j is not None}
        position, fresh = 0, {}
        for i, j in pairs:
            if i is None:
                fresh[j] = self.next
                ids[j] = self.next
                self.next += 1
        for i, j in pairs:
            if i is None:
                m, e = steps[j]
                e = {entry_key(k, ids): [[None, remap(v, ids)]] for k, v in e.items()}
                twin = next((s for s in self.steps if s["m"] == m and s["e"] == e and s["if"]), None)
                paths = {k: v for k, v in e.items() if k.startswith("p.")}
                same = next((s for s in self.steps if m == "PUT" and s["m"] == m and s["if"] and paths == {
                    k: v for k, v in s["e"].items() if k.startswith("p.")}), None)
                if twin:
                    twin["if"].append(cond)
                elif same:
                    # One write, whatever is given of what it carries.
                    first = same["if"][0]
                    for k, alts in same["e"].items():
                        if not k.startswith("p.") and k not in e and alts[0][0] is None:
                            alts[0][0] = first
                    for k, alts in e.items():
                        if k.startswith("p."):
                            continue
                        if k not in same["e"]:
                            same["e"][k] = [[cond, alts[0][1]]]
                        elif same["e"][k][0] != alts[0]:
                            if same["e"][k][0][0] is None:
                                same["e"][k][0][0] = first
                            same["e"][k].append([cond, alts[0][1]])
                    same["if"].append(cond)
                else:
                    self.steps.insert(position, {"id": fresh[j], "m": m, "e": e, "if": [cond]})
                    position += 1
                continue
            at = next(n for n, s in enumerate(self.steps) if s["id"] == i)
            position = at + 1
            step = self.steps[at]
            if j is None:
                step.setdefault("unless", []).append(cond)
                continue
            theirs = {entry_key(k, ids): remap(v, ids) for k, v in steps[j][1].items()}
            ours = dict(self.base[i][1])
            for k, v in theirs.items():
                if k not in ours:
                    step["e"].setdefault(k, []).append([cond, v])
                elif ours[k] != v:
                    step["e"][k].append([cond, v])
            for k in ours:
                if k not in theirs:
                    step["e"][k].append([cond, None])

    def tidy(self, tried=()):
        """Alternatives that repeat the parameter's value become the parameter, if they do so for all that was tried."""
        for s in self.steps:
            for k, alts in s["e"].items():
                by = {}
                for cond, v in alts:
                    if cond:
                        by.setdefault(cond[0], []).append((cond[1], v))
                for p, lv in by.items():
                    plain = [x for x in lv if x[0] != GIVEN]
                    labels = {json.dumps(lab) for n, lab in tried if n == p and lab not in (GIVEN, "text", "other", "row")}
                    base_value = next((v for cond, v in alts if cond is None), None)
                    have = {json.dumps(lab) for lab, _ in plain}
                    if base_value and base_value[0] == "k":
                        have.add(json.dumps(base_value[1]))
                    if plain and labels <= have and all(v and v[0] == "k" and v[1] == label for label, v in plain):
                        rest = [a for a in alts if not (a[0] and a[0][0] == p and a[0][1] != GIVEN)]
                        alts[:] = rest + [[[p, GIVEN], ["v", "a", p]]]
        return [{"id": s["id"], "m": s["m"], "e": s["e"], **({"if": s["if"]} if s["if"] else {}),
                 **({"unless": s["unless"]} if s.get("unless") else {})} for s in self.steps]


# The column that points at the parent, by the class of the parent's rows.
PARENT = {"Network": ["vnet"], "VM": ["vm"], "Tenant": ["tenant"], "SnapshotProfile": ["profile"],
          "CloudSnapshot": ["cloud_snapshot"], "WireGuardInterface": ["wireguard"], "DNSView": ["view"],
          "DNSZone": ["zone"], "Group": ["parent_group"], "Tag": ["tag"], "IPSecConnection": ["phase1", "ipsec_x"]}


def observe(accessor, cls, member, note):
    """Everything about one member: its parameters, and its ways. A member has several ways when it must be given one of
    several things (a key or a name), or when what it does depends on a word."""
    target = type(sdk.reach(sdk.Recorder(), accessor)[0])
    fn = getattr(target, member)
    over = {**OVERRIDES.get(f"{cls}.*", {}), **OVERRIDES.get(f"{cls}.{member}", {})}
    out = {"accessor": accessor, "class": cls, "member": member, "params": []}
    base, variants, spread = {}, [], None
    for p in [] if isinstance(fn, property) else signature(fn):
        if p.name == "self" or p.kind == p.VAR_POSITIONAL:
            continue
        if p.kind == p.VAR_KEYWORD:
            out["params"].append({"n": p.name, "t": "**"})
            spread = p.name
            continue
        ann = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")
        required = p.default is p.empty
        d = {"n": p.name, "t": re.sub(r"builtins\.", "", ann)}
        if required:
            d["req"] = True
        elif p.default is not None:
            d["d"] = p.default if isinstance(p.default, (str, int, float, bool)) else str(p.default)
        out["params"].append(d)
        if p.name in SKIP_PARAMS:
            continue
        options = samples(cls, member, p.name, ann, None if required else p.default, note)
        if p.name in over:
            options = over[p.name] if isinstance(over[p.name], Labels) else [(GIVEN, over[p.name])]
        labels = [lab for lab, _ in options if lab not in (GIVEN, "text", "other", "row")]
        if labels and not all(isinstance(x, bool) for x in labels):
            d["one_of"] = labels
        if required:
            base[p.name] = options[0][1]
            variants += [(p.name, label, v) for label, v in options[1:]]
        else:
            variants += [(p.name, label, v) for label, v in options]
    if spread and member in ("update", "save"):
        # Which words are taken, and as what: those of `create`, tried one by one.
        maker = getattr(target, "create", None) or getattr(
            sdk.CLASSES.get(next((m["class"] for m in sdk.MEMBERS if m["model"] == cls), ""), None), "create", None)
        known = {d["n"] for d in out["params"]}
        for p in signature(maker) if maker else []:
            if p.name in known or p.name == "self" or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                continue
            ann = p.annotation if isinstance(p.annotation, str) else ""
            for label, v in samples(cls, member, p.name, ann, None, note):
                g = run(accessor, member, {**base, p.name: v}, over.get("#row"))
                if not g[5] and plain(g[0]) and any(m == "PUT" and b for m, _, _, b, _ in g[0]):
                    variants.append((p.name, label, v))
                    if not any(d["n"] == p.name for d in out["params"]):
                        out["params"].insert(-1, {"n": p.name, "t": re.sub(r"builtins\.", "", ann), "kw": True})
    base.update(over.get("#also", {}))
    forced = dict(over.get("#row", {}))
    member_of = base.get("resource_type")
    for arg, table in (("vm_key", "vms"), ("network_key", "vnets"), ("tenant_key", "tenants"), ("user_key", "users"),
                       ("group_key", "groups"), ("resource_key", member_of or "x"), ("tag_key", "tags")):
        if arg in base and (member.startswith(("remove", "add")) or member == "untag"):
            forced["member"] = f"{table}/{base[arg]}"
    if cls == "VM" and member == "untag":
        forced["member"] = "vms/%s" % w.key_of("vms", "row", "VM", "")
        forced["tag"] = base["tag_key"]
    none = over.get("#none", ())
    attempt = lambda kw: run(accessor, member, kw, forced, none)
    ways, got = [], attempt(base)
    if not got[5] or (got[0] and "be provided" not in got[5] and "No update" not in got[5]):
        ways.append(([], base, got))
    if got[5] and spread and not ways:
        more = {**base, ANY_COLUMN: ANY_VALUE}
        g = attempt(more)
        if not g[5]:
            ways.append(([], more, g))
    if not ways:
        for name, label, v in variants:
            g = attempt({**base, name: v})
            if not g[5] and g[0]:
                ways.append(([[name, label]], {**base, name: v}, g))
        if member not in ("get", "delete", "connect_context") and len(ways) > 1 and "update" in member:
            ways = [([], *ways[0][1:])]
    for when, more in over.get("#ways", ()):
        kw = {k: v for k, v in {**base, **more}.items() if v is not None}
        ways.append((when, kw, attempt(kw)))
    if not ways:
        ways.append(([], base, got))
    if BINDINGS:
        o = Origins()
        for c, row in got[2].items():
            for col, v in row.items():
                o.add(v, ["s", c, col])
        out["scope"] = [[c, o.of(v, got[3])] for c, v in BINDINGS]
    out["ways"] = [way(out, when, kw, g, variants, attempt, fn, spread) for when, kw, g in ways]
    words = {}
    for name, label, _ in variants:
        if label not in (GIVEN, "text", "other", "row") and not isinstance(label, bool):
            words.setdefault(name, []).append(label)
    if any(x.get("idle") for x in out["ways"]) and len(ways) == 1 and words and not cls.endswith("CommandManager"):
        for name, labels in words.items():
            for label in labels:
                kw = {**base, name: label}
                g = attempt(kw)
                if not g[5]:
                    rest = [v for v in variants if v[0] != name]
                    out["ways"].append(way(out, [[name, label]], kw, g, rest, attempt, fn, spread))
    if all("error" in x for x in out["ways"]):
        out["error"] = out["ways"][0]["error"]
    return out


def way(out, when, base, got, variants, attempt, fn, spread):
    calls, args, rows, now, result, error = got
    args = {k: v for k, v in args.items() if k != ANY_COLUMN}
    one = {"when": when} if when else {}
    if error:
        one["error"] = error[:300]
    recipe = Recipe(abstract(calls, args, rows, now))
    failures, idle = {}, []
    together = OVERRIDES.get(f"{out['class']}.{out['member']}", {}).get("#with", {})
    if spread:
        g = got if ANY_COLUMN in base else attempt({**base, ANY_COLUMN: ANY_VALUE})
        one["spread"] = sorted({k.rsplit("." + ANY_COLUMN, 1)[0] if k.startswith("b") else "f"
                                for _, e in abstract(g[0], {}, {}, now) for k in e if ANY_COLUMN in k})
        if len(g[0]) > len(calls) and not g[5]:
            calls, args, rows, now, result, error = g
            args = {k: v for k, v in args.items() if k != ANY_COLUMN}
            base = {**base, ANY_COLUMN: ANY_VALUE}
            recipe = Recipe(abstract(calls, args, rows, now))
        where = [i for i, (_, e) in enumerate(abstract(g[0], {}, {}, now)) if any(ANY_COLUMN in k for k in e)]
        if len(g[0]) == len(calls):
            one["spread_step"] = where
        for step in recipe.steps:
            step["e"] = {k: v for k, v in step["e"].items() if ANY_COLUMN not in k}
        recipe.base = [(m, {k: v for k, v in e.items() if ANY_COLUMN not in k}) for m, e in recipe.base]
    for name, label, v in variants:
        if base.get(name) is v or name in [c[0] for c in when]:
            continue
        c2, a2, r2, n2, res2, e2 = attempt({**base, **together.get(name, {}), name: v})
        if e2 and (not c2 or len(c2) < len(calls)):
            failures[f"{name}={label}"] = e2[:200]
            continue
        a2.pop(ANY_COLUMN, None)
        theirs = [(m, {k: x for k, x in e.items() if ANY_COLUMN not in k}) for m, e in abstract(c2, a2, r2, n2)]
        if json.dumps(theirs) == json.dumps(recipe.base):
            idle.append(f"{name}={label}")
        recipe.vary(name, label, theirs)
    defaults = {} if isinstance(fn, property) else {p.name: p.default for p in signature(fn)}
    idle = [i for i in idle if i.partition("=")[2] != str(defaults.get(i.partition("=")[0]))]
    if idle:
        one["idle"] = idle
    if failures:
        one["refused"] = failures
    one["steps"] = recipe.tidy([(n, lab) for n, lab, _ in variants])
    one["returns"] = returned(result, calls)
    return one


def main():
    only = sys.argv[2:] if len(sys.argv) > 2 else None
    target = sys.argv[1]
    done, out = set(), []
    for m in sdk.MEMBERS:
        shapes = [a for a in m["accessor"].split(" | ") if a.startswith("client")]
        scoped = [a for a in shapes if "[" in a or "(" in a]
        plain = [a for a in shapes if a not in scoped]
        best = [a for a in scoped if "(" not in a] or scoped
        if m["class"] == "SystemDiagnosticManager":
            # Two classes of that name, one behind each path.
            plain = [a for a in plain if hasattr(type(sdk.reach(sdk.Recorder(), a)[0]), m["member"])]
        # A zone can be made only below a view.
        best = best[:2] if m["class"] == "DNSZoneManager" else best[:1]
        for a in plain[:1] + best:
            key = (a, m["class"], m["member"])
            if key in done or (only and f"{m['class']}.{m['member']}" not in only and m["class"] not in only):
                continue
            done.add(key)
            try:
                o = observe(a, m["class"], m["member"], m)
            except Exception as e:
                o = {"accessor": a, "class": m["class"], "member": m["member"], "error": f"observer: {type(e).__name__}: {e}"}
                if only:
                    raise
            o["kind"], o["returned"], o["model"], o["table"] = m["kind"], m["returns"], m["model"], m["table"]
            o.setdefault("params", [])
            out.append(o)
    unscoped = {(o["class"], o["member"]) for o in out if "error" not in o and "[" not in o["accessor"]}
    out = [o for o in out if not ("error" in o and "[" in o["accessor"] and (o["class"], o["member"]) in unscoped)]
    texts, numbers = [], {}

    def shorten(alts):
        for alt in alts:
            if alt[1] and alt[1][0] == "k":
                if alt[1][1] not in numbers:
                    numbers[alt[1][1]] = len(texts)
                    texts.append(alt[1][1])
                alt[1] = ["p", numbers[alt[1][1]]]

    for o in out:
        for way_ in o.get("ways", []):
            for s in way_["steps"]:
                if "q.fields" in s["e"]:
                    shorten(s["e"]["q.fields"])
    with open(target, "w", encoding="utf-8") as f:
        f.write(json.dumps({"source": "pyvergeos 1.7.1, observed by ci/vergeos/observe.py", "projections": texts},
                           separators=(",", ":")) + "\n")
        for o in out:
            o["accessor"] = sdk.canonical(o["accessor"])
        for o in sorted(out, key=lambda o: (o["accessor"], o["member"])):
            for way_ in o.get("ways", []):
                way_.pop("idle", None)
                way_.pop("refused", None)
                for s in way_["steps"]:
                    s["e"] = {k: v[0][1] if len(v) == 1 and v[0][0] is None else v for k, v in s["e"].items()}
            f.write(json.dumps(o, separators=(",", ":")) + "\n")
    bad = [o for o in out if "error" in o]
    print(len(out), "observed,", len(bad), "with an error")
    for o in bad:
        print(" ", o["accessor"], o["member"], o["error"][:160])


if __name__ == "__main__":
    # Members that download write to where they are run.
    with tempfile.TemporaryDirectory(prefix="boxrig-observe-") as scratch:
        sys.argv[1:2] = [os.path.abspath(p) for p in sys.argv[1:2]]
        os.chdir(scratch)
        main()
