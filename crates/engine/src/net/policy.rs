//! Rules for outgoing connections, as values.

use serde::{Deserialize, Serialize};

/// Ordered rules for outgoing connections; the first that matches decides, else `otherwise`.
/// Addresses that the dialler always refuses (the host, its neighbours, metadata) are refused before any rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPolicy {
    /// The rules, in order.
    pub rules: Vec<EgressRule>,
    /// What happens to a connection that no rule matches.
    pub otherwise: Verdict,
}

impl Default for EgressPolicy {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            otherwise: Verdict::Allow,
        }
    }
}

/// One rule; every given condition must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// What happens on a match.
    pub verdict: Verdict,
    /// Destination network in CIDR form.
    pub cidr: Option<String>,
    /// Destination ports, first and last.
    pub ports: Option<(u16, u16)>,
    /// Destination name, or `*.name` for everything under it.
    pub domain: Option<String>,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Dial it.
    Allow,
    /// Refuse it.
    Deny,
}
