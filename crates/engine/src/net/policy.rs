//! The rules for what an instance may reach.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a matching rule decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The connection is dialled.
    #[default]
    Allow,
    /// The connection is reset.
    Deny,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP. Nothing but DNS is carried over it so far, and DNS is not subject to address rules.
    Udp,
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl Ports {
    /// Whether `port` lies in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// A block of addresses, such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// The block of all addresses that share the first `prefix` bits with `address`; `None` when the
    /// prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= width).then_some(Self { address, prefix })
    }

    /// Whether `address` lies in the block. IPv4 addresses are never in an IPv6 block and the other
    /// way round.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(base), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                let differing = u32::from(base) ^ u32::from(other);
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                let differing = u128::from(base) ^ u128::from(other);
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<IpNet> for String {
    fn from(net: IpNet) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for IpNet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for IpNet {
    type Err = String;

    /// Reads `address/prefix`, or an address alone as a block of one.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a block of addresses such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let digits = prefix.bytes().all(|b| b.is_ascii_digit());
                let prefix = prefix
                    .parse::<u8>()
                    .ok()
                    .filter(|_| digits)
                    .ok_or_else(bad)?;
                (address.parse::<IpAddr>().map_err(|_| bad())?, prefix)
            }
            None => {
                let address = text.parse::<IpAddr>().map_err(|_| bad())?;
                (address, if address.is_ipv4() { 32 } else { 128 })
            }
        };
        Self::new(address, prefix).ok_or_else(bad)
    }
}

/// Names a rule speaks of: `example.com` itself, or with a leading `*.` everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainPattern {
    /// In lower case, without a final dot.
    name: String,
    below: bool,
}

/// Why a text is not a [`DomainPattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainPatternError(String);

impl fmt::Display for DomainPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a domain name, with at most one leading \"*.\"",
            self.0
        )
    }
}

impl std::error::Error for DomainPatternError {}

impl DomainPattern {
    /// Whether `name` is meant. A wildcard stands for one or more labels, never for none. Case and a
    /// final dot do not matter.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !self.below {
            return name.eq_ignore_ascii_case(&self.name);
        }
        let Some(split) = name.len().checked_sub(self.name.len()) else {
            return false;
        };
        // A name that is no ASCII text at this place cannot match one that is.
        let (Some(head), Some(tail)) = (name.get(..split), name.get(split..)) else {
            return false;
        };
        tail.eq_ignore_ascii_case(&self.name) && head.len() > 1 && head.ends_with('.')
    }
}

impl FromStr for DomainPattern {
    type Err = DomainPatternError;

    fn from_str(text: &str) -> Result<Self, DomainPatternError> {
        let bad = || DomainPatternError(text.to_owned());
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let name = rest.strip_suffix('.').unwrap_or(rest);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(bad());
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
            below,
        })
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = DomainPatternError;

    fn try_from(text: String) -> Result<Self, DomainPatternError> {
        text.parse()
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str("*.")?;
        }
        f.write_str(&self.name)
    }
}

/// What a rule speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every address.
    #[default]
    Any,
    /// A block of addresses.
    Net(IpNet),
    /// The addresses that the instance was given when it asked for a name.
    Domain(DomainPattern),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// What happens to a connection that it matches.
    pub verdict: Verdict,
    /// The addresses.
    #[serde(default)]
    pub target: Target,
    /// The protocol; both when `None`.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// The ports; all when `None`.
    #[serde(default)]
    pub ports: Option<Ports>,
}

/// What an instance may reach by the dialler: the first matching rule decides, else the default.
///
/// Whatever the rules say, the dialler first refuses the host and what belongs to it (see
/// [`crate::net::AddressGuard`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressPolicy {
    /// In order; the first match decides.
    pub rules: Vec<EgressRule>,
    /// What happens when no rule matches.
    pub otherwise: Verdict,
    /// Which names the instance can resolve. Apart from the rules: a policy that denies every
    /// connection still answers names unless this says otherwise.
    pub dns: DnsPolicy,
}

/// One rule about names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRule {
    /// What happens to a question about a name that matches.
    pub verdict: Verdict,
    /// The names.
    pub pattern: DomainPattern,
}

/// Which names an instance can resolve: the first matching rule decides. A denied name is answered
/// as one that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsPolicy {
    /// In order.
    pub rules: Vec<DnsRule>,
    /// What happens when no rule matches.
    pub otherwise: Verdict,
}

impl DnsPolicy {
    /// Decides about one question.
    #[must_use]
    pub fn decide(&self, name: &str) -> Verdict {
        self.rules
            .iter()
            .find(|rule| rule.pattern.matches(name))
            .map_or(self.otherwise, |rule| rule.verdict)
    }
}

