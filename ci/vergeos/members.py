"""Notes which members of the vendor's SDK a test called itself and got an answer from, as lines `Class.member<TAB>test`.

A plugin of pytest (`-p members`, with this folder on PYTHONPATH) for the vendor's own suite; `ci/vergeos_sdk.py` uses it too. The
SDK's methods are wrapped to be counted and do what they do. A member that another member calls is not noted, nor is anything
of a test that does not pass. The file is named by BOXRIG_MEMBERS.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import threading

import pyvergeos.resources as resources

called = set()
depth = threading.local()


def noted(name, function):
    @functools.wraps(function)
    def call(self, *args, **kwargs):
        level = getattr(depth, "level", 0)
        depth.level = level + 1
        try:
            result = function(self, *args, **kwargs)
        finally:
            depth.level = level
        if level == 0:
            called.add(f"{type(self).__name__}.{name}")
        return result

    call._noted = True
    return call


def watch():
    for module in pkgutil.iter_modules(resources.__path__):
        module = importlib.import_module("pyvergeos.resources." + module.name)
        for cls in list(vars(module).values()):
            if not inspect.isclass(cls) or not cls.__module__.startswith("pyvergeos.resources"):
                continue
            for name, member in list(vars(cls).items()):
                if inspect.isfunction(member) and not name.startswith("_") and not hasattr(member, "_noted"):
                    setattr(cls, name, noted(name, member))


def write(test):
    """What was called since the last time, by a test that passed."""
    path = os.environ.get("BOXRIG_MEMBERS")
    if path:
        with open(path, "a", encoding="utf-8") as out:
            out.writelines(f"{member}\t{test}\n" for member in sorted(called))
    called.clear()


if os.environ.get("BOXRIG_MEMBERS"):
    watch()


def pytest_runtest_logstart(nodeid, location):
    called.clear()


def pytest_runtest_logreport(report):
    if report.when == "call":
        if report.passed:
            write("pyvergeos:" + report.nodeid)
        called.clear()
