use boxrig_wire::{Untrusted, open_enum};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::model::{Extra, reply};

open_enum! {
    /// A verdict.
    pub enum PolicyAction {
        /// Let through.
        Allow = "allow",
        /// Drop.
        Deny = "deny",
    }
}

open_enum! {
    /// What an inbound rule matches by.
    pub enum IngressRuleKind {
        /// The source address.
        Cidr = "cidr",
    }
}

open_enum! {
    /// What an outbound rule matches by.
    pub enum EgressRuleKind {
        /// The destination address.
        Cidr = "cidr",
        /// A domain that was resolved through the platform's resolver.
        Fqdn = "fqdn",
    }
}

open_enum! {
    /// How the list of domains is read.
    pub enum DnsMode {
        /// Only these resolve.
        Allow = "allow",
        /// These do not resolve.
        Deny = "deny",
    }
}

open_enum! {
    /// The protocol of a rule.
    pub enum FirewallProtocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// Every protocol; the ports must be `any` too.
        Any = "any",
    }
}

open_enum! {
    /// The mode of a policy of the older form.
    pub enum FirewallMode {
        /// Everything may come in.
        Open = "open",
        /// Only what a rule names may come in.
        Restricted = "restricted",
    }
}

macro_rules! no_word {
    ($($t:ty),*) => {$(
        impl Default for $t {
            fn default() -> Self {
                Self::Unknown(String::new())
            }
        }
    )*};
}
no_word!(
    PolicyAction,
    IngressRuleKind,
    EgressRuleKind,
    DnsMode,
    FirewallProtocol,
    FirewallMode
);

reply! {
    /// An inbound rule.
    pub struct IngressRule = "IngressRule" {
        required {
            /// The verdict.
            action: PolicyAction = "action",
            /// What it matches by.
            kind: IngressRuleKind = "kind",
            /// The source, IPv4 or IPv6: `::/0`, `10.0.0.0/8`.
            value: String = "value",
            /// The protocol.
            protocol: FirewallProtocol = "protocol",
            /// `443`, `8080-8090` or `any`.
            ports: String = "ports",
        }
        optional {
            /// A note.
            description: Untrusted = "description",
        }
    }

    /// What may come in.
    pub struct IngressPolicy = "IngressPolicy" {
        optional {
            /// The verdict where no rule matches.
            default: PolicyAction = "default",
            /// The rules.
            rules: Vec<IngressRule> = "rules",
        }
    }

    /// An outbound rule.
    pub struct EgressRule = "EgressRule" {
        required {
            /// The verdict.
            action: PolicyAction = "action",
            /// What it matches by.
            kind: EgressRuleKind = "kind",
            /// An address range, or a domain with at most one leading `*.` (which matches one or more labels, never the domain itself).
            value: String = "value",
            /// The protocol.
            protocol: FirewallProtocol = "protocol",
            /// `443`, `8080-8090` or `any`.
            ports: String = "ports",
        }
        optional {
            /// A note.
            description: Untrusted = "description",
        }
    }

    /// What may go out.
    pub struct EgressPolicy = "EgressPolicy" {
        optional {
            /// The verdict where no rule matches.
            default: PolicyAction = "default",
            /// The rules.
            rules: Vec<EgressRule> = "rules",
        }
    }

    /// Which names resolve.
    pub struct DnsPolicy = "DNSPolicy" {
        optional {
            /// How the list is read; `deny` when missing.
            mode: DnsMode = "mode",
            /// The list; empty when missing.
            domains: Vec<String> = "domains",
            /// Whether well-known public DNS-over-HTTPS resolvers are blocked too; `false` when missing.
            block_bypass: bool = "blockBypass",
        }
    }

    /// A policy in three parts. In a change the parts that are given replace the stored ones.
    pub struct FirewallPolicy = "FirewallPolicy" {
        optional {
            /// What may come in.
            ingress: IngressPolicy = "ingress",
            /// What may go out.
            egress: EgressPolicy = "egress",
            /// Which names resolve.
            dns: DnsPolicy = "dns",
        }
    }

    /// An inbound rule of the older form.
    pub struct FirewallRuleLegacy = "FirewallRuleLegacy" {
        required {
            /// `tcp` or `udp`.
            protocol: FirewallProtocol = "protocol",
            /// The first port.
            port_start: u16 = "portStart",
        }
        optional {
            /// The last port; one port when absent.
            port_end: u16 = "portEnd",
            /// IPv6 sources; any when absent or empty.
            source_cidrs: Vec<String> = "sourceCidrs",
            /// A note.
            description: Untrusted = "description",
        }
    }

    /// A policy of the older form (Python SDK 0.7.0, TypeScript SDK 0.6.0): inbound only.
    pub struct FirewallPolicyLegacy = "FirewallPolicyLegacy" {
        required {
            /// The mode.
            mode: FirewallMode = "mode",
        }
        optional {
            /// The rules.
            ingress: Vec<FirewallRuleLegacy> = "ingress",
        }
    }

    /// A change of a policy of the older form.
    pub struct FirewallPatchLegacy = "" {
        optional {
            /// The mode.
            mode: FirewallMode = "mode",
            /// All rules; an empty list clears them.
            ingress: Vec<FirewallRuleLegacy> = "ingress",
        }
    }
}

/// A policy in one of its two forms. Read, the two are told apart by `mode` and by `ingress` being a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Firewall {
    /// The form with three parts.
    Layered(FirewallPolicy),
    /// The older, inbound-only form.
    Legacy(FirewallPolicyLegacy),
}

impl Default for Firewall {
    fn default() -> Self {
        Self::Layered(FirewallPolicy::default())
    }
}

impl From<FirewallPolicy> for Firewall {
    fn from(p: FirewallPolicy) -> Self {
        Self::Layered(p)
    }
}

impl From<FirewallPolicyLegacy> for Firewall {
    fn from(p: FirewallPolicyLegacy) -> Self {
        Self::Legacy(p)
    }
}

/// A change of a policy in one of the two forms.
#[derive(Clone, Debug, PartialEq)]
pub enum FirewallPatch {
    /// Parts of the form with three parts.
    Layered(FirewallPolicy),
    /// Members of the older form.
    Legacy(FirewallPatchLegacy),
}

impl Default for FirewallPatch {
    fn default() -> Self {
        Self::Layered(FirewallPolicy::default())
    }
}

impl From<FirewallPolicy> for FirewallPatch {
    fn from(p: FirewallPolicy) -> Self {
        Self::Layered(p)
    }
}

impl From<FirewallPatchLegacy> for FirewallPatch {
    fn from(p: FirewallPatchLegacy) -> Self {
        Self::Legacy(p)
    }
}

fn is_legacy(map: &Extra) -> bool {
    map.get("mode").is_some_and(|v| !v.is_null()) || map.get("ingress").is_some_and(Value::is_array)
}

macro_rules! two_forms {
    ($($name:ident, $legacy:ty);*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::Layered(p) => p.serialize(s),
                    Self::Legacy(p) => p.serialize(s),
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let map = Extra::deserialize(d)?;
                if is_legacy(&map) {
                    <$legacy>::from_members(map).map(Self::Legacy)
                } else {
                    FirewallPolicy::from_members(map).map(Self::Layered)
                }
                .map_err(serde::de::Error::custom)
            }
        }
    )*};
}
two_forms!(Firewall, FirewallPolicyLegacy; FirewallPatch, FirewallPatchLegacy);
