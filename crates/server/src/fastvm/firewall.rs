//! Firewalls: what a machine may reach, and the rules as they were written.
//!
//! Outgoing rules and names are enforced by the engine's dialler (TCP; of UDP only DNS leaves a machine at all). Incoming rules are
//! kept and checked: a machine has no address that anybody outside could reach, except by its services, each of which adds the
//! rule that lets it in.

use std::sync::Arc;

use boxrig_engine::net::{
    DnsPolicy, DnsRule, DomainPattern, EgressRule, IpNet, Ports, Protocol, Target, Verdict,
};
use boxrig_engine::{EgressPolicy, NetworkPolicy};
use boxrig_fastvm::{
    DnsMode, EgressRuleKind, Firewall, FirewallMode, FirewallPatch, FirewallPolicy,
    FirewallPolicyLegacy, FirewallProtocol, FirewallRuleLegacy, IngressPolicy, IngressRule,
    IngressRuleKind, PolicyAction, Vm, ops,
};
use boxrig_wire::{ApiError, JsonReply, Request};

use super::Cx;
use super::record::{Machine, Phase};
use super::state::{Shared, detached, engine_error, instance, no_machine};

/// The most rules of one list.
const MAX_RULES: usize = 500;
/// The most names of the list of names.
const MAX_DOMAINS: usize = 1_000;
/// Everywhere.
const ANYWHERE: &str = "::/0";

/// Public resolvers that answer names over HTTPS, by which a machine could get around the list of names.
const RESOLVERS: [&str; 12] = [
    "1.1.1.1",
    "1.0.0.1",
    "8.8.8.8",
    "8.8.4.4",
    "9.9.9.9",
    "149.112.112.112",
    "208.67.222.222",
    "208.67.220.220",
    "2606:4700:4700::1111",
    "2606:4700:4700::1001",
    "2001:4860:4860::8888",
    "2620:fe::fe",
];
/// Their names.
const RESOLVER_NAMES: [&str; 8] = [
    "cloudflare-dns.com",
    "*.cloudflare-dns.com",
    "one.one.one.one",
    "dns.google",
    "dns.quad9.net",
    "*.quad9.net",
    "doh.opendns.com",
    "dns.nextdns.io",
];
/// DNS over TLS.
const DOT_PORT: u16 = 853;

fn bad(field: &str, words: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("{field}: {words}"))
}

fn verdict(field: &str, action: &PolicyAction) -> Result<Verdict, ApiError> {
    match action {
        PolicyAction::Allow => Ok(Verdict::Allow),
        PolicyAction::Deny => Ok(Verdict::Deny),
        PolicyAction::Unknown(word) => Err(bad(
            field,
            format_args!("{word:?} is neither allow nor deny"),
        )),
        _ => Err(bad(field, "allow or deny")),
    }
}

/// `443`, `8080-8090`; `None` for `any`.
fn ports(field: &str, text: &str) -> Result<Option<Ports>, ApiError> {
    if text == "any" {
        return Ok(None);
    }
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|port| (port, port)),
    };
    match range {
        Some((first, last)) if first <= last => Ok(Some(Ports { first, last })),
        _ => Err(bad(field, format_args!("{text:?}: 443, 8080-8090 or any"))),
    }
}

/// A rule's protocol and ports, as they go together.
fn protocol(
    field: &str,
    protocol: &FirewallProtocol,
    text: &str,
) -> Result<(Option<Protocol>, Option<Ports>), ApiError> {
    let ports = ports(&format!("{field}.ports"), text)?;
    let protocol = match protocol {
        FirewallProtocol::Tcp => Some(Protocol::Tcp),
        FirewallProtocol::Udp => Some(Protocol::Udp),
        FirewallProtocol::Any if ports.is_some() => {
            return Err(bad(field, "protocol any needs ports any"));
        }
        FirewallProtocol::Any => None,
        _ => return Err(bad(&format!("{field}.protocol"), "tcp, udp or any")),
    };
    Ok((protocol, ports))
}

fn block(field: &str, text: &str) -> Result<IpNet, ApiError> {
    let field = format!("{field}.value");
    if !text.contains('/') {
        return Err(bad(
            &field,
            format_args!("{text:?} is no range of addresses such as 10.0.0.0/8"),
        ));
    }
    text.parse().map_err(|e| bad(&field, e))
}

fn domain(field: &str, text: &str) -> Result<DomainPattern, ApiError> {
    text.parse().map_err(|e| bad(field, e))
}

