//! nf_tables batches that redirect an instance's connections to our listeners.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`. As `nft` text, for IPv4:
//!
//! ```text
//! table ip boxrig {
//!   chain redirect {
//!     type nat hook output priority -100; policy accept;
//!     ip daddr 127.0.0.0/8 return
//!     meta l4proto tcp redirect to :TCP
//!     udp dport 53 redirect to :DNS
//!   }
//!   chain guard {
//!     type filter hook output priority 0; policy drop;
//!     ip daddr 127.0.0.0/8 accept
//!   }
//! }
//! ```
//!
//! and the same for IPv6 with `::1`. What is redirected has a loopback destination by the time it
//! meets `guard`; everything else is dropped, which a guest sees as `EPERM` from its own call rather
//! than as silence.

use super::netlink::{ACK, APPEND, CREATE, NETFILTER, Request, Writer};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;

const HOOK_OUTPUT: u32 = 3;
const PRIORITY_NAT_DESTINATION: i32 = -100;
const PRIORITY_FILTER: i32 = 0;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `NFT_RETURN`: back to the base chain's policy.
const NFT_RETURN: u32 = (-5i32) as u32;

const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;

const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const META_L4PROTO: u32 = 16;
const CMP_EQ: u32 = 0;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the port of the redirection is given.
const NAT_PROTO_SPECIFIED: u32 = 2;

const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS: u16 = 53;

const TABLE: &str = "boxrig";
const REDIRECT: &str = "redirect";
const GUARD: &str = "guard";

/// An address family of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }
}

/// The IPv4 redirection: TCP to 127.0.0.1:`tcp_port`, UDP 53 to 127.0.0.1:`dns_port`.
#[must_use]
pub fn redirect_v4(tcp_port: u16, dns_port: u16) -> Request {
    let mut request = redirect(Family::V4, tcp_port, dns_port);
    request.what = "set up the IPv4 redirection";
    request
}

/// The IPv6 redirection, to ::1.
#[must_use]
pub fn redirect_v6(tcp_port: u16, dns_port: u16) -> Request {
    let mut request = redirect(Family::V6, tcp_port, dns_port);
    request.what = "set up the IPv6 redirection";
    request.optional = true;
    request
}

fn redirect(family: Family, tcp_port: u16, dns_port: u16) -> Request {
    let mut batch = Batch {
        writer: Writer::default(),
        family,
    };
    batch.bound(BATCH_BEGIN);
    batch.table();
    batch.chain(REDIRECT, "nat", PRIORITY_NAT_DESTINATION, NF_ACCEPT);
    batch.chain(GUARD, "filter", PRIORITY_FILTER, NF_DROP);
    batch.rule(REDIRECT, 0, |rule| {
        rule.loopback_destination();
        rule.verdict(NFT_RETURN);
    });
    batch.rule(REDIRECT, 0, |rule| {
        rule.protocol(TCP);
        rule.redirect(tcp_port);
    });
    batch.rule(REDIRECT, 0, |rule| {
        rule.protocol(UDP);
        rule.destination_port(DNS);
        rule.redirect(dns_port);
    });
    batch.rule(GUARD, ACK, |rule| {
        rule.loopback_destination();
        rule.verdict(NF_ACCEPT);
    });
    let last_seq = batch.writer.seq();
    batch.bound(BATCH_END);
    Request {
        what: "set up the redirection",
        protocol: NETFILTER,
        bytes: batch.writer.finish(),
        last_seq,
        optional: false,
    }
}

struct Batch {
    writer: Writer,
    family: Family,
}

impl Batch {
    /// Begin or end of the transaction; the subsystem stands where other messages have a resource id.
    fn bound(&mut self, kind: u16) {
        let message = self.writer.message(kind, 0);
        let subsystem = SUBSYSTEM.to_be_bytes();
        self.writer.raw(&[0, 0, subsystem[0], subsystem[1]]);
        self.writer.end_message(message);
    }

    fn table(&mut self) {
        let message = self.writer.message(NEW_TABLE, CREATE);
        self.writer.raw(&[self.family.number(), 0, 0, 0]);
        self.writer.text(1, TABLE); // NFTA_TABLE_NAME
        self.writer.be32(2, 0); // NFTA_TABLE_FLAGS
        self.writer.end_message(message);
    }

    fn chain(&mut self, name: &str, kind: &str, priority: i32, policy: u32) {
        let message = self.writer.message(NEW_CHAIN, CREATE);
        self.writer.raw(&[self.family.number(), 0, 0, 0]);
        self.writer.text(1, TABLE); // NFTA_CHAIN_TABLE
        self.writer.text(3, name); // NFTA_CHAIN_NAME
        let hook = self.writer.nest(4); // NFTA_CHAIN_HOOK
        self.writer.be32(1, HOOK_OUTPUT); // NFTA_HOOK_HOOKNUM
        self.writer.be32(2, priority as u32); // NFTA_HOOK_PRIORITY
        self.writer.end_nest(hook);
        self.writer.be32(5, policy); // NFTA_CHAIN_POLICY
        self.writer.text(7, kind); // NFTA_CHAIN_TYPE
        self.writer.end_message(message);
    }