impl EgressPolicy {
    /// Decides about one connection. `names` are those under which the instance learnt the address.
    #[must_use]
    pub fn decide(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        names: &[String],
    ) -> Verdict {
        // An IPv4 address in IPv6 clothes is the same place and falls under the same rules.
        let address = address.to_canonical();
        let matches = |rule: &EgressRule| {
            rule.protocol.is_none_or(|wanted| wanted == protocol)
                && rule.ports.is_none_or(|ports| ports.contains(port))
                && match &rule.target {
                    Target::Any => true,
                    Target::Net(net) => net.contains(address),
                    Target::Domain(pattern) => names.iter().any(|name| pattern.matches(name)),
                }
        };
        self.rules
            .iter()
            .find(|rule| matches(rule))
            .map_or(self.otherwise, |rule| rule.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(verdict: Verdict, target: &str) -> EgressRule {
        let target = match target.parse::<IpNet>() {
            Ok(net) => Target::Net(net),
            Err(_) => Target::Domain(target.parse().unwrap()),
        };
        EgressRule {
            verdict,
            target,
            protocol: None,
            ports: None,
        }
    }

    #[test]
    fn first_match_decides() {
        let policy = EgressPolicy {
            rules: vec![
                rule(Verdict::Allow, "10.1.0.0/16"),
                rule(Verdict::Deny, "10.0.0.0/8"),
                rule(Verdict::Deny, "*.evil.example"),
                EgressRule {
                    verdict: Verdict::Deny,
                    target: Target::Any,
                    protocol: Some(Protocol::Tcp),
                    ports: Some(Ports {
                        first: 25,
                        last: 26,
                    }),
                },
            ],
            otherwise: Verdict::Allow,
            dns: DnsPolicy::default(),
        };
        let decide = |address: &str, port, name: &str| {
            policy.decide(
                Protocol::Tcp,
                address.parse().unwrap(),
                port,
                &[name.to_owned()],
            )
        };
        assert_eq!(decide("10.1.2.3", 80, ""), Verdict::Allow);
        assert_eq!(decide("10.1.2.3", 25, ""), Verdict::Allow);
        assert_eq!(decide("10.2.2.3", 80, ""), Verdict::Deny);
        assert_eq!(decide("::ffff:10.2.2.3", 80, ""), Verdict::Deny);
        assert_eq!(decide("8.8.8.8", 80, "a.b.evil.example."), Verdict::Deny);
        assert_eq!(decide("8.8.8.8", 80, "evil.example"), Verdict::Allow);
        assert_eq!(decide("8.8.8.8", 25, ""), Verdict::Deny);
        assert_eq!(decide("8.8.8.8", 27, ""), Verdict::Allow);
        assert_eq!(decide("2001:db8::1", 80, ""), Verdict::Allow);
    }

    #[test]
    fn domain_patterns() {
        let pattern: DomainPattern = "*.Example.com".parse().unwrap();
        for (name, expected) in [
            ("a.example.com", true),
            ("A.B.EXAMPLE.COM.", true),
            ("example.com", false),
            (".example.com", false),
            ("badexample.com", false),
            ("ü.example.com", true),
            ("üexample.com", false),
            ("", false),
        ] {
            assert_eq!(pattern.matches(name), expected, "{name}");
        }
        for bad in [
            "",
            "*",
            "*.",
            "a.*.b",
            "*.*.b",
            "a..b",
            "-a.b",
            "a b",
            "a/b",
            "a\0b",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<DomainPattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nets_are_read_strictly() {
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "1.2.3.4/8/8",
            "::1%lo/8",
        ] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad:?}");
        }
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let one: IpNet = "2001:db8::7".parse().unwrap();
        assert!(one.contains("2001:db8::7".parse().unwrap()));
        assert!(!one.contains("2001:db8::6".parse().unwrap()));
    }

    #[test]
    fn a_policy_survives_the_store() {
        let policy = EgressPolicy {
            rules: vec![
                rule(Verdict::Deny, "*.example.com"),
                rule(Verdict::Allow, "10.0.0.0/8"),
            ],
            otherwise: Verdict::Deny,
            dns: DnsPolicy::default(),
        };
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<EgressPolicy>(&text).unwrap(), policy);
        assert_eq!(
            serde_json::from_str::<EgressPolicy>("{}").unwrap(),
            EgressPolicy::default()
        );
    }

    proptest! {
        #[test]
        fn a_block_holds_its_own_addresses(address: u32, prefix in 0u8..=32, flip in 0u32..32) {
            let net = IpNet::new(IpAddr::V4(address.into()), prefix).unwrap();
            let other = address ^ (1 << (31 - flip));
            prop_assert_eq!(net.contains(IpAddr::V4(other.into())), flip >= u32::from(prefix));
            prop_assert_eq!(net.to_string().parse::<IpNet>().unwrap(), net);
        }

        #[test]
        fn any_text_is_judged(text in "\\PC{0,80}") {
            let _ = text.parse::<IpNet>();
            if let Ok(pattern) = text.parse::<DomainPattern>() {
                prop_assert_eq!(pattern.to_string().parse::<DomainPattern>().unwrap(), pattern);
            }
        }
    }
}