fn names(policy: &FirewallPolicy) -> Result<DnsPolicy, ApiError> {
    let Some(dns) = &policy.dns else {
        return Ok(DnsPolicy::default());
    };
    let domains = dns.domains.as_deref().unwrap_or_default();
    if domains.len() > MAX_DOMAINS {
        return Err(bad("dns.domains", format_args!("at most {MAX_DOMAINS}")));
    }
    let (verdict, otherwise) = match &dns.mode {
        None | Some(DnsMode::Deny) => (Verdict::Deny, Verdict::Allow),
        Some(DnsMode::Allow) => (Verdict::Allow, Verdict::Deny),
        Some(_) => return Err(bad("dns.mode", "allow or deny")),
    };
    let mut rules = Vec::new();
    if dns.block_bypass == Some(true) {
        for name in RESOLVER_NAMES {
            rules.push(DnsRule {
                verdict: Verdict::Deny,
                pattern: domain("dns", name)?,
            });
        }
    }
    for (n, text) in domains.iter().enumerate() {
        let pattern = domain(&format!("dns.domains[{n}]"), text)?;
        rules.push(DnsRule { verdict, pattern });
    }
    Ok(DnsPolicy { rules, otherwise })
}

/// Rules that close the ways around the list of names.
fn against_bypass() -> Result<Vec<EgressRule>, ApiError> {
    let deny = |target, port| EgressRule {
        verdict: Verdict::Deny,
        target,
        protocol: None,
        ports: Some(Ports {
            first: port,
            last: port,
        }),
    };
    let mut rules = vec![deny(Target::Any, DOT_PORT)];
    for address in RESOLVERS {
        let net = address.parse().map_err(|e| bad("dns", e))?;
        rules.push(deny(Target::Net(net), 443));
    }
    Ok(rules)
}

/// Checks a policy, and gives what the engine is to enforce.
pub(super) fn network(firewall: Option<&Firewall>) -> Result<NetworkPolicy, ApiError> {
    let policy = match firewall {
        None => return Ok(NetworkPolicy::Default),
        Some(Firewall::Legacy(legacy)) => {
            check_legacy(legacy)?;
            return Ok(NetworkPolicy::Default);
        }
        Some(Firewall::Layered(policy)) => policy,
    };
    // A member that nobody here knows would be a rule that is accepted and not enforced.
    if let Some(unknown) = policy.extra.keys().next() {
        return Err(bad("firewall", format_args!("unknown member {unknown:?}")));
    }
    if let Some(ingress) = &policy.ingress {
        check_ingress(ingress)?;
    }
    let dns = names(policy)?;
    let mut out = EgressPolicy {
        dns,
        ..EgressPolicy::default()
    };
    if policy
        .dns
        .as_ref()
        .is_some_and(|d| d.block_bypass == Some(true))
    {
        out.rules = against_bypass()?;
    }
    if let Some(egress) = &policy.egress {
        if let Some(action) = &egress.default {
            out.otherwise = verdict("egress.default", action)?;
        }
        let rules = egress.rules.as_deref().unwrap_or_default();
        if rules.len() > MAX_RULES {
            return Err(bad("egress.rules", format_args!("at most {MAX_RULES}")));
        }
        for (n, rule) in rules.iter().enumerate() {
            let field = format!("egress.rules[{n}]");
            let (protocol, ports) = protocol(&field, &rule.protocol, &rule.ports)?;
            let target = match &rule.kind {
                EgressRuleKind::Cidr => Target::Net(block(&field, &rule.value)?),
                EgressRuleKind::Fqdn => {
                    let pattern = domain(&format!("{field}.value"), &rule.value)?;
                    // What stands for the pattern when the names are asked.
                    let sample = rule.value.replacen("*.", "any-label.", 1);
                    if out.dns.decide(&sample) == Verdict::Deny {
                        let words = format_args!(
                            "{:?} does not resolve by dns, so the rule would never match",
                            rule.value
                        );
                        return Err(bad(&format!("{field}.value"), words));
                    }
                    Target::Domain(pattern)
                }
                _ => return Err(bad(&format!("{field}.kind"), "cidr or fqdn")),
            };
            out.rules.push(EgressRule {
                verdict: verdict(&format!("{field}.action"), &rule.action)?,
                target,
                protocol,
                ports,
            });
        }
    }
    Ok(NetworkPolicy::Egress(out))
}

