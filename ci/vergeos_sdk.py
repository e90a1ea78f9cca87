#!/usr/bin/env python3
"""What people do with the VergeOS Python SDK, and what must follow, against `boxrig serve --seed lab`.

Uses the SDK as it is published; its methods are only counted (vergeos/members.py). Reads the environment that the server writes (VERGE_HOST, VERGE_USERNAME,
VERGE_PASSWORD, REQUESTS_CA_BUNDLE, INCUS_SOCKET). The server must have a virtual clock. Prints a line per scenario.

    python vergeos_sdk.py [--list] [--quiet] [NAME...]

Each scenario names a mutation: a way in which the server can be made wrong (BOXRIG_MUTATE) that the scenario must notice.
"""

import contextlib
import http.client
import http.server
import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "vergeos"))

import members
from pyvergeos import VergeClient
from pyvergeos.exceptions import APIError, AuthenticationError, ConflictError, NotFoundError, ValidationError

HOST, USER, PASSWORD = os.environ["VERGE_HOST"], os.environ["VERGE_USERNAME"], os.environ["VERGE_PASSWORD"]
scenarios = []
client = None
taken = 0


def scenario(mutation):
    """Registers a scenario with the mutation of the server that it notices."""

    def register(function):
        scenarios.append((function.__name__, mutation, function))
        return function

    return register


def connect(name, **options):
    """A client; the server notes which scenario asked for what."""
    options = options or {"username": USER, "password": PASSWORD}
    made = VergeClient(host=HOST, retry_total=0, **options)
    made._connection.session.headers["X-Boxrig-Test"] = name
    return made


def unique(word):
    """A name that no other scenario has."""
    global taken
    taken += 1
    return f"{word}-{os.getpid()}-{taken}"


def api(method, path, body=None, params=None):
    """A request past the SDK's managers, for what they check themselves or cannot say."""
    return client._request(method, path, json_data=body, params=params)


def action(table, parent, key, verb, **params):
    return api("POST", table, {parent: key, "action": verb, **({"params": params} if params else {})})


