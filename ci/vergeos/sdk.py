"""The vendor's SDK on a made-up VergeOS: every manager and row object built, every member called."""

import datetime
import importlib
import inspect
import pkgutil
import re
import sys
import time

import pyvergeos
import pyvergeos.resources as resources
from pyvergeos.client import VergeClient
from pyvergeos.connection import VergeConnection

import world as w

for _m in pkgutil.iter_modules(resources.__path__):
    importlib.import_module("pyvergeos.resources." + _m.name)
CLASSES = {}
for _name, _mod in list(sys.modules.items()):
    if _name.startswith("pyvergeos.resources"):
        for _n, _c in vars(_mod).items():
            if inspect.isclass(_c) and _c.__module__.startswith("pyvergeos"):
                CLASSES[_n] = _c
MEMBERS = w.load("vergeos-resources.tsv")
TABLE_OF_ROW = {}
for _r in w.load("vergeos-fields.tsv"):
    TABLE_OF_ROW.setdefault(_r["resource"], _r["table"])

time.sleep = lambda _s: None


class Stop(Exception):
    """A member that never ends."""


class Recorder:
    """A client whose requests are answered by a world and kept."""

    def __init__(self):
        self.world = w.World()
        self.calls = []
        self.limit = 40
        c = VergeClient.__new__(VergeClient)
        VergeClient.__init__(c, host="verge.example", username="admin", password="pw", auto_connect=False)
        conn = VergeConnection(host="verge.example", username="admin")
        conn.is_connected = True
        c._connection = conn
        c._request = self.request
        conn.session.request = self.raw
        for verb in ("get", "put", "post"):
            setattr(conn.session, verb, lambda url, _v=verb.upper(), **k: self.raw(_v, url, **k))
        self.client = c

    def request(self, method, endpoint, params=None, json_data=None, timeout=None):
        path, _, q = endpoint.partition("?")
        query = {k: str(v) for k, v in (params or {}).items() if v is not None}
        for pair in filter(None, q.split("&")):
            k, _, v = pair.partition("=")
            query[k] = v
        return self.answer(method, path, query, json_data)

    def answer(self, method, path, query, body):
        if len(self.calls) >= self.limit:
            raise Stop()
        status, doc = self.world.reply(method, path, query, body)
        self.calls.append((method, path, query, body, doc))
        return doc

    def raw(self, method, url, params=None, data=None, json=None, **_):
        path = url.split("/api/v4/", 1)[1]
        body = json if data is None else {"#bytes": len(data) if hasattr(data, "__len__") else -1}
        path, _, q = path.partition("?")
        query = {k: str(v) for k, v in (params or {}).items()}
        for pair in filter(None, q.split("&")):
            k, _, v = pair.partition("=")
            query[k] = v
        self.answer(method, path, query, body)
        r = type("R", (), {})()
        r.status_code, r.text, r.content, r.headers, r.ok = 200, "content", b"content", {"content-length": "7"}, True
        r.json = lambda: {}
        r.iter_content = lambda *a, **k: [b"content"]
        r.raise_for_status = lambda: None
        r.close = lambda: None
        return r


def row(rec, manager, cls, salt=""):
    """A row object of the class, as a list of the manager would give it."""
    table = TABLE_OF_ROW.get(cls) or getattr(manager, "_endpoint", "x")
    key = w.key_of(table, "row", cls, salt)
    fields = getattr(manager, "_default_fields", None) or []
    data = rec.world.row(table, key, ",".join(fields) or None)
    for name in w.TYPES.columns.get(table, []) + ["name"]:
        data.setdefault(name, rec.world.value(table, key, name))
    data["$key"] = key
    try:
        return manager._to_model(dict(data))
    except Exception:
        return CLASSES[cls](dict(data), manager)


MODEL = {}
for _r in MEMBERS:
    if _r["model"]:
        MODEL.setdefault(_r["class"], _r["model"])


def reach(rec, accessor):
    """The manager or row object at an accessor path, and the rows on the way by their class. A scope that is given by its
    key, as in `tasks.triggers(key)`, is a row of which only the key is known."""
    at, on_way = rec.client, {}
    for name, call, cls in re.findall(r"\.?(\w+)(\(\w+\))?|\[(\w+)\]", accessor.replace("client.", "", 1)):
        if cls:
            at = row(rec, at, cls)
            on_way[cls] = dict(at)
            continue
        owner = at
        at = getattr(at, name)
        if call:
            cls = MODEL.get(type(owner).__name__, type(owner).__name__)
            table = TABLE_OF_ROW.get(cls, getattr(owner, "_endpoint", "x"))
            key = w.key_of(table, "row", cls, "")
            on_way[cls] = {"$key": key}
            at = at(key)
    return at, on_way


def canonical(accessor):
    """A scope by its key is the row of that key: `tags.members(tag_key)` is `tags[Tag].members`."""
    while "(" in accessor:
        before, _, rest = accessor.partition("(")
        owner, _, name = before.rpartition(".")
        at = reach(Recorder(), owner)[0]
        cls = MODEL.get(type(at).__name__, type(at).__name__)
        accessor = f"{owner}[{cls}].{name}" + rest.partition(")")[2]
    return accessor
