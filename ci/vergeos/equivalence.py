"""The vendor's SDK and our client make the same calls on one listener; every request is compared.

    equivalence.py REPLAY REPORT [Class.member …]

REPLAY is the program `replay` (crates/vergeos/examples). Each case calls a member of the SDK, unmodified, and the same member
of ours with the same arguments, and compares method, path, what the query means, and the body. REPORT gets the counts, every
difference and its reason (api/vergeos-differences.tsv). Ends with 1 when a difference has no reason.
"""

import collections
import datetime
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import computed
import observe
import sdk
import world as w
from samples import OVERRIDES, Labels, samples

WORLD = w.World()
SEEN = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path.split("/api/v4/", 1)[-1])
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = {"#bytes": len(raw)}
        SEEN.append((self.command, path, query, body))
        status, doc = WORLD.reply(self.command, path, query, body)
        out = b"" if doc is None else json.dumps(doc).encode()
        if query.get("download"):
            out = b"content"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    do_GET = do_POST = do_PUT = do_DELETE = answer


class OverHttp(sdk.Recorder):
    """The SDK as it is, sending to the listener."""

    def __init__(self):
        super().__init__()
        self.world = WORLD
        c = sdk.VergeClient(host="verge.example", username="admin", password="pw", auto_connect=False)
        conn = sdk.VergeConnection(host="verge.example", username="admin")
        conn.is_connected = True
        # The SDK cannot be told another scheme than TLS.
        conn.api_base_url = f"http://127.0.0.1:{PORT}/api/v4"
        c._connection = conn
        self.client = c


def plain(value):
    if isinstance(value, datetime.datetime):
        return int(value.timestamp())
    if isinstance(value, datetime.timedelta):
        return int(value.total_seconds())
    if isinstance(value, dict) and hasattr(value, "_manager"):
        return value.get("$key")
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return value.decode()
    return value