fn check_ingress(ingress: &IngressPolicy) -> Result<(), ApiError> {
    if let Some(action) = &ingress.default {
        verdict("ingress.default", action)?;
    }
    let rules = ingress.rules.as_deref().unwrap_or_default();
    if rules.len() > MAX_RULES {
        return Err(bad("ingress.rules", format_args!("at most {MAX_RULES}")));
    }
    for (n, rule) in rules.iter().enumerate() {
        let field = format!("ingress.rules[{n}]");
        verdict(&format!("{field}.action"), &rule.action)?;
        protocol(&field, &rule.protocol, &rule.ports)?;
        if rule.kind != IngressRuleKind::Cidr {
            return Err(bad(&format!("{field}.kind"), "cidr"));
        }
        block(&field, &rule.value)?;
    }
    Ok(())
}

fn check_legacy(policy: &FirewallPolicyLegacy) -> Result<(), ApiError> {
    if !matches!(policy.mode, FirewallMode::Open | FirewallMode::Restricted) {
        return Err(bad("mode", "open or restricted"));
    }
    let rules = policy.ingress.as_deref().unwrap_or_default();
    if rules.len() > MAX_RULES {
        return Err(bad("ingress", format_args!("at most {MAX_RULES}")));
    }
    for (n, rule) in rules.iter().enumerate() {
        let field = format!("ingress[{n}]");
        if !matches!(rule.protocol, FirewallProtocol::Tcp | FirewallProtocol::Udp) {
            return Err(bad(&format!("{field}.protocol"), "tcp or udp"));
        }
        if rule.port_start == 0 || rule.port_end.is_some_and(|end| end < rule.port_start) {
            return Err(bad(
                &format!("{field}.portEnd"),
                "not below portStart, which is 1 or more",
            ));
        }
        for cidr in rule.source_cidrs.iter().flatten() {
            block(&field, cidr)?;
            if !cidr.contains(':') {
                let words = format_args!("{cidr:?}: only IPv6 in this form of a policy");
                return Err(bad(&format!("{field}.sourceCidrs"), words));
            }
        }
    }
    Ok(())
}

/// An older policy in the form with three parts.
fn layered(policy: &FirewallPolicyLegacy) -> FirewallPolicy {
    let open = policy.mode == FirewallMode::Open;
    let mut rules = Vec::new();
    for rule in policy.ingress.iter().flatten() {
        let sources = rule.source_cidrs.clone().filter(|s| !s.is_empty());
        let ports = match rule.port_end {
            Some(end) if end != rule.port_start => format!("{}-{end}", rule.port_start),
            _ => rule.port_start.to_string(),
        };
        for value in sources.unwrap_or_else(|| vec![ANYWHERE.to_owned()]) {
            rules.push(IngressRule {
                action: PolicyAction::Allow,
                kind: IngressRuleKind::Cidr,
                value,
                protocol: rule.protocol.clone(),
                ports: ports.clone(),
                description: rule.description.clone(),
                ..IngressRule::default()
            });
        }
    }
    FirewallPolicy {
        ingress: Some(IngressPolicy {
            default: Some(if open {
                PolicyAction::Allow
            } else {
                PolicyAction::Deny
            }),
            rules: Some(rules),
            ..IngressPolicy::default()
        }),
        ..FirewallPolicy::default()
    }
}

/// What the rules come to: those that were written, and one for each service. In the form they were written in; `None` when there
/// are neither.
pub(super) fn effective(machine: &Machine) -> Option<Firewall> {
    if machine.firewall.is_none() && machine.services.is_empty() {
        return None;
    }
    let written = machine.firewall.clone().unwrap_or_default();
    let note = |name: &str| Some(format!("auto: proxy service {name}").as_str().into());
    match written {
        Firewall::Layered(mut policy) => {
            let ingress = policy.ingress.get_or_insert_with(IngressPolicy::default);
            let rules = ingress.rules.get_or_insert_with(Vec::new);
            rules.extend(machine.services.iter().map(|service| IngressRule {
                action: PolicyAction::Allow,
                kind: IngressRuleKind::Cidr,
                value: ANYWHERE.to_owned(),
                protocol: FirewallProtocol::Tcp,
                ports: service.port.to_string(),
                description: note(&service.name),
                ..IngressRule::default()
            }));
            Some(Firewall::Layered(policy))
        }
        Firewall::Legacy(mut policy) => {
            let rules = policy.ingress.get_or_insert_with(Vec::new);
            rules.extend(machine.services.iter().map(|service| FirewallRuleLegacy {
                protocol: FirewallProtocol::Tcp,
                port_start: service.port,
                source_cidrs: Some(vec![ANYWHERE.to_owned()]),
                description: note(&service.name),
                ..FirewallRuleLegacy::default()
            }));
            Some(Firewall::Legacy(policy))
        }
    }
}

