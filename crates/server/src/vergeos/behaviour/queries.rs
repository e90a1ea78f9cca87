//! Query jobs of networks, nodes, tenants' nodes and containers, answered from what the tables say.
//!
//! There is no packet on a simulated network: `ping` says whether an address is one that is known there, `tcpdump` sees
//! nothing. A query that cannot be answered so ends with the status `error`.

use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};
use std::fmt::Write as _;

use super::kit::{self, Done};
use super::{Behaviour, machines};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Queries;

/// The tables of jobs, with the column that names what is asked and its table.
const TABLES: &[(&str, &str, &str)] = &[
    ("vnet_queries", "vnet", "vnets"),
    ("node_queries", "node", "nodes"),
    ("tenant_node_queries", "tenant_node", "tenant_nodes"),
    (
        "service_container_queries",
        "service_container",
        "service_containers",
    ),
    ("vsan_queries", "", ""),
];
/// How long a job is kept.
const KEPT_S: i64 = 3600;

/// Whom a query is about.
struct Subject<'a> {
    db: &'a (dyn Read + Sync),
    row: Option<std::sync::Arc<Row>>,
    table: &'a str,
}

impl Subject<'_> {
    fn key(&self) -> String {
        self.row.as_ref().map(|r| r.key()).unwrap_or_default()
    }
    fn text(&self, column: &str) -> &str {
        self.row.as_ref().map_or("", |r| r.text(column))
    }
    /// The network it asks from.
    fn network(&self) -> Option<String> {
        match self.table {
            "vnets" => Some(self.key()),
            "service_containers" => self.row.as_ref().and_then(|r| r.reference("vnet")),
            _ => None,
        }
    }
    fn addresses(&self) -> Vec<std::sync::Arc<Row>> {
        match self.network() {
            Some(network) => self.db.children("vnet_addresses", "vnet", &network),
            None => self.db.all("vnet_addresses"),
        }
    }
    fn own_ip(&self) -> String {
        let network = self.network().and_then(|n| self.db.get("vnets", &n));
        let node = self.text("ipmi_address").to_owned();
        network.map_or(node, |n| n.text("ipaddress").to_owned())
    }
    fn knows(&self, host: &str) -> bool {
        host == "localhost"
            || host.starts_with("127.")
            || host == self.own_ip()
            || self.resolve(host).is_some()
            || self.addresses().iter().any(|a| a.text("ip") == host)
    }
    /// What a name stands for: hosts of the network, then the records of its zones.
    fn resolve(&self, name: &str) -> Option<String> {
        let host = |h: &Row| {
            h.text("host") == name
                && self
                    .network()
                    .is_none_or(|n| h.reference("vnet") == Some(n))
        };
        if let Some(found) = self.db.find("vnet_hosts", &host) {
            return Some(found.text("ip").to_owned());
        }
        for zone in self.db.all("vnet_dns_zones") {
            let short = name
                .strip_suffix(zone.text("domain"))
                .and_then(|n| n.strip_suffix('.'));
            if let Some(short) = short
                && let Some(record) = self
                    .db
                    .children("vnet_dns_zone_records", "zone", &zone.key())
                    .iter()
                    .find(|r| r.text("host") == short)
            {
                return Some(record.text("value").to_owned());
            }
        }
        self.addresses()
            .iter()
            .find(|a| a.text("hostname") == name)
            .map(|a| a.text("ip").to_owned())
    }
}

