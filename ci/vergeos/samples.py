"""Values to call the vendor's SDK with, each unique."""

import datetime
import re
import typing
import zlib

import sdk
import world as w

GIVEN = "given"


def late(f):
    f._late = True
    return f


def literals(ann):
    m = re.search(r"Literal\[(.*?)\]", ann)
    if m:
        return re.findall(r"'([^']*)'|\"([^\"]*)\"", m.group(1))
    for mod in {c.__module__ for c in sdk.CLASSES.values()}:
        import sys
        alias = getattr(sys.modules[mod], ann.replace(" | None", "").strip(), None)
        args = typing.get_args(alias)
        if args and all(isinstance(a, str) for a in args):
            return [(a, "") for a in args]
    return []


def samples(cls, member, name, ann, default, note):
    """[(label, value)]; the label is the value for switches and enumerations, "given" for the rest."""
    n = 10_000 + zlib.crc32(f"{cls}/{member}/{name}".encode()) % 80_000
    text = f"zq{n}q"
    lits = literals(ann)
    if lits:
        return [(a or b, a or b) for a, b in lits]
    base = ann.replace(" | None", "").replace("None | ", "").strip()
    kinds = [k.strip() for k in base.split("|")]
    out = []
    for k in kinds:
        if k == "bool":
            out += [(True, True), (False, False)] if default is not True else [(False, False), (True, True)]
        elif k == "int":
            out.append((GIVEN, n))
        elif k == "float":
            out.append((GIVEN, float(n)))
        elif k == "str":
            out.append((GIVEN if "int" not in kinds else "text", text))
        elif k == "datetime":
            out.append((GIVEN, datetime.datetime.fromtimestamp(1_900_000_000 + n, datetime.timezone.utc)))
        elif k == "timedelta":
            out.append((GIVEN, datetime.timedelta(seconds=n)))
        elif k.startswith("list[str]"):
            if "str" in kinds:
                continue
            out.append((GIVEN, [text, text + "b"]))
        elif k.startswith("list[int]"):
            out.append((GIVEN, [n, n + 1]))
        elif k.startswith("dict"):
            out.append((GIVEN, {text: f"w{n}"}))
        elif k.startswith(("list", "Sequence")):
            out.append((GIVEN, [n]))
        elif k in sdk.CLASSES and hasattr(sdk.CLASSES[k], "projected_entries"):
            out.append(("row" if len(kinds) > 1 else GIVEN, late(lambda rec, k=k: a_row(rec, k))))
        elif "Path" in k:
            out.append((GIVEN, "/tmp/" + text))
        elif k == "TagRef":
            out.append((GIVEN, n))
        elif k == "bytes":
            out.append((GIVEN, text.encode()))
        elif k == "Any":
            out.append((GIVEN, text))
    if len(kinds) == 1 and not out:
        out.append((GIVEN, text))
    # Given as a number, mostly; as a text it is a name to look up.
    if len([o for o in out if o[0] == GIVEN]) == 2:
        out = [out[0]] + [("other", o[1]) if o[0] == GIVEN else o for o in out[1:]]
    return out


def a_row(rec, cls):
    for m in sdk.MEMBERS:
        if m["model"] == cls and m["kind"] == "method" and m["accessor"].startswith("client"):
            manager, _ = sdk.reach(rec, m["accessor"].split(" | ")[0])
            return sdk.row(rec, manager, cls, "arg")
    return {"$key": 1}


class Labels(list):
    """Several values of a parameter, each with its label."""


def each(*values):
    return Labels((v, v) for v in values)


_PERIOD = {"minute": each(30, 15), "hour": each(5, 6), "day_of_week": each("mon", "tue"), "day_of_month": each(15, 16),
           "month": each(6, 7), "max_tier": each(3, 2)}