pub(super) async fn set(
    cx: Cx,
    rq: Request<ops::SetVmFirewall>,
) -> Result<JsonReply<Vm>, ApiError> {
    let firewall = rq.body.0;
    network(Some(&firewall))?;
    put(&cx, rq.path.0, move |_| Some(firewall)).await
}

pub(super) async fn patch(
    cx: Cx,
    rq: Request<ops::PatchVmFirewall>,
) -> Result<JsonReply<Vm>, ApiError> {
    let patch = rq.body.0;
    put(&cx, rq.path.0, move |old| patched(old, patch)).await
}

/// A policy with a change. A change in the form with three parts turns an older policy into that form; one that says nothing
/// changes nothing.
fn patched(old: Option<Firewall>, patch: FirewallPatch) -> Option<Firewall> {
    if let FirewallPatch::Layered(new) = &patch
        && new.ingress.is_none()
        && new.egress.is_none()
        && new.dns.is_none()
    {
        return old;
    }
    Some(match (old, patch) {
        (old, FirewallPatch::Layered(new)) => {
            let mut policy = match old {
                None => FirewallPolicy::default(),
                Some(Firewall::Layered(policy)) => policy,
                Some(Firewall::Legacy(policy)) => layered(&policy),
            };
            policy.ingress = new.ingress.or(policy.ingress);
            policy.egress = new.egress.or(policy.egress);
            policy.dns = new.dns.or(policy.dns);
            Firewall::Layered(policy)
        }
        (Some(Firewall::Layered(mut policy)), FirewallPatch::Legacy(new)) => {
            // What goes out has no word in the older form, and stays.
            let old = FirewallPolicyLegacy {
                mode: new.mode.unwrap_or(FirewallMode::Open),
                ingress: new.ingress,
                ..FirewallPolicyLegacy::default()
            };
            policy.ingress = layered(&old).ingress;
            Firewall::Layered(policy)
        }
        (old, FirewallPatch::Legacy(new)) => {
            let mut policy = match old {
                Some(Firewall::Legacy(policy)) => policy,
                _ => FirewallPolicyLegacy {
                    mode: FirewallMode::Open,
                    ..FirewallPolicyLegacy::default()
                },
            };
            policy.mode = new.mode.unwrap_or(policy.mode);
            policy.ingress = new.ingress.or(policy.ingress);
            Firewall::Legacy(policy)
        }
    })
}

