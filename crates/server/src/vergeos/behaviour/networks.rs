//! Networks: what needs to be applied, rules in their order, routers, DNS, tunnels with keys of their own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, cells, conflict, default, key};
use super::{Act, Behaviour, machines, x25519};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Networks;

/// Columns to follow, each with the table it leads to.
type Way = &'static [(&'static str, &'static str)];

/// Tables whose rows, when they change, leave something of their network to be applied: how the network is found, and
/// which flag says so.
const APPLIED: &[(&str, Way, &str)] = &[
    ("vnet_rules", &[("vnet", "vnets")], "need_fw_apply"),
    ("vnet_addresses", &[("vnet", "vnets")], "need_fw_apply"),
    ("vnet_cidrs", &[("vnet", "vnets")], "need_fw_apply"),
    ("vnet_hosts", &[("vnet", "vnets")], "need_dns_apply"),
    ("vnet_dns_views", &[("vnet", "vnets")], "need_dns_apply"),
    (
        "vnet_dns_zones",
        &[("view", "vnet_dns_views"), ("vnet", "vnets")],
        "need_dns_apply",
    ),
    (
        "vnet_dns_zone_records",
        &[
            ("zone", "vnet_dns_zones"),
            ("view", "vnet_dns_views"),
            ("vnet", "vnets"),
        ],
        "need_dns_apply",
    ),
    ("vnet_proxy", &[("vnet", "vnets")], "need_proxy_apply"),
    (
        "vnet_proxy_tenants",
        &[("proxy", "vnet_proxy"), ("vnet", "vnets")],
        "need_proxy_apply",
    ),
    ("vnet_wireguards", &[("vnet", "vnets")], "need_fw_apply"),
    (
        "vnet_wireguard_peers",
        &[("wireguard", "vnet_wireguards"), ("vnet", "vnets")],
        "need_fw_apply",
    ),
    (
        "vnet_ipsec_phase1s",
        &[("ipsec", "vnet_ipsecs"), ("vnet", "vnets")],
        "need_fw_apply",
    ),
    (
        "vnet_ipsec_phase2s",
        &[
            ("phase1", "vnet_ipsec_phase1s"),
            ("ipsec", "vnet_ipsecs"),
            ("vnet", "vnets"),
        ],
        "need_fw_apply",
    ),
];

/// Cells of a network that its router takes over at the next start only.
const NEEDS_RESTART: &[&str] = &[
    "network",
    "ipaddress",
    "gateway",
    "mtu",
    "layer2_type",
    "layer2_id",
    "interface_vnet",
    "dhcp_enabled",
    "dns",
];

/// Says that something of a row's network is not applied yet.
fn mark(tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
    let Some((_, way, flag)) = APPLIED.iter().find(|(t, ..)| *t == table) else {
        return Ok(());
    };
    let mut at = row.clone();
    let mut network = String::new();
    for (column, next) in *way {
        let Some(reference) = at.reference(column) else {
            return Ok(());
        };
        // A row that goes with its network finds nobody to tell.
        let Some(found) = tx.get(next, &reference) else {
            return Ok(());
        };
        network = reference;
        at = (*found).clone();
    }
    if kit::mutated("apply_flags") {
        return Ok(());
    }
    tx.set("vnets", &network, Row::new().with(flag, true))
}

impl Behaviour for Networks {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[("vnet_actions", "refresh"), ("vnets", "applydns")]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "vnet_rules" => {
                let network = row.reference("vnet").unwrap_or_default();
                let rules = tx.children(table, "vnet", &network);
                let own: Vec<_> = rules.iter().filter(|r| !r.flag("system_rule")).collect();
                default(row, "pin", "no");
                default(row, "interface", "auto");
                let place = if row.text("pin") == "top" {
                    for rule in &own {
                        tx.set(
                            table,
                            &rule.key(),
                            Row::new().with("orderid", rule.int("orderid") + 1),
                        )?;
                    }
                    1
                } else {
                    own.iter().map(|r| r.int("orderid")).max().unwrap_or(0) + 1
                };
                if row.int("orderid") == 0 {
                    row.set("orderid", place);
                }
            }
            "vnet_addresses" => {
                default(row, "type", "static");
                let network = row.reference("vnet").unwrap_or_default();
                let ip = row.text("ip").to_owned();
                if !ip.is_empty()
                    && tx
                        .children(table, "vnet", &network)
                        .iter()
                        .any(|a| a.text("ip") == ip)
                {
                    return Err(conflict(format!("row exists: the address {ip} is taken")));
                }
            }
            "vnet_wireguards" => {
                if row.int("listenport") == 0 {
                    row.set("listenport", 51820);
                }
                let private = x25519::new_private();
                row.set("public_key", BASE64.encode(x25519::public(&private)));
                row.set("private_key", BASE64.encode(private));
            }
            "vnet_wireguard_peers" => {
                default(row, "configure_firewall", "site-to-site");
                if row.flag("autogenerate_peer") {
                    let private = x25519::new_private();
                    row.set("public_key", BASE64.encode(x25519::public(&private)));
                    let tunnel = row
                        .reference("wireguard")
                        .and_then(|w| tx.get("vnet_wireguards", &w));
                    let of = |column: &str| {
                        tunnel
                            .as_ref()
                            .map(|t| t.text(column).to_owned())
                            .unwrap_or_default()
                    };
                    let config = format!(
                        "[Interface]\nPrivateKey = {}\nAddress = {}\n\n[Peer]\nPublicKey = {}\nEndpoint = {}:{}\nAllowedIPs = {}\n",
                        BASE64.encode(private),
                        row.text("peer_ip"),
                        of("public_key"),
                        of("endpoint_ip"),
                        tunnel.as_ref().map_or(0, |t| t.int("listenport")),
                        of("ip"),
                    );
                    row.set("private_key", BASE64.encode(private));
                    row.set("wg_config", config);
                }
            }
            "vnet_ipsec_phase1s" => {
                for (column, value) in [
                    ("auth", "psk"),
                    ("negotiation", "main"),
                    ("auto", "route"),
                    ("dpdaction", "restart"),
                ] {
                    default(row, column, value);
                }
            }
            "vnet_dns_zones" => {
                default(row, "default_ttl", "1h");
                row.set("serial_number", 1);
            }
            "vnet_proxy" => default(row, "listen_address", "0.0.0.0"),
            "vnet_bgp_router_commands"
            | "vnet_bgp_interface_commands"
            | "vnet_bgp_routemap_commands"
            | "vnet_bgp_ip"
            | "vnet_ospf_commands"
            | "vnet_eigrp_router_commands"
            | "vnet_dns_zone_records"
            | "vnet_dns_views"
                if row.get("orderid").is_null() =>
            {
                row.set("orderid", tx.all(table).len() + 1);
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        match table {
            "vnets" => {
                // Every router lets answers in and nothing else.
                for (order, name, action, state) in [
                    (1000, "Accept established", "accept", "established,related"),
                    (1001, "Drop the rest", "drop", ""),
                ] {
                    tx.insert("vnet_rules", cells(json!({"vnet": key(&row.key()), "name": name, "direction": "incoming",
                        "action": action, "protocol": "any", "interface": "auto", "pin": "no", "ct_state": state,
                        "orderid": order, "enabled": true, "system_rule": true, "modified": tx.now()})))?;
                }
            }
            "vnet_wireguard_peers" => {
                tx.insert(
                    "vnet_wireguard_peer_status",
                    cells(json!({"peer": key(&row.key()), "last_update": tx.now()})),
                )?;
            }
            "vnet_dns_zone_records" => bump_serial(tx, row)?,
            "vnet_proxy" => set_proxy(tx, row, true)?,
            _ => {}
        }
        mark(tx, table, row)
    }