def meaning(request):
    method, path, query, body = request
    q = dict(query)
    if "filter" in q:
        # A condition that stands there twice says nothing more.
        q["filter"] = sorted(set(w_terms(q["filter"])))
    if "fields" in q:
        q["fields"] = sorted(set(w.split_top(q["fields"])))
    if body == {}:
        body = None
    if isinstance(body, dict):
        body = {k: document(v) for k, v in body.items()}
    # A moment of now, a minute either way.
    q = {k: [re.sub(r"\b1[78]\d{8}\b", lambda m: str(int(m.group()) // 600), t) for t in v] if k == "filter" else v
         for k, v in q.items()}
    return method, path, q, moments(body)


def moments(v):
    if isinstance(v, dict):
        return {k: moments(x) for k, x in v.items()}
    if isinstance(v, int) and abs(v - time.time()) < 40 * 86400 * 366 and not isinstance(v, bool):
        return v // 600
    return v


def document(v):
    """JSON in a text is compared as what it says, a time in a name as a time."""
    if isinstance(v, str):
        v = re.sub(r"20\d{6}[-_]\d{4,6}$", "<time>", v)
        v = re.sub(r"^(share-.+)-\d{5}$", r"\1-<number>", v)
    if isinstance(v, str) and v.startswith("{"):
        try:
            return json.loads(v)
        except ValueError:
            pass
    return v


def w_terms(text):
    return [t.strip("()") if " or " not in t else t for t in observe.terms(text)]


LIMIT = "(any).limit"


def in_order(requests):
    """Pieces of a file go in any order: the SDK sends several at once."""
    piece = lambda r: isinstance(r[3], dict) and "#bytes" in r[3]
    pieces = iter(sorted((r for r in requests if piece(r)), key=lambda r: int(r[2].get("filepos", 0))))
    return [next(pieces) if piece(r) else r for r in requests]


def explain(theirs, ours):
    """A difference that is a rule of the house, which the table names too, else None."""
    if len(theirs) != len(ours):
        return None
    reasons = set()
    for a, b in zip(in_order(theirs), in_order(ours)):
        a, b = meaning(a), meaning(b)
        if a == b:
            continue
        if a[:2] == b[:2] and a[3] == b[3]:
            qa, qb = dict(a[2]), dict(b[2])
            if qa.pop("limit", None) == "1" and qb.pop("limit", None) == "2" and qa == qb:
                reasons.add(LIMIT)
                continue
        return None
    return "; ".join(sorted(reasons)) or "same"


def cases(only):
    for m in sdk.MEMBERS:
        name = f"{m['class']}.{m['member']}"
        if only and name not in only and m["class"] not in only:
            continue
        shapes = [a for a in m["accessor"].split(" | ") if a.startswith("client")]
        scoped = [a for a in shapes if "[" in a or "(" in a]
        plain_ = [a for a in shapes if a not in scoped]
        best = [a for a in scoped if "(" not in a] or scoped
        for accessor in plain_[:1] + best[:1]:
            yield m, accessor


def main():
    global PORT
    replay, report = sys.argv[1:3]
    only = set(sys.argv[3:])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    PORT = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {**os.environ, "VERGE_HOST": f"http://127.0.0.1:{PORT}", "VERGE_USERNAME": "admin", "VERGE_PASSWORD": "pw",
           "NO_PROXY": "127.0.0.1", "VERGE_RETRY_TOTAL": "0"}
    os.environ["NO_PROXY"] = "127.0.0.1"
    # Neither finds what the other has downloaded.
    os.mkdir("ours")
    ours = subprocess.Popen([replay], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd="ours")
    reasons = {r["member"]: r["reason"] for r in w.load("vergeos-differences.tsv")}
    sdk.Recorder = OverHttp
    observe.sdk.Recorder = OverHttp
    counts, differences, members = collections.Counter(), [], set()
    used = set()
    for m, accessor in cases(only):
        for (kw, forced, none, set_, together) in calls_of(m, accessor):
            got = one(m, accessor, kw, forced, none, set_, ours)
            if got is None:
                counts["the SDK refuses"] += 1
                continue
            theirs, mine, answer, given = got
            counts["cases"] += 1
            verdict = explain(theirs, mine)
            name = f"{m['class']}.{m['member']}"
            if verdict == "same":
                counts["same"] += 1
                members.add((m["class"], m["member"]))
                continue
            # A rule, a member, or a member that is given several things at once of which each is compared alone too.
            key = verdict or (name + " (together)" if together and name + " (together)" in reasons else name)
            reason = reasons.get(key)
            used.add(key)
            if verdict:
                members.add((m["class"], m["member"]))
                if reason:
                    counts[f"different by the rule {key}"] += 1
                    continue
            counts["different, with a reason" if reason else "different"] += 1
            differences.append((name, accessor, given, theirs, mine, answer, reason))
    def ask(line):
        ours.stdin.write(json.dumps(line) + "\n")
        ours.stdin.flush()
        return json.loads(ours.stdout.readline())["ok"]

    def differ(name, given, theirs, mine):
        used.add(name)
        counts["computed otherwise, with a reason" if reasons.get(name) else "computed otherwise"] += 1
        differences.append((name, "row", given, [], [], {"sdk": theirs, "ours": mine}, reasons.get(name)))

    if not only:
        counts["computed from rows"] = computed.compare(ask, differ)
    ours.stdin.close()
    ours.wait(10)
    shutil.rmtree("ours", ignore_errors=True)
    with open(report, "w", encoding="utf-8") as f:
        for k, n in counts.most_common():
            print(f"{n:6} {k}", file=f)
        print(f"{len(members):6} members with the same requests", file=f)
        for name, accessor, given, theirs, mine, answer, reason in differences:
            print(f"\n{name} at {accessor} with {json.dumps(given, default=str)}\n  reason: {reason}\n  answer: {json.dumps(answer)[:300]}",
                  file=f)
            for label, requests in (("sdk ", theirs), ("ours", mine)):
                for r in requests:
                    print(f"  {label} {r[0]} {r[1]} {json.dumps(r[2])[:400]} {json.dumps(r[3])[:400]}", file=f)
    for k, n in counts.most_common():
        print(f"{n:6} {k}")
    print(f"{len(members):6} members with the same requests")
    bad = [d for d in differences if not d[6]]
    for name in sorted({d[0] for d in bad}):
        print("  without a reason:", name)
    stale = [] if only else sorted(set(reasons) - used)
    for name in stale:
        print("  a reason for what does not differ:", name)
    if counts["same"] < 400 and not only or bad or stale:
        sys.exit(1)


def calls_of(m, accessor):
    """Argument sets: what is required, each optional parameter, all optional parameters together."""
    cls, member = m["class"], m["member"]
    # Values of its own: the recipes were observed with others.
    note = {"salt": 1}
    try:
        target = type(sdk.reach(OverHttp(), accessor)[0])
        fn = getattr(target, member)
    except AttributeError:
        return
    if isinstance(fn, property):
        return
    over = {**OVERRIDES.get(f"{cls}.*", {}), **OVERRIDES.get(f"{cls}.{member}", {})}
    base, optional, spread = {}, [], False
    for p in observe.signature(fn):
        if p.name == "self" or p.kind == p.VAR_POSITIONAL:
            continue
        if p.kind == p.VAR_KEYWORD:
            spread = True
            continue
        if p.name in observe.SKIP_PARAMS:
            continue
        ann = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")
        required = p.default is p.empty
        options = samples(cls + "#", member, p.name, ann, None if required else p.default, note)
        if p.name in over:
            options = over[p.name] if isinstance(over[p.name], Labels) else [("given", over[p.name])]
        if not options:
            continue
        if required:
            base[p.name] = options[0][1]
        else:
            optional += [(p.name, v) for _, v in options]
    base.update(over.get("#also", {}))
    forced, none = observe_forced(cls, member, base, over), over.get("#none", ())
    yield base, forced, none, {}, False
    if spread:
        yield base, forced, none, {"zqcolumnq": "zqvalueq"}, False
    for name, v in optional:
        yield {**base, name: v}, forced, none, {}, False
    together = {}
    for name, v in optional:
        together.setdefault(name, v)
    for drop in ({}, {"key"}, {"key", "name"}):
        kw = {**base, **{k: v for k, v in together.items() if k not in drop}}
        if len(kw) > 1:
            yield kw, forced, none, {}, True
    for when, more in over.get("#ways", ()):
        yield {k: v for k, v in {**base, **more}.items() if v is not None}, forced, none, {}, False


def observe_forced(cls, member, base, over):
    forced = dict(over.get("#row", {}))
    for arg, table in (("vm_key", "vms"), ("network_key", "vnets"), ("tenant_key", "tenants"), ("user_key", "users"),
                       ("group_key", "groups"), ("resource_key", base.get("resource_type") or "x"), ("tag_key", "tags")):
        if arg in base and member.startswith(("remove", "add")):
            forced["member"] = f"{table}/{base[arg]}"
    if cls == "VM" and member == "untag":
        forced["member"] = "vms/%s" % w.key_of("vms", "row", "VM", "")
        forced["tag"] = base["tag_key"]
    return forced


def one(m, accessor, kw, forced, none, set_, ours):
    WORLD.__init__()
    WORLD.none = none
    SEEN.clear()
    result = observe.run(accessor, m["member"], {**kw, **set_}, forced, none)
    theirs, error, rows, args = list(SEEN), result[5], result[2], result[1]
    if error and not theirs or error == "never ends":
        return None
    if error and not error.startswith("NotFound"):
        return None
    WORLD.made.clear()
    SEEN.clear()
    given = {k: plain(v) for k, v in args.items() if k not in set_}
    chain = [[c, r] for c, r in rows.items()]
    if m["kind"] == "object-method" and m["class"] not in rows:
        return None
    line = {"place": sdk.canonical(accessor), "rows": chain, "member": m["member"], "args": given, "set": set_}
    ours.stdin.write(json.dumps(line, default=str) + "\n")
    ours.stdin.flush()
    answer = json.loads(ours.stdout.readline())
    return theirs, list(SEEN), answer, given


if __name__ == "__main__":
    # Members that download write to where they are run.
    with tempfile.TemporaryDirectory(prefix="boxrig-equivalence-") as scratch:
        sys.argv[1:3] = [os.path.abspath(p) for p in sys.argv[1:3]]
        os.chdir(scratch)
        main()