async fn put(
    cx: &Cx,
    id: String,
    change: impl FnOnce(Option<Firewall>) -> Option<Firewall> + Send + 'static,
) -> Result<JsonReply<Vm>, ApiError> {
    let state: Shared = cx.state.clone();
    let machine: Arc<Machine> = detached(async move {
        let _held = state.locks.hold(&id).await;
        let old = state.machine(&id)?;
        if old.phase == Phase::Deleting {
            return Err(no_machine());
        }
        let mut machine = Machine::clone(&old);
        let firewall = change(machine.firewall.take());
        let network = network(firewall.as_ref())?;
        machine.firewall = firewall;
        // The engine first: what is acknowledged is in force.
        let instance = instance(&id)?;
        let set = state.core.engine.set_network(&instance, network).await;
        set.map_err(|e| engine_error(&e))?;
        state.save(machine).await
    })
    .await?;
    Ok(JsonReply::ok(cx.state.vm(&machine)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Firewall {
        serde_json::from_value(value).unwrap()
    }

    fn refused(value: serde_json::Value) -> String {
        network(Some(&read(value))).unwrap_err().message
    }

    #[test]
    fn rules_become_the_engines() {
        let firewall = read(json!({
            "egress": {"default": "deny", "rules": [
                {"action": "allow", "kind": "fqdn", "value": "*.example.com", "protocol": "tcp", "ports": "443"},
                {"action": "deny", "kind": "cidr", "value": "10.0.0.0/8", "protocol": "any", "ports": "any"},
            ]},
            "dns": {"mode": "allow", "domains": ["*.example.com"], "blockBypass": true},
        }));
        let NetworkPolicy::Egress(policy) = network(Some(&firewall)).unwrap() else {
            panic!("rules")
        };
        let decide = |address: &str, port, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            policy.decide(Protocol::Tcp, address.parse().unwrap(), port, &names)
        };
        assert_eq!(decide("192.0.2.1", 443, &["a.example.com"]), Verdict::Allow);
        assert_eq!(decide("192.0.2.1", 80, &["a.example.com"]), Verdict::Deny);
        assert_eq!(decide("192.0.2.1", 443, &[]), Verdict::Deny);
        assert_eq!(decide("1.1.1.1", 443, &["a.example.com"]), Verdict::Deny);
        assert_eq!(policy.dns.decide("a.example.com"), Verdict::Allow);
        assert_eq!(policy.dns.decide("example.com"), Verdict::Deny);
        assert_eq!(policy.dns.decide("dns.google"), Verdict::Deny);
        assert_eq!(network(None).unwrap(), NetworkPolicy::Default);
    }

    #[test]
    fn what_means_nothing_is_refused_by_its_field() {
        let rule = |changes: serde_json::Value| {
            let mut rule = json!({"action": "allow", "kind": "cidr", "value": "10.0.0.0/8", "protocol": "tcp", "ports": "1-2"});
            for (name, value) in changes.as_object().unwrap() {
                rule[name] = value.clone();
            }
            json!({"egress": {"rules": [rule]}})
        };
        for (changes, field) in [
            (json!({"action": "maybe"}), "action"),
            (json!({"kind": "name"}), "kind"),
            (json!({"value": "10.0.0.0"}), "value"),
            (json!({"value": "10.0.0.0/40"}), "value"),
            (json!({"kind": "fqdn", "value": "*"}), "value"),
            (json!({"kind": "fqdn", "value": "a.*.com"}), "value"),
            (json!({"protocol": "icmp"}), "protocol"),
            (json!({"protocol": "any"}), "protocol any"),
            (json!({"ports": "2-1"}), "ports"),
            (json!({"ports": "0"}), "ports"),
        ] {
            let words = refused(rule(changes));
            assert!(
                words.contains("egress.rules[0]") && words.contains(field),
                "{words}"
            );
        }
        let dead = json!({
            "egress": {"rules": [{"action": "allow", "kind": "fqdn", "value": "a.b", "protocol": "tcp", "ports": "any"}]},
            "dns": {"domains": ["*.b"]},
        });
        assert!(refused(dead).contains("never match"));
        assert!(refused(json!({"dns": {"mode": "x"}})).contains("dns.mode"));
        assert!(refused(json!({"ingress": {"default": "x"}})).contains("ingress.default"));
        assert!(refused(json!({"mode": "half"})).contains("mode"));
        let v4 = json!({"mode": "restricted", "ingress": [{"protocol": "tcp", "portStart": 1, "sourceCidrs": ["10.0.0.0/8"]}]});
        assert!(refused(v4).contains("IPv6"));
    }

    #[test]
    fn changes_in_both_forms() {
        let legacy = read(
            json!({"mode": "restricted", "ingress": [{"protocol": "tcp", "portStart": 1, "portEnd": 5}]}),
        );
        let patch = |old: &Firewall, value| {
            patched(Some(old.clone()), serde_json::from_value(value).unwrap()).unwrap()
        };
        let Firewall::Legacy(cleared) = patch(&legacy, json!({"ingress": []})) else {
            panic!("the older form")
        };
        assert_eq!(
            (cleared.mode, cleared.ingress),
            (FirewallMode::Restricted, Some(vec![]))
        );
        let Firewall::Layered(both) = patch(&legacy, json!({"egress": {"default": "deny"}})) else {
            panic!("three parts")
        };
        let ingress = both.ingress.unwrap();
        assert_eq!(ingress.default, Some(PolicyAction::Deny));
        assert_eq!(ingress.rules.unwrap()[0].ports, "1-5");
        let old = read(json!({"egress": {"default": "deny"}, "dns": {"mode": "allow"}}));
        let Firewall::Layered(new) = patch(&old, json!({"egress": {"default": "allow"}})) else {
            panic!("three parts")
        };
        assert_eq!(new.egress.unwrap().default, Some(PolicyAction::Allow));
        assert_eq!(new.dns.unwrap().mode, Some(DnsMode::Allow));
    }
}