    fn before_update(&self, _: &mut Tx<'_>, table: &str, old: &Row, _: &mut Row) -> Done {
        if table == "vnet_rules" && old.flag("system_rule") {
            return Err(kit::invalid("Cannot modify system rule"));
        }
        Ok(())
    }

    fn after_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &Row) -> Done {
        match table {
            "vnets" => {
                let changed = NEEDS_RESTART.iter().any(|c| old.get(c) != new.get(c));
                let runs = new
                    .reference("machine")
                    .is_some_and(|m| machines::is_running(&*tx, &m));
                if changed && runs {
                    tx.set(table, &new.key(), Row::new().with("need_restart", true))?;
                }
                return Ok(());
            }
            "vnet_dns_zone_records" => bump_serial(tx, new)?,
            _ => {}
        }
        mark(tx, table, new)
    }

    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        match table {
            "vnets" => {
                // What protects itself goes with its network.
                let own = row.key();
                for rule in tx.children("vnet_rules", "vnet", &own) {
                    tx.remove("vnet_rules", &rule.key());
                }
                for tunnel in tx.children("vnet_wireguards", "vnet", &own) {
                    tx.set(
                        "vnet_wireguards",
                        &tunnel.key(),
                        Row::new().with("enabled", false),
                    )?;
                }
                Ok(())
            }
            "vnet_rules" if row.flag("system_rule") => {
                Err(kit::invalid("Cannot delete system rule"))
            }
            "vnet_wireguards" if row.get("enabled") != &Value::Bool(false) => Err(kit::invalid(
                "The interface is enabled: disable it and apply the rules first",
            )),
            _ => Ok(()),
        }
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        match table {
            "vnet_dns_zone_records" => bump_serial(tx, row)?,
            "vnet_proxy" => set_proxy(tx, row, false)?,
            _ => {}
        }
        mark(tx, table, row)
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let machine = row.reference("machine").unwrap_or_default();
            if !machines::is_running(&cx.db, &machine) {
                return Err(conflict("vNet is not running"));
            }
            let (flags, words) = if act.verb == "applydns" {
                (json!({"need_dns_apply": false}), "DNS applied")
            } else {
                (
                    json!({"need_fw_apply": false, "need_proxy_apply": false}),
                    "Rules applied",
                )
            };
            cx.write(|tx| {
                tx.set("vnets", &row.key(), cells(flags))?;
                kit::own_log(tx, "machine_logs", "machine", &machine, "message", words)?;
                kit::log(tx, "audit", "vnet", row.text("name"), words)
            })
            .await?;
            Ok(match act.verb.as_str() {
                "applydns" => Written::done(),
                _ => kit::reply(Row::new()),
            })
        })
    }
}

fn bump_serial(tx: &mut Tx<'_>, record: &Row) -> Done {
    if let Some(zone) = record
        .reference("zone")
        .and_then(|z| tx.get("vnet_dns_zones", &z))
    {
        let next = Row::new().with("serial_number", zone.int("serial_number") + 1);
        tx.set("vnet_dns_zones", &zone.key(), next)?;
    }
    Ok(())
}

fn set_proxy(tx: &mut Tx<'_>, proxy: &Row, on: bool) -> Done {
    let network = proxy.reference("vnet").unwrap_or_default();
    tx.set("vnets", &network, Row::new().with("proxy_enabled", on))
}