_FREQUENCY = each("hourly", "custom", "daily", "weekly", "monthly", "yearly")
_STOPPED = {"running": False, "status": "stopped", "vm_running": False, "powerstate": False}
_PLAIN = {"system_rule": False, "system": False}
_COMMON_UPDATE = {}
OVERRIDES = {
    **{f"CloudSnapshotManager.restore_{x}": {
        "#also": {"snapshot_key": 70001, f"{x}_key": 70002},
        "#ways": [([["snapshot_key", "given"], [f"{x}_name", "given"]],
                   {"snapshot_key": 70001, f"{x}_key": None, f"{x}_name": "zqthingq"}),
                  ([["snapshot_name", "given"], [f"{x}_name", "given"]],
                   {"snapshot_key": None, "snapshot_name": "zqsnapq", f"{x}_key": None, f"{x}_name": "zqthingq"}),
                  ([["snapshot_name", "given"], [f"{x}_key", "given"]],
                   {"snapshot_key": None, "snapshot_name": "zqsnapq"})]} for x in ("vm", "tenant")},
    "APIKeyManager.get": {"name": Labels(), "#ways": [
        ([["name", "given"], ["user", "given"]], {"name": "zqnameq", "user": 70003}),
        ([["name", "given"], ["user", "text"]], {"name": "zqnameq", "user": "zquserq"})]},
    "CloudInitFileManager.get": {"#ways": [([["name", "given"], ["vm_key", "given"]], {"name": "zqnameq", "vm_key": 70003})]},
    "NASUserManager.get": {"#ways": [([["name", "given"], ["service", "given"]], {"name": "zqnameq", "service": 70003}),
                                     ([["name", "given"], ["service", "text"]], {"name": "zqnameq", "service": "zqsvcq"})]},
    "SharedObjectManager.get": {"#ways": [([["name", "given"], ["tenant_key", "given"]], {"name": "zqnameq", "tenant_key": 70003})]},
    "BGPRouteMapManager.get": {"#ways": [([["tag", "given"], ["sequence", "given"]], {"tag": "zqtagq", "sequence": 70003})]},
    "VolumeVmExportManager.get": {},
    "CloudSnapshotManager.create": {"#ways": [([["include_tags", "given"], ["quiesce_tags", "given"]],
                                               {"include_tags": 70001, "quiesce_tags": 70002})]},
    "ClusterManager.create": {"default_cpu": each("host", "qemu64")},
    "ClusterManager.update": {"default_cpu": each("host", "qemu64")},
    "ClusterManager.delete": {"#row": {"total_nodes": 0, "nodes": 0, "running_machines": 0}},
    "NASServiceManager.delete": {"#row": {**_STOPPED, "volume_count": 0}},
    "NASServiceManager.create": {"#none": ["vm_services", "vms"]},
    "VnetProxyManager.create": {"#none": ["vnet_proxy"]},
    "VMSnapshot.restore": {"#row": {"is_snapshot": True, "running": False}},
    "VMSnapshotManager.restore": {"#row": {"is_snapshot": True, "running": False}},
    "NASVolumeFileManager.get": {"name": "zqfileq"},
    "NetworkRuleManager.update": {"#row": {"system_rule": False}},
    "NetworkRuleManager.delete": {"#row": {"system_rule": False}},
    "NetworkRule.enable": {"#row": {"system_rule": False}},
    "NetworkRule.disable": {"#row": {"system_rule": False}},
    "SharedObjectManager.create": {"#also": {"tenant_key": 70001, "vm_key": 70002}},
    "SnapshotProfilePeriodManager.create": {"frequency": _FREQUENCY, **_PERIOD},
    "SnapshotProfilePeriodManager.update": {"frequency": _FREQUENCY, **_PERIOD},
    "SnapshotProfile.add_period": {"frequency": _FREQUENCY, **_PERIOD},
    "TenantManager.connect_context": {"#also": {"key": 70001}},
    "TenantStorageManager.create": {"tier": each(3, 1, 2, 4, 5), "#also": {"provisioned_gb": 77}, "#row": {"tier_number": 3}},
    "TenantStorageManager.update_by_tier": {"tier": each(3, 1), "#also": {"provisioned_gb": 77}, "#row": {"tier_number": 3}},
    "TenantStorageManager.delete_by_tier": {"tier": each(3, 1), "#row": {"tier_number": 3}},
    "TenantLayer2Manager.delete_by_network": {"network_name": "zqnetq", "#row": {"network_name": "zqnetq"}},
    "TenantSnapshot.restore": {"#row": _STOPPED},
    "TenantSnapshotManager.restore": {"#row": _STOPPED},
    "Tenant.enable_isolation": {"#row": {"isolate": False, "is_isolated": False}},
    "UserManager.create": {"#ways": [([["two_factor_enabled", True]], {"two_factor_enabled": True, "email": "zqmailq"})]},
    "TenantLayer2Manager.get": {"network_name": "zqnetq", "#row": {"network_name": "zqnetq"}},
    "TenantStorageManager.get": {"tier": 3, "#row": {"tier_number": 3}},
    "Network.statistics": {"#ways": [([["include_history", True]], {"include_history": True})]},
    "NetworkManager.statistics": {"#ways": [([["include_history", True]], {"include_history": True})]},
    "VMManager.create": {"cloudinit_datasource": each("ConfigDrive", "NoCloud", "none")},
    "VM.hotplug_drive": {"size": 77 << 30, "interface": each("virtio", "virtio-scsi"), "media": each("disk")},
    "BillingRecord.get_tier_stats": {"tier": each(3, 0)},
    "AuthSourceStateManager.update": {"key": "%040x" % 7777777},
    "CertificateManager.create": {
        "cert_type": each("SelfSigned"),
        "#ways": [([["cert_type", "Manual"]], {"cert_type": "Manual", "public_key": "zqpublicq", "private_key": "zqprivateq"}),
                  ([["cert_type", "LetsEncrypt"]], {"cert_type": "LetsEncrypt", "agree_tos": True})]},
    "SiteManager.create": {"url": "https://zq-site.example", **{f"config_{x}": each("disabled", "send", "receive", "both")
                           for x in ("cloud_snapshots", "statistics", "repair_server")},
                           "config_management": each("disabled", "manage", "managed", "both")},
    "IPSecConnectionManager.*": {"#row": {"ipsec": w.key_of("vnet_ipsecs", "vnet eq 548886630")}},
    "TenantStorageManager.*": {"#row": {"tier_number": 3}},
    "Alarm.snooze": {"hours": 777},
    "AlarmManager.snooze": {"hours": 777},
    "FileManager.upload": {"path": "/tmp/boxrig-zq-upload.bin"},
    "DNSZoneManager.create": {},
}