/// The command and the output of a query, or why there is none.
fn answer(subject: &Subject<'_>, query: &str, params: &Value) -> Result<(String, String), String> {
    let param = |name: &str| {
        let value = params.get(name).cloned().unwrap_or_default();
        value.as_str().map(str::to_owned).unwrap_or_else(|| {
            if value.is_null() {
                String::new()
            } else {
                value.to_string()
            }
        })
    };
    let host = [param("host"), param("target"), param("name")]
        .into_iter()
        .find(|h| !h.is_empty())
        .unwrap_or_default();
    let need_host = || {
        if host.is_empty() {
            Err("a host is needed".to_owned())
        } else {
            Ok(())
        }
    };
    let mut out = String::new();
    let command = match query {
        "ping" => {
            need_host()?;
            let known = subject.knows(&host);
            let _ = writeln!(out, "PING {host}: 56 data bytes");
            for n in 0..4 {
                let _ = match known {
                    true => writeln!(out, "64 bytes from {host}: seq={n} ttl=64"),
                    false => writeln!(
                        out,
                        "From {}: seq={n} Destination Host Unreachable",
                        subject.own_ip()
                    ),
                };
            }
            let received = if known { 4 } else { 0 };
            let _ = writeln!(
                out,
                "4 packets transmitted, {received} received, {}% packet loss",
                (4 - received) * 25
            );
            format!("ping -c 4 {host}")
        }
        "traceroute" => {
            need_host()?;
            let _ = writeln!(out, "traceroute to {host}, 30 hops max");
            let _ = match subject.knows(&host) {
                true => writeln!(out, " 1  {host}"),
                false => writeln!(out, " 1  {}  !H", subject.own_ip()),
            };
            format!("traceroute {host}")
        }
        "dns" => {
            need_host()?;
            let _ = match subject.resolve(&host) {
                Some(value) => writeln!(out, "Name: {host}\nAddress: {value}"),
                None => writeln!(out, "server can't find {host}: NXDOMAIN"),
            };
            format!("nslookup {host}")
        }
        "whatsmyip" => {
            let _ = writeln!(out, "{}", subject.own_ip());
            "whatsmyip".to_owned()
        }
        "arp" | "arp-scan" => {
            for address in subject.addresses() {
                if !address.text("mac").is_empty() {
                    let _ = writeln!(
                        out,
                        "{} ether {} C",
                        address.text("ip"),
                        address.text("mac")
                    );
                }
            }
            query.to_owned()
        }
        "ip" => {
            let _ = writeln!(out, "inet {}", subject.own_ip());
            for address in subject
                .addresses()
                .iter()
                .filter(|a| a.text("type") == "ipalias")
            {
                let _ = writeln!(out, "inet {} secondary", address.text("ip"));
            }
            "ip addr".to_owned()
        }
        "firewall" | "trace" => {
            let network = subject.network().unwrap_or_default();
            let mut rules = subject.db.children("vnet_rules", "vnet", &network);
            rules.sort_by_key(|r| r.int("orderid"));
            for rule in rules
                .iter()
                .filter(|r| query == "firewall" || r.flag("trace"))
            {
                let _ = writeln!(
                    out,
                    "{} {} {} {} -> {} # {}",
                    rule.text("direction"),
                    rule.text("action"),
                    rule.text("protocol"),
                    rule.text("source_ip"),
                    rule.text("destination_ip"),
                    rule.text("name")
                );
            }
            query.to_owned()
        }
        "logs" => {
            let machine = subject
                .row
                .as_ref()
                .and_then(|r| r.reference("machine"))
                .unwrap_or_default();
            for line in subject.db.children("machine_logs", "machine", &machine) {
                let _ = writeln!(
                    out,
                    "{} {} {}",
                    line.int("timestamp"),
                    line.text("level"),
                    line.text("text")
                );
            }
            "logs".to_owned()
        }
        "top" | "top_if" => {
            let machine = subject
                .row
                .as_ref()
                .and_then(|r| r.reference("machine"))
                .unwrap_or_default();
            let stats = kit::satellite(subject.db, "machine_stats", "machine", &machine);
            let (cpu, ram) = stats.map_or((0, 0), |s| (s.int("total_cpu"), s.int("ram_used")));
            let _ = writeln!(out, "cpu {cpu}% ram {ram} MB");
            query.to_owned()
        }
        "tcpdump" => {
            let _ = writeln!(out, "0 packets captured");
            format!(
                "tcpdump -c {}",
                if param("count").is_empty() {
                    "10".to_owned()
                } else {
                    param("count")
                }
            )
        }
        "tcp_connect" => {
            need_host()?;
            let _ = writeln!(
                out,
                "{}",
                if subject.knows(&host) {
                    "connection refused"
                } else {
                    "no route to host"
                }
            );
            format!("tcp_connect {host} {}", param("port"))
        }
        "lsblk" | "smartctl" | "dmidecode" if subject.table == "nodes" => {
            return hardware(subject, query, &param("device"));
        }
        other => {
            return Err(format!(
                "query '{other}' is not supported by the local server"
            ));
        }
    };
    Ok((command, out))
}