    fn rule(&mut self, chain: &str, flags: u16, fill: impl FnOnce(&mut Rule<'_>)) {
        let message = self.writer.message(NEW_RULE, CREATE | APPEND | flags);
        self.writer.raw(&[self.family.number(), 0, 0, 0]);
        self.writer.text(1, TABLE); // NFTA_RULE_TABLE
        self.writer.text(2, chain); // NFTA_RULE_CHAIN
        let expressions = self.writer.nest(4); // NFTA_RULE_EXPRESSIONS
        fill(&mut Rule {
            writer: &mut self.writer,
            family: self.family,
        });
        self.writer.end_nest(expressions);
        self.writer.end_message(message);
    }
}

struct Rule<'a> {
    writer: &'a mut Writer,
    family: Family,
}

impl Rule<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer)) {
        let element = self.writer.nest(1); // NFTA_LIST_ELEM
        self.writer.text(1, name); // NFTA_EXPR_NAME
        let data = self.writer.nest(2); // NFTA_EXPR_DATA
        fill(self.writer);
        self.writer.end_nest(data);
        self.writer.end_nest(element);
    }

    /// Loads bytes of a header into the register.
    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |writer| {
            writer.be32(1, REG_1); // NFTA_PAYLOAD_DREG
            writer.be32(2, base); // NFTA_PAYLOAD_BASE
            writer.be32(3, offset); // NFTA_PAYLOAD_OFFSET
            writer.be32(4, length); // NFTA_PAYLOAD_LEN
        });
    }

    /// Goes on with the rule only if the register holds `value`.
    fn equals(&mut self, value: &[u8]) {
        self.expression("cmp", |writer| {
            writer.be32(1, REG_1); // NFTA_CMP_SREG
            writer.be32(2, CMP_EQ); // NFTA_CMP_OP
            let data = writer.nest(3); // NFTA_CMP_DATA
            writer.attribute(1, value); // NFTA_DATA_VALUE
            writer.end_nest(data);
        });
    }

    fn loopback_destination(&mut self) {
        match self.family {
            // The first byte of the destination is 127.
            Family::V4 => {
                self.payload(PAYLOAD_NETWORK, 16, 1);
                self.equals(&[127]);
            }
            Family::V6 => {
                self.payload(PAYLOAD_NETWORK, 24, 16);
                self.equals(&std::net::Ipv6Addr::LOCALHOST.octets());
            }
        }
    }

    fn protocol(&mut self, protocol: u8) {
        self.expression("meta", |writer| {
            writer.be32(1, REG_1); // NFTA_META_DREG
            writer.be32(2, META_L4PROTO); // NFTA_META_KEY
        });
        self.equals(&[protocol]);
    }

    fn destination_port(&mut self, port: u16) {
        self.payload(PAYLOAD_TRANSPORT, 2, 2);
        self.equals(&port.to_be_bytes());
    }

    fn redirect(&mut self, port: u16) {
        self.expression("immediate", |writer| {
            writer.be32(1, REG_1); // NFTA_IMMEDIATE_DREG
            let data = writer.nest(2); // NFTA_IMMEDIATE_DATA
            writer.attribute(1, &port.to_be_bytes()); // NFTA_DATA_VALUE
            writer.end_nest(data);
        });
        self.expression("redir", |writer| {
            writer.be32(1, REG_1); // NFTA_REDIR_REG_PROTO_MIN
            writer.be32(3, NAT_PROTO_SPECIFIED); // NFTA_REDIR_FLAGS
        });
    }

    fn verdict(&mut self, code: u32) {
        self.expression("immediate", |writer| {
            writer.be32(1, REG_VERDICT); // NFTA_IMMEDIATE_DREG
            let data = writer.nest(2); // NFTA_IMMEDIATE_DATA
            let verdict = writer.nest(2); // NFTA_DATA_VERDICT
            writer.be32(1, code); // NFTA_VERDICT_CODE
            writer.end_nest(verdict);
            writer.end_nest(data);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks messages by their own lengths; every one must fit and the last must end the buffer.
    fn kinds(bytes: &[u8]) -> Vec<(u16, u16, u32)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            assert!(length >= 20 && at + length <= bytes.len());
            found.push((
                u16::from_ne_bytes(bytes[at + 4..at + 6].try_into().unwrap()),
                u16::from_ne_bytes(bytes[at + 6..at + 8].try_into().unwrap()),
                u32::from_ne_bytes(bytes[at + 8..at + 12].try_into().unwrap()),
            ));
            at += length.next_multiple_of(4);
        }
        assert_eq!(at, bytes.len());
        found
    }

    #[test]
    fn one_transaction_acknowledged_by_its_last_rule() {
        for request in [redirect_v4(65080, 65053), redirect_v6(65080, 65053)] {
            let found = kinds(&request.bytes);
            let order: Vec<u16> = found.iter().map(|message| message.0).collect();
            assert_eq!(
                order,
                [0x10, 0xa00, 0xa03, 0xa03, 0xa06, 0xa06, 0xa06, 0xa06, 0x11]
            );
            let acknowledged: Vec<u32> = found
                .iter()
                .filter(|message| message.1 & ACK != 0)
                .map(|message| message.2)
                .collect();
            assert_eq!(acknowledged, [request.last_seq]);
        }
    }

    #[test]
    fn ports_are_in_network_order() {
        let request = redirect_v4(0x1234, 0x5678);
        let has = |pair: [u8; 2]| request.bytes.windows(2).any(|window| window == pair);
        assert!(has([0x12, 0x34]) && has([0x56, 0x78]));
        assert!(!has([0x34, 0x12]) && !has([0x78, 0x56]));
    }
}