def eventually(what, test, seconds=5):
    """Waits until the test gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = test()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


@contextlib.contextmanager
def refused(kind, status=None, words=""):
    """The block must be refused with this class of error, status and words."""
    try:
        yield
    except kind as error:
        got = getattr(error, "status_code", None)
        assert status is None or got == status, f"{got}, wanted {status}: {error}"
        assert words.lower() in str(error).lower(), f"{words!r} is not in {error}"
    except APIError as error:
        raise AssertionError(f"{type(error).__name__}, wanted {kind.__name__}: {error}") from None
    else:
        raise AssertionError(f"accepted, wanted {kind.__name__} {status or ''}")


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(os.environ["INCUS_SOCKET"])


def advance(**parts):
    """Moves the server's clock forward; gives its time in seconds."""
    seconds = parts.get("seconds", 0) + 60 * parts.get("minutes", 0) + 3600 * parts.get("hours", 0) + 86400 * parts.get("days", 0)
    connection = UnixConnection("boxrig")
    connection.request("POST", "/boxrig/v1/clock", json.dumps({"advanceMs": seconds * 1000}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return json.loads(body)


@contextlib.contextmanager
def vm(**options):
    """A VM that is gone afterwards."""
    options = {"name": unique("vm"), "ram": 1024, "cpu_cores": 1, "os_family": "linux", **options}
    made = client.vms.create(**options)
    try:
        yield made
    finally:
        with contextlib.suppress(APIError):
            action("vm_actions", "vm", made.key, "kill")
            eventually("it stops", lambda: not client.vms.get(made.key).is_running)
        with contextlib.suppress(APIError):
            client.vms.delete(made.key)


@contextlib.contextmanager
def running(**options):
    with vm(**options) as made:
        made.power_on()
        eventually("it runs", lambda: client.vms.get(made.key).is_running)
        yield client.vms.get(made.key)


@contextlib.contextmanager
def network(start=False, **options):
    """A network that is gone afterwards."""
    options = {"name": unique("net"), "network_address": "10.77.0.0/24", "ip_address": "10.77.0.1", **options}
    made = client.networks.create(**options)
    try:
        if start:
            made.power_on()
            eventually("it runs", lambda: client.networks.get(made.key).is_running)
        yield client.networks.get(made.key)
    finally:
        with contextlib.suppress(APIError):
            action("vnet_actions", "vnet", made.key, "kill")
            eventually("it stops", lambda: not client.networks.get(made.key).is_running)
        with contextlib.suppress(APIError):
            client.networks.delete(made.key)


@contextlib.contextmanager
def tenant(**options):
    made = client.tenants.create(**{"name": unique("tenant"), **options})
    try:
        yield made
    finally:
        with contextlib.suppress(APIError):
            action("tenant_actions", "tenant", made.key, "poweroff")
            eventually("it stops", lambda: not client.tenants.get(made.key).is_running)
        with contextlib.suppress(APIError):
            client.tenants.delete(made.key)


@contextlib.contextmanager
def user(**permissions):
    """A user with a password and these permissions; gives the user and a client of its own."""
    made = client.users.create(name=unique("user"), password="Scenario123!")
    try:
        for table in permissions.pop("may_list", ()):
            client.permissions.grant(table=table, user=made.key, can_list=True, can_read=True)
        yield made, connect("user", username=made.name, password="Scenario123!")
    finally:
        with contextlib.suppress(APIError):
            client.users.delete(made.key)


# Power


@scenario("act:vm_actions.poweron")
def power_on_is_shown():
    with vm() as made:
        assert not made.is_running and client.vms.get(made.key).status == "stopped"
        made.power_on()
        eventually("it runs", lambda: client.vms.get(made.key).is_running)
        status = client.vms.get(made.key).machine_status.get()
        assert status.status_raw == "running" and status.node_name, status


@scenario("power_log")
def power_is_told_in_the_machines_log():
    with running() as made:
        texts = eventually("the log", lambda: [line.text for line in made.machine_logs.list() if "finished" in line.text])
        assert "Power on finished" in texts, texts


@scenario("power_task")
def power_makes_a_task_that_ends():
    with running() as made:
        tasks = client.tasks.list(filter=f"owner eq 'vms/{made.key}' and action eq 'poweron'")
        assert len(tasks) == 1, tasks
        client.tasks.wait(tasks[0].key, timeout=5, poll_interval=0.05)
        assert api("GET", f"tasks/{tasks[0].key}", params={"fields": "progress"}) == {"progress": 100}


@scenario("act:vm_actions.kill")
def power_off_stops():
    with running() as made:
        made.power_off(force=True)
        eventually("it stops", lambda: not client.vms.get(made.key).is_running)
        assert client.vms.get(made.key).machine_status.get().node_key is None


@scenario("power_state")
def power_on_twice_is_a_conflict():
    with running() as made, refused(ConflictError, 409, "running"):
        action("vm_actions", "vm", made.key, "poweron")


@scenario("act:vm_actions.reset")
def reset_starts_anew():
    with running() as made:
        before = made.machine_status.get().get("started")
        advance(seconds=30)
        action("vm_actions", "vm", made.key, "reset")
        eventually("a later start", lambda: client.vms.get(made.key).machine_status.get().get("started") > before)
        assert client.vms.get(made.key).is_running


@scenario("act:vm_actions.hibernate")
def hibernation_is_a_state_of_its_own():
    with running() as made:
        made.hibernate()
        eventually("it sleeps", lambda: client.vms.get(made.key).status == "hibernated")
        made.power_on()
        eventually("it runs", lambda: client.vms.get(made.key).is_running)


@scenario("act:vm_actions.migrate")
def migration_changes_the_node():
    with running() as made:
        before = made.machine_status.get().node_key
        made.migrate()
        after = client.vms.get(made.key).machine_status.get().node_key
        assert after and after != before, (before, after)


@scenario("delete_running")
def a_running_vm_is_not_deleted():
    with running() as made:
        with refused(ConflictError, 409, "running"):
            client.vms.delete(made.key)
        assert client.vms.get(made.key).is_running


@scenario("cell:machine_nic_status.status")
def nics_follow_the_power():
    with vm() as made:
        made.nics.create(name="one", network=4)
        status = lambda: api("GET", "machine_nic_status", params={"filter": f"parent_nic eq {made.nics.list()[0].key}", "fields": "status"})[0]["status"]
        assert status() == "down"
        made.power_on()
        eventually("link", lambda: status() == "up")


@scenario("act:nodes.enable_maintenance")
def maintenance_moves_machines_away():
    with running() as made:
        node = made.machine_status.get().node_key
        try:
            client.nodes.enable_maintenance(node)
            assert client.nodes.get(node).is_maintenance
            assert client.vms.get(made.key).machine_status.get().node_key != node
        finally:
            client.nodes.disable_maintenance(node)


# VMs


@scenario("hook:vms.before_create")
def a_vm_has_a_machine_with_a_status():
    with vm() as made:
        row = api("GET", f"vms/{made.key}", params={"fields": "machine,machine#status#status as s,machine#name as n"})
        assert row["machine"] and row["s"] == "stopped" and row["n"] == made.name, row


@scenario("act:vm_actions.clone")
def a_clone_has_the_drives():
    with vm() as made:
        made.drives.create(size_gb=7, name="data")
        answer = made.clone(name=unique("clone"))
        assert answer and answer["response"]["vmkey"], answer
        clone = client.vms.get(int(answer["response"]["vmkey"]))
        try:
            drives = clone.drives.list()
            assert [(d.name, d.get("disksize")) for d in drives] == [("data", 7 << 30)], drives
            assert clone.machine_key != made.machine_key
        finally:
            client.vms.delete(clone.key)


@scenario("restore_values")
def restore_gives_old_values_back():
    with vm(description="before", ram=2048) as made:
        drive = made.drives.create(size_gb=3, name="kept")
        made.snapshots.create(name="s", retention=0)
        snapshot = eventually("the snapshot", lambda: made.snapshots.list())[0]
        client.vms.update(made.key, description="after", ram=4096)
        made.drives.delete(drive.key)
        made.snapshots.restore(snapshot.key, replace_original=True)
        back = client.vms.get(made.key)
        assert (back.get("description"), back.get("ram")) == ("before", 2048), back
        assert [d.name for d in back.drives.list()] == ["kept"]


@scenario("act:vm_actions.clone")
def restore_can_make_a_new_vm():
    with vm(description="kept") as made:
        made.snapshots.create(name="s", retention=0)
        snapshot = made.snapshots.list()[0]
        answer = made.snapshots.restore(snapshot.key, name=unique("restored"))
        assert answer and answer["response"]["vmkey"], answer
        other = client.vms.get(int(answer["response"]["vmkey"]))
        assert other.get("description") == "kept" and not other.is_snapshot
        client.vms.delete(other.key)


@scenario("timer:expire/")
def snapshots_end_by_the_clock():
    with vm() as made:
        made.snapshots.create(name="short", retention=3600)
        assert len(made.snapshots.list()) == 1
        advance(hours=2)
        eventually("it is gone", lambda: not made.snapshots.list())


@scenario("hook:machine_snapshots.before_create")
def a_snapshot_without_an_end_is_kept_three_days():
    with vm() as made:
        key = api("POST", "machine_snapshots", {"machine": made.machine_key, "name": "plain"})["$key"]
        row = api("GET", f"machine_snapshots/{key}", params={"fields": "created,expires"})
        assert row["expires"] - row["created"] == 72 * 3600, row


@scenario("hook:machine_snapshots.after_delete")
def a_deleted_snapshot_leaves_nothing():
    with vm() as made:
        made.snapshots.create(name="s", retention=0)
        kept = len(client.vms.list(include_snapshots=True, name=f"{made.name}_s"))
        made.snapshots.delete(made.snapshots.list()[0].key)
        assert kept == 1 and not client.vms.list(include_snapshots=True, name=f"{made.name}_s")


@scenario("act:vm_actions.hotplugnic")
def hot_plug_needs_a_device():
    with running() as made, refused(ValidationError, 422, "Device is a required parameter"):
        action("vm_actions", "vm", made.key, "hotplugnic", name="x")


@scenario("hook:machine_nics.before_create")
def nics_get_addresses_of_their_own():
    with vm() as made:
        macs = {made.nics.create(name=f"n{i}", network=4).mac_address for i in range(3)}
        assert len(macs) == 3 and all(macs), macs


@scenario("act:vm_imports.import")
def an_import_makes_a_vm():
    file = client.files.get(name="appliance.ova")
    made = client.vm_imports.create(name=unique("import"), file=file.key, importing=False)
    made.start()
    done = eventually("it is imported", lambda: [i for i in [client.vm_imports.get(made.key)] if i.status == "complete"])[0]
    vm_key = done.get("vm")
    assert client.vms.get(vm_key).drives.list(), "no drive"
    client.vms.delete(vm_key)


@scenario("hook:vm_recipe_instances.before_create")
def a_recipe_becomes_a_vm_with_its_answers():
    recipe = client.vm_recipes.get(name="Web server")
    name = unique("deployed")
    api("POST", "vm_recipe_instances", {"recipe": recipe.key, "name": name, "answers": {"YB_CPU_CORES": "3", "YB_RAM": "4096"}})
    made = client.vms.get(name=name)
    assert (made.get("cpu_cores"), made.get("ram")) == (3, 4096), made
    client.vms.delete(made.key)


# Networks


@scenario("apply_flags")
def a_rule_has_to_be_applied():
    with network(start=True) as net:
        assert not net.needs_rule_apply
        net.rules.create(name="web", direction="incoming", action="accept", protocol="tcp", destination_ports="80")
        assert client.networks.get(net.key).needs_rule_apply


@scenario("act:vnet_actions.refresh")
def applying_clears_what_was_to_be_applied():
    with network(start=True) as net:
        net.rules.create(name="web", direction="incoming", action="accept", protocol="tcp", destination_ports="80")
        net.apply_rules()
        assert not client.networks.get(net.key).needs_rule_apply


@scenario("act:vnet_actions.refresh")
def rules_of_a_stopped_network_cannot_be_applied():
    with network() as net, refused(APIError, 409, "vNet is not running"):
        net.apply_rules()


@scenario("delete_running")
def a_running_network_is_not_deleted():
    with network(start=True) as net, refused(ConflictError, 409, "running"):
        client.networks.delete(net.key)


@scenario("hook:vnets.after_update")
def a_new_address_needs_a_restart():
    with network(start=True) as net:
        client.networks.update(net.key, ipaddress="10.77.0.2")
        assert client.networks.get(net.key).get("need_restart") is True


@scenario("hook:vnet_rules.before_create")
def a_rule_pinned_to_the_top_is_first():
    with network() as net:
        first = net.rules.create(name="first", direction="incoming", action="accept", protocol="tcp")
        pinned = net.rules.create(name="pinned", direction="incoming", action="drop", protocol="any", pin="top")
        assert 0 < pinned.order < net.rules.get(first.key).order


@scenario("hook:vnet_rules.before_update")
def system_rules_are_not_changed():
    with network() as net:
        rule = next(r for r in net.rules.list() if r.is_system_rule)
        with refused(ValidationError, 422, "system rule"):
            api("PUT", f"vnet_rules/{rule.key}", {"description": "changed"})


@scenario("hook:vnet_dns_zone_records.after_create")
def a_zones_serial_goes_up():
    zone = client.networks.get(name="Internal").dns_zones.list()[0]
    serial = lambda: api("GET", f"vnet_dns_zones/{zone.key}", params={"fields": "serial_number"})["serial_number"]
    before = serial()
    record = zone.records.create(host=unique("host"), record_type="A", value="10.10.0.77")
    assert serial() == before + 1
    zone.records.delete(record.key)


@scenario("hook:vnet_wireguards.before_create")
def a_tunnel_gets_a_key():
    import base64

    with network() as net:
        tunnel = net.wireguard.create(name="wg", ip_address="10.88.0.1/24")
        assert len(base64.b64decode(tunnel.public_key)) == 32


@scenario("hook:vnet_wireguards.before_delete")
def an_enabled_tunnel_is_not_deleted():
    with network() as net:
        tunnel = net.wireguard.create(name="wg", ip_address="10.88.0.1/24")
        with refused(ValidationError, 422, "enabled"):
            net.wireguard.delete(tunnel.key)


@scenario("query_completes")
def a_network_answers_what_it_knows():
    net = client.networks.get(name="Internal")
    known = net.queries.run("ping", {"host": "10.10.0.101"}, timeout=4, poll_interval=0.05)
    unknown = net.queries.run("ping", {"host": "10.10.0.250"}, timeout=4, poll_interval=0.05)
    assert known.status == "complete" and "0% packet loss" in known.result, known.result
    assert "100% packet loss" in unknown.result, unknown.result


@scenario("hook:vnet_addresses.before_create")
def an_address_is_given_once():
    with network() as net:
        net.aliases.create(ip="10.77.0.50", name="a")
        with refused(ConflictError, 409, "10.77.0.50"):
            net.aliases.create(ip="10.77.0.50", name="b")


# Tenants


@scenario("act:tenant_actions.poweron")
def a_tenant_starts_with_its_nodes():
    with tenant() as made:
        made.nodes.create(cpu_cores=2, ram_gb=4, cluster=1)
        made.power_on()
        eventually("it runs", lambda: client.tenants.get(made.key).is_running)
        node = client.tenants.get(made.key).nodes.list()[0]
        assert node.get("running") is True, node


@scenario("cell:tenants.isolate")
def isolation_is_shown():
    with tenant() as made:
        made.enable_isolation()
        assert client.tenants.get(made.key).is_isolated


@scenario("tenant_restore")
def a_tenants_restore_gives_old_values_back():
    with tenant(description="before") as made:
        made.storage.create(tier=1, provisioned_gb=10)
        snapshot = made.snapshots.create(name="s")
        client.tenants.update(made.key, description="after")
        made.storage.delete_by_tier(tier=1)
        made.snapshots.restore(snapshot.key)
        back = client.tenants.get(made.key)
        assert back.get("description") == "before" and len(back.storage.list()) == 1, back


@scenario("act:tenant_actions.clone")
def a_tenants_clone_has_its_storage():
    with tenant() as made:
        made.storage.create(tier=1, provisioned_gb=10)
        name = unique("clone")
        answer = action("tenant_actions", "tenant", made.key, "clone", name=name)
        assert answer and answer["response"]["tenantkey"], answer
        clone = client.tenants.get(name=name)
        assert [s.tier for s in clone.storage.list()] == [1]
        client.tenants.delete(clone.key)


@scenario("hook:tenants.before_delete")
def a_running_tenant_is_not_deleted():
    with tenant() as made:
        made.power_on()
        eventually("it runs", lambda: client.tenants.get(made.key).is_running)
        with refused(ConflictError, 409, "running"):
            client.tenants.delete(made.key)


@scenario("hook:tenants.after_delete")
def a_tenant_takes_its_network_with_it():
    made = client.tenants.create(name=unique("tenant"))
    vnet = made.get("vnet")
    assert client.networks.get(vnet).get("type") == "tenant"
    client.tenants.delete(made.key)
    with refused(NotFoundError, 404):
        client.networks.get(vnet)


def into(made, user, password):
    """A client of the tenant's own system, once it runs."""
    made.power_on()
    eventually("it runs", lambda: client.tenants.get(made.key).is_running)
    return client.tenants.get(made.key).connect(user, password)


@scenario("tenant_tables")
def a_tenant_has_rows_of_its_own():
    with vm() as outside, tenant() as made:
        inside = into(made, USER, PASSWORD)
        assert inside.cloud_name == made.name, inside.cloud_name
        assert inside.vms.list() == []
        own = inside.vms.create(name="inside", ram=1024)
        names = [v.name for v in client.vms.list()]
        assert outside.name in names and "inside" not in names, names
        inside.vms.delete(own.key)
        inside.disconnect()


@scenario("cell:tenants.password")
def a_tenants_admin_has_the_tenants_password():
    with tenant(password="of the tenant") as made:
        inside = into(made, "admin", "of the tenant")
        assert inside.is_connected
        try:
            client.tenants.get(made.key).connect(USER, PASSWORD)
        except AuthenticationError:
            pass
        else:
            raise AssertionError("the password of the system around it is taken")


@scenario("act:tenant_actions.give_file")
def a_given_file_is_in_the_tenants_catalogue():
    with tempfile.NamedTemporaryFile(suffix=".iso") as local:
        local.write(b"given")
        local.flush()
        name = unique("given") + ".iso"
        file = client.files.upload(local.name, name=name)
    with tenant() as made:
        inside = into(made, USER, PASSWORD)
        action("tenant_actions", "tenant", made.key, "give_file", file=file.key)
        there = eventually("it arrives", lambda: [f for f in inside.files.list() if f.name == name])
        assert there[0].size_bytes == 5, there
    client.files.delete(file.key)


@scenario("cell:tenant_logs.text")
def what_happens_to_a_tenant_is_told():
    with tenant() as made:
        texts = [line.text for line in made.logs.list()]
        assert "Tenant created" in texts, texts


# Snapshots of the system


@scenario("cloud_snapshot_built")
def a_cloud_snapshot_is_built():
    made = client.cloud_snapshots.create(name=unique("cloud"), retention_seconds=10**9, wait=False)
    row = eventually("it is normal", lambda: [s for s in [client.cloud_snapshots.get(made.key)] if s.get("status") == "normal"])[0]
    names = {part.name for part in client.cloud_snapshots.vms(row.key).list()}
    assert {"web1", "db1"} <= names, names
    client.cloud_snapshots.delete(row.key)


@scenario("act:cloud_snapshot_vm_actions.recover")
def a_vm_comes_back_from_a_cloud_snapshot():
    with vm(description="to be kept") as made:
        snapshot = client.cloud_snapshots.create(name=unique("cloud"), retention_seconds=10**9, wait=False)
        eventually("it is normal", lambda: client.cloud_snapshots.get(snapshot.key).get("status") == "normal")
        name = unique("recovered")
        client.cloud_snapshots.restore_vm(snapshot_key=snapshot.key, vm_name=made.name, new_name=name)
        back = client.vms.get(name=name)
        assert back.get("description") == "to be kept"
        client.vms.delete(back.key)
        client.cloud_snapshots.delete(snapshot.key)


@scenario("immutable")
def an_immutable_snapshot_stays():
    made = client.cloud_snapshots.create(name=unique("locked"), retention_seconds=10**9, immutable=True, wait=False)
    eventually("it is normal", lambda: client.cloud_snapshots.get(made.key).get("status") == "normal")
    with refused(ConflictError, 409, "immutable"):
        client.cloud_snapshots.delete(made.key)


@scenario("partial_tags")
def a_partial_snapshot_takes_what_is_tagged():
    tag = client.tags.get(name="production", category_key=1)
    made = api("POST", "cloud_snapshots", {"name": unique("partial"), "type": "partial_include", "partial_tags": str(tag.key)})["$key"]
    eventually("it is normal", lambda: client.cloud_snapshots.get(int(made)).get("status") == "normal")
    names = {part.name for part in client.cloud_snapshots.vms(int(made)).list()}
    assert names == {"web1", "db1"}, names
    client.cloud_snapshots.delete(int(made))


@scenario("timer:period/")
def a_profile_takes_snapshots_by_the_clock():
    profile = client.snapshot_profiles.create(name=unique("profile"))
    profile.add_period(name="Hourly", frequency="hourly", retention_seconds=7200)
    with vm() as made:
        client.vms.update(made.key, snapshot_profile=profile.key)
        advance(minutes=61)
        taken = eventually("a snapshot", lambda: made.snapshots.list())
        assert taken[0].name.startswith("Hourly") and not taken[0].get("created_manually")
        client.vms.update(made.key, snapshot_profile=None)
    client.snapshot_profiles.delete(profile.key)


# Tasks


@contextlib.contextmanager
def power_task(made, **options):
    """A task that starts a VM."""
    task = client.tasks.create(name=unique("task"), owner=made.key, action="poweron", table="vms", **options)
    try:
        yield task
    finally:
        with contextlib.suppress(APIError):
            client.tasks.delete(task.key)


@scenario("act:tasks.execute")
def a_task_does_what_it_is_for():
    with vm() as made, power_task(made) as task:
        client.tasks.execute(task.key)
        eventually("it runs", lambda: client.vms.get(made.key).is_running)
        done = client.tasks.get(task.key)
        assert done.is_complete and done.get("last_run"), done


@scenario("timer:schedule/")
def a_schedule_fires_by_the_clock():
    with vm() as made, power_task(made) as task:
        schedule = client.task_schedules.create(name=unique("schedule"), repeat_every="hour", start_time_of_day=0)
        client.task_schedule_triggers.create(task=task.key, schedule=schedule.key)
        assert not client.vms.get(made.key).is_running
        advance(minutes=61)
        eventually("it runs", lambda: client.vms.get(made.key).is_running)
        client.task_schedules.delete(schedule.key)


@scenario("disabled_schedules")
def a_disabled_schedule_does_not_fire():
    with vm() as made, power_task(made) as task:
        schedule = client.task_schedules.create(name=unique("schedule"), repeat_every="hour", start_time_of_day=0, enabled=False)
        client.task_schedule_triggers.create(task=task.key, schedule=schedule.key)
        advance(minutes=61)
        time.sleep(0.5)
        assert not client.vms.get(made.key).is_running
        client.task_schedules.delete(schedule.key)


@scenario("event_fires")
def an_event_sets_a_task_off():
    with vm() as made:
        task = client.tasks.create(name=unique("task"), owner=made.key, action="snapshot", table="vms")
        api("POST", "task_events", {"task": task.key, "owner": f"vms/{made.key}", "table": "vms", "event": "poweron"})
        assert not made.snapshots.list()
        made.power_on()
        eventually("a snapshot", lambda: made.snapshots.list())
        client.tasks.delete(task.key)


@scenario("hook:task_scripts.before_delete")
def a_script_takes_its_tasks_with_it():
    script = client.task_scripts.create(name=unique("script"), script="return_success();")
    task = client.tasks.create(name=unique("task"), owner=script.key, action="run", table="task_scripts")
    client.task_scripts.delete(script.key)
    with refused(NotFoundError, 404):
        client.tasks.get(task.key)


@scenario("task_errors")
def a_failed_task_says_why():
    script = client.task_scripts.create(name=unique("script"), script="return_error('out of paper');")
    task = client.tasks.create(name=unique("task"), owner=script.key, action="run", table="task_scripts")
    with contextlib.suppress(APIError):
        client.tasks.execute(task.key)
    row = api("GET", f"tasks/{task.key}", params={"fields": "status,error"})
    assert row["status"] == "error" and "out of paper" in row["error"], row
    client.task_scripts.delete(script.key)


@scenario("act:task_schedules.get_schedule")
def the_next_times_of_a_schedule():
    schedule = client.task_schedules.create(name=unique("schedule"), repeat_every="day", start_time_of_day=3600)
    times = [t["time"] for t in client.task_schedules.get_schedule(schedule.key, max_results=3)]
    assert len(times) == 3 and times[1] - times[0] == 86400 and times[0] % 86400 == 3600, times
    client.task_schedules.delete(schedule.key)


# Webhooks


@contextlib.contextmanager
def listener():
    """A web server that notes what it is sent."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            got.append(({k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    finally:
        server.shutdown()


@scenario("webhook_sent")
def a_webhook_arrives():
    with listener() as (url, got):
        hook = client.webhooks.create(name=unique("hook"), url=url, headers={"X-From": "lab"}, authorization_type="Bearer", authorization_value="secret")
        client.webhooks.send(hook.key, message={"text": "hello"})
        headers, body = eventually("it arrives", lambda: got)[0]
        assert body == {"text": "hello"} and headers["x-from"] == "lab" and headers["authorization"] == "Bearer secret", (headers, body)
        eventually("it is told", lambda: client.webhooks.history(webhook_key=hook.key)[0].status == "sent")
        client.webhooks.delete(hook.key)


@scenario("webhook_anywhere")
def a_webhook_goes_nowhere_else():
    hook = client.webhooks.create(name=unique("hook"), url="http://192.0.2.1/hook", retries=0)
    client.webhooks.send(hook.key, message={})
    entry = eventually("it is told", lambda: [h for h in client.webhooks.history(webhook_key=hook.key) if h.status in ("sent", "error")])[0]
    assert entry.status == "error" and "this machine only" in entry.get("status_info"), entry
    client.webhooks.delete(hook.key)


# Who may what


@scenario("access")
def a_user_without_permission_is_refused():
    with user() as (_, other), refused(AuthenticationError, 403):
        other.vms.list()


@scenario("hook:permissions.after_create")
def what_is_granted_is_logged():
    with user(may_list=["vms"]) as (_, other):
        assert other.vms.list(), "nothing is shown"
        with refused(AuthenticationError, 403):
            other.vms.create(name=unique("no"), ram=1024)
        names = [line.get("object_name") for line in client.logs.list(object_type="Permission")]
        assert "vms" in names, names


@scenario("group_rights")
def a_group_gives_its_members_its_rights():
    group = client.groups.create(name=unique("group"))
    client.permissions.grant(table="vnets", group=group.key, can_list=True, can_read=True)
    with user() as (made, other):
        with refused(AuthenticationError, 403):
            other.networks.list()
        group.members.add_user(made.key)
        assert other.networks.list()
    client.groups.delete(group.key)


@scenario("disabled_users")
def a_disabled_user_is_nobody():
    with user(may_list=["vms"]) as (made, other):
        assert other.vms.list()
        client.users.disable(made.key)
        with refused(AuthenticationError, 401):
            other.vms.list()


@scenario("key_expiry")
def an_api_key_ends_by_the_clock():
    made = client.api_keys.create(user=USER, name=unique("key"), expires_in="3650d")
    # The SDK counts from its own clock: what is written is moved next to the server's.
    now = api("GET", f"user_api_keys/{made.key}", params={"fields": "created"})["created"]
    api("PUT", f"user_api_keys/{made.key}", {"expires": now + 3600, "expires_type": "date"})
    other = connect("key", token=made.secret)
    assert other.vms.list(limit=1)
    advance(hours=2)
    with refused(AuthenticationError, 401):
        other.vms.list(limit=1)
    client.api_keys.delete(made.key)


@scenario("key_addresses")
def an_api_key_is_bound_to_addresses():
    made = client.api_keys.create(user=USER, name=unique("key"), ip_allow_list=["10.0.0.0/8"])
    with refused(AuthenticationError):
        connect("key", token=made.secret)
    client.api_keys.delete(made.key)


# Rows


@scenario("unique")
def a_name_is_given_once():
    with vm() as made, refused(ConflictError, 409):
        client.vms.create(name=made.name, ram=1024)


@scenario("references")
def a_reference_must_lead_somewhere():
    with vm() as made, refused(NotFoundError, 404, "No such file or directory"):
        api("POST", "machine_nics", {"machine": made.machine_key, "vnet": 987654})


@scenario("enums")
def a_value_must_be_in_its_list():
    with vm() as made, refused(ValidationError, 422, "is not in list for field 'os_family'"):
        api("PUT", f"vms/{made.key}", {"os_family": "plan9"})


@scenario("readonly")
def a_read_only_field_is_refused():
    with vm() as made, refused(ValidationError, 422, "readonly"):
        api("PUT", f"vms/{made.key}", {"machine": 1})


@scenario("cascade")
def a_tag_category_takes_tags_and_members_with_it():
    category = client.tag_categories.create(name=unique("category"), taggable_vms=True)
    tag = client.tags.create(name="t", category_key=category.key)
    with vm() as made:
        made.tag(tag_key=tag.key)
        client.tag_categories.delete(category.key)
        assert not made.get_tags()
        with refused(NotFoundError, 404):
            client.tags.get(tag.key)


@scenario("single_tag")
def a_category_of_one_tag_refuses_a_second():
    category = client.tag_categories.create(name=unique("category"), taggable_vms=True, single_tag_selection=True)
    one, two = (client.tags.create(name=name, category_key=category.key) for name in ("one", "two"))
    with vm() as made:
        made.tag(tag_key=one.key)
        with refused(ConflictError, 409, "allows one"):
            made.tag(tag_key=two.key)
        assert [tag["tag_name"] for tag in made.get_tags()] == ["one"]
    client.tag_categories.delete(category.key)


@scenario("taggable")
def a_category_says_what_carries_its_tags():
    category = client.tag_categories.create(name=unique("category"), taggable_networks=True)
    tag = client.tags.create(name="t", category_key=category.key)
    with vm() as made:
        with refused(ValidationError, 422, "not for vms"):
            made.tag(tag_key=tag.key)
        assert not made.get_tags()
    client.tag_categories.delete(category.key)


@scenario("filter_or")
def filters_are_read_from_left_to_right():
    names = [row["name"] for row in api("GET", "vms", params={"filter": "name eq 'test' or name eq 'web1' and cpu_cores eq 2", "fields": "name"})]
    assert names == ["web1"], names


@scenario("sort")
def rows_come_in_the_order_asked_for():
    ram = [row["ram"] for row in api("GET", "vms", params={"sort": "-ram,name", "fields": "ram"})]
    assert ram == sorted(ram, reverse=True) and len(set(ram)) > 1, ram


@scenario("offset")
def pages_follow_each_other():
    one = client.logs.list(limit=3)
    two = client.logs.list(limit=3, offset=3)
    assert not {line.key for line in one} & {line.key for line in two}


# NAS


@scenario("hook:volumes.after_create")
def a_volume_is_made_with_its_antivirus_row():
    made = client.nas_volumes.create(name=unique("volume"), service=1, size_gb=5)
    assert made.antivirus.get().get("enabled") is False
    with refused(ConflictError, 409):
        api("POST", "volume_antivirus", {"volume": made.key})
    client.nas_volumes.delete(made.key)


@scenario("cascade")
def a_volume_takes_its_snapshots_with_it():
    made = client.nas_volumes.create(name=unique("volume"), service=1, size_gb=5)
    snapshot = client.nas_volumes.snapshots(made.key).create(name="s")
    client.nas_volumes.delete(made.key)
    with refused(NotFoundError, 404):
        client.nas_volume_snapshots.get(key=snapshot.key)


@scenario("act:volume_sync_actions.stop_sync")
def a_sync_that_rests_cannot_be_stopped():
    sync = client.volume_syncs.get(name="projects to archive")
    with refused(ValidationError, 422, "not running"):
        client.volume_syncs.stop(sync.key)


@scenario("hook:volumes.after_update")
def a_disabled_volume_is_not_mounted():
    made = client.nas_volumes.create(name=unique("volume"), service=1, size_gb=5)
    mounted = lambda: api("GET", f"volumes/{made.key}", params={"fields": "status#mounted as m"})["m"]
    assert mounted() is True
    client.nas_volumes.disable(made.key)
    assert mounted() is False
    client.nas_volumes.delete(made.key)


# Files


@scenario("filepos")
def a_file_comes_back_as_it_went():
    content = os.urandom(700_000)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, unique("upload") + ".iso")
        with open(path, "wb") as file:
            file.write(content)
        made = client.files.get(client.files.upload(path).key, fields="$key,name,type,filesize")
        try:
            assert made.file_type == "iso" and made.size_bytes == len(content), made
            assert client.files.get_content(made.key, filename=made.name, as_bytes=True) == content
        finally:
            client.files.delete(made.key)


@scenario("hook:cloudinit_files.before_create")
def a_cloud_init_file_knows_its_size():
    with vm() as made:
        file = made.cloudinit_files.create(name="/user-data", contents="#cloud-config\n")
        assert file.filesize == len("#cloud-config\n") and file.get_content() == "#cloud-config\n"


# The system


@scenario("alarm_history")
def a_resolved_alarm_is_history():
    alarm = next(a for a in client.alarms.list(include_snoozed=True) if a.is_resolvable)
    before = len(client.alarms.list_history())
    client.alarms.resolve(alarm.key)
    assert alarm.key not in [a.key for a in client.alarms.list(include_snoozed=True)]
    assert len(client.alarms.list_history()) == before + 1


@scenario("act:license_actions.generate")
def a_licence_request_is_a_file():
    answer = api("POST", "license_actions", {"action": "generate"})
    assert answer and answer["response"]["filename"].endswith(".lrq"), answer
    key = int(answer["response"]["filekey"].split("/")[1])
    assert client.files.get_content(key, filename="x", as_bytes=True)[:4] == bytes([0x8A, 0x3A, 0, 0])
    client.files.delete(key)


@scenario("hook:oidc_applications.before_create")
def an_application_gets_its_secret():
    made = client.oidc_applications.create(name=unique("app"), redirect_uri="https://app.example/callback")
    assert made.client_id and made.client_secret
    assert "client_secret" not in api("GET", f"oidc_applications/{made.key}", params={"fields": "all"})
    client.oidc_applications.delete(made.key)


@scenario("dashboard_counts")
def the_dashboard_counts_what_runs():
    before = client.system.statistics().vms_online
    with running():
        assert client.system.statistics().vms_online == before + 1


@scenario("hook:certificates.before_create")
def a_certificate_is_one():
    made = client.certificates.create(domain="scenario.example", cert_type="SelfSigned")
    whole = client.certificates.get(made.key, include_keys=True)
    assert "BEGIN CERTIFICATE" in (whole.public_key or ""), whole
    client.certificates.delete(made.key)


@scenario("act:update_actions.download")
def updates_are_downloaded():
    assert client.update_source_packages.list_pending()
    client.update_settings.download()
    assert not client.update_source_packages.list_pending()


def main():
    global client
    arguments = sys.argv[1:]
    quiet = "--quiet" in arguments
    names = [a for a in arguments if not a.startswith("--")]
    if "--list" in arguments:
        for name, mutation, _ in scenarios:
            print(f"{name}\t{mutation}")
        return
    passed = failed = 0
    for name, _, function in scenarios:
        if names and name not in names:
            continue
        start = time.monotonic()
        try:
            client = connect(name)
            members.called.clear()
            function()
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(limit=6, file=sys.stdout)
        else:
            passed += 1
            members.write("ci/vergeos_sdk.py::" + name)
            print(f"ok     {name}  {time.monotonic() - start:.2f} s", flush=True)
    if not quiet:
        print(f"vergeos_sdk.py: {passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