/// What the tables say of a node's hardware.
fn hardware(subject: &Subject<'_>, query: &str, device: &str) -> Result<(String, String), String> {
    let machine = subject
        .row
        .as_ref()
        .and_then(|r| r.reference("machine"))
        .unwrap_or_default();
    let mut out = String::new();
    if query == "dmidecode" {
        let _ = writeln!(
            out,
            "System: {}\nProcessor: {}",
            subject.text("model"),
            subject.text("cpu")
        );
        for memory in subject.db.children("node_memory", "node", &subject.key()) {
            let _ = writeln!(
                out,
                "Memory: {} {} {}",
                memory.text("locator"),
                memory.text("type"),
                memory.text("part_number")
            );
        }
        return Ok(("dmidecode".to_owned(), out));
    }
    for drive in subject.db.children("machine_drives", "machine", &machine) {
        let Some(disk) = kit::satellite(
            subject.db,
            "machine_drive_phys",
            "parent_drive",
            &drive.key(),
        ) else {
            continue;
        };
        if query == "lsblk" {
            let _ = writeln!(
                out,
                "{} {} disk",
                disk.text("path").trim_start_matches("/dev/"),
                disk.int("size")
            );
        } else if disk.text("path") == device
            || device.is_empty()
            || disk.text("path").starts_with(device)
        {
            let _ = writeln!(
                out,
                "Device Model: {}\nSerial Number: {}\nFirmware: {}\nTemperature: {}",
                disk.text("model"),
                disk.text("serial"),
                disk.text("fw"),
                disk.int("temp")
            );
        }
    }
    if out.is_empty() {
        return Err(format!("{device}: no such device"));
    }
    Ok((format!("{query} {device}").trim_end().to_owned(), out))
}

impl Behaviour for Queries {
    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        let Some((_, column, of)) = TABLES.iter().find(|(t, ..)| *t == table) else {
            return Ok(());
        };
        if row.text("query").is_empty() {
            return Err(kit::invalid("Query is a required parameter"));
        }
        if !column.is_empty() {
            let own = row
                .reference(column)
                .ok_or_else(|| kit::invalid(format!("{column} is a required parameter")))?;
            let subject = kit::need(&*tx, of, &own)?;
            if let Some(machine) = subject.reference("machine")
                && !machines::is_running(&*tx, &machine)
            {
                return Err(kit::conflict(format!(
                    "'{}' is not running",
                    subject.text("name")
                )));
            }
        }
        row.set("status", "running");
        row.set("created", tx.now());
        row.set("expires", tx.now() + KEPT_S);
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        let Some((table, column, of)) = TABLES.iter().find(|(t, ..)| *t == table) else {
            return Ok(());
        };
        let own = row.key();
        super::vms::arm_expiry(tx, table, &own, row.int("expires"))?;
        let row = row.clone();
        tx.then(move |cx| async move {
            let params = match row.get("params") {
                Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
                other => other.clone(),
            };
            let subject = Subject {
                row: row.reference(column).and_then(|k| cx.db.get(of, &k)),
                table: of,
                db: &cx.db,
            };
            let cells = match answer(&subject, row.text("query"), &params) {
                Ok((command, result)) => {
                    json!({"status": "complete", "command": command, "result": result})
                }
                Err(words) => {
                    json!({"status": "error", "command": row.text("query"), "result": words})
                }
            };
            if kit::mutated("query_completes") {
                return;
            }
            if let Err(e) = cx.write(|tx| tx.set(table, &own, kit::cells(cells))).await {
                tracing::warn!(error = %e, "the answer of a query is lost");
            }
        });
        Ok(())
    }

    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let ended = cx.write(|tx| {
                for (table, ..) in TABLES {
                    for job in tx.all(table).into_iter().filter(|j| j.text("status") == "running") {
                        tx.set(table, &job.key(), kit::cells(json!({"status": "error", "result": "The server ended while the query ran"})))?;
                    }
                }
                Ok::<_, ApiError>(())
            });
            if let Err(e) = ended.await {
                tracing::warn!(error = %e, "queries that were cut off are not told");
            }
        })
    }
}
