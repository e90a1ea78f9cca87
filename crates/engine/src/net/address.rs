//! Addresses that the dialler refuses, whatever the rules say.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The unspecified address or "this network".
    Unspecified,
    /// The host's own loopback.
    Loopback,
    /// One of the host's own addresses.
    HostAddress,
    /// A link-local address.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// A multicast address.
    Multicast,
    /// A broadcast or otherwise reserved address.
    Reserved,
    /// An IPv6 form that can carry an IPv4 address in ways that cannot be judged here.
    Tunnel,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Unspecified => "the unspecified address",
            Refused::Loopback => "the host's loopback",
            Refused::HostAddress => "an address of the host",
            Refused::LinkLocal => "a link-local address",
            Refused::Metadata => "a metadata service",
            Refused::Multicast => "a multicast address",
            Refused::Reserved => "a reserved address",
            Refused::Tunnel => "a tunnel form of IPv6",
        })
    }
}

/// Knows which addresses are the host's own.
pub trait HostAddresses: Send + Sync + fmt::Debug {
    /// Whether `address` belongs to an interface of this host. When it cannot be found out, the
    /// answer is `true`: what is not known not to be the host is not dialled.
    fn is_own(&self, address: IpAddr) -> bool;
}

/// Decides which addresses are never dialled.
#[derive(Debug, Clone)]
pub struct AddressGuard {
    host: Arc<dyn HostAddresses>,
}

impl AddressGuard {
    /// A guard that asks `host` for the host's own addresses.
    #[must_use]
    pub fn new(host: Arc<dyn HostAddresses>) -> Self {
        Self { host }
    }

    /// Judges the address that is about to be dialled; answers it in canonical form (an IPv4-mapped
    /// address as IPv4).
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, address: IpAddr) -> Result<IpAddr, Refused> {
        let address = address.to_canonical();
        match address {
            IpAddr::V4(v4) => self.check_v4(v4)?,
            IpAddr::V6(v6) => {
                check_v6(v6)?;
                if let Some(inner) = embedded(v6) {
                    self.check_v4(inner)?;
                }
            }
        }
        if self.host.is_own(address) {
            return Err(Refused::HostAddress);
        }
        Ok(address)
    }

    fn check_v4(&self, address: Ipv4Addr) -> Result<(), Refused> {
        // Azure, Alibaba Cloud and Oracle Cloud have theirs outside 169.254.0.0/16.
        const METADATA: [Ipv4Addr; 4] = [
            Ipv4Addr::new(169, 254, 169, 254),
            Ipv4Addr::new(168, 63, 129, 16),
            Ipv4Addr::new(100, 100, 100, 200),
            Ipv4Addr::new(192, 0, 0, 192),
        ];
        let first = address.octets()[0];
        if first == 0 {
            return Err(Refused::Unspecified);
        }
        if address.is_loopback() {
            return Err(Refused::Loopback);
        }
        if METADATA.contains(&address) {
            return Err(Refused::Metadata);
        }
        if address.is_link_local() {
            return Err(Refused::LinkLocal);
        }
        if address.is_multicast() {
            return Err(Refused::Multicast);
        }
        if first >= 240 {
            return Err(Refused::Reserved);
        }
        if self.host.is_own(IpAddr::V4(address)) {
            return Err(Refused::HostAddress);
        }
        Ok(())
    }
}

fn check_v6(address: Ipv6Addr) -> Result<(), Refused> {
    // Amazon and Google Cloud.
    const METADATA: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    let segments = address.segments();
    if address.is_unspecified() {
        return Err(Refused::Unspecified);
    }
    if address.is_loopback() {
        return Err(Refused::Loopback);
    }
    if METADATA.contains(&address) {
        return Err(Refused::Metadata);
    }
    if address.is_multicast() {
        return Err(Refused::Multicast);
    }
    // fe80::/10, and the retired site-local fec0::/10
    if segments[0] & 0xff80 == 0xfe80 {
        return Err(Refused::LinkLocal);
    }
    // The NAT64 prefix for local use, whose layout only the local network knows.
    if segments[..3] == [0x64, 0xff9b, 1] {
        return Err(Refused::Tunnel);
    }
    // The rest of ::/8 is reserved (IPv4-compatible and -translated addresses among it), except NAT64.
    if segments[0] >> 8 == 0 && segments[..6] != [0x64, 0xff9b, 0, 0, 0, 0] {
        return Err(Refused::Reserved);
    }
    Ok(())
}

/// The IPv4 address that a transition form leads to.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let pair = |high: u16, low: u16| {
        let (high, low) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(high[0], high[1], low[0], low[1])
    };
    match segments {
        // NAT64, RFC 6052
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        // 6to4, RFC 3056
        [0x2002, high, low, ..] => Some(pair(high, low)),
        // Teredo, RFC 4380: the client's address, with its bits flipped
        [0x2001, 0, .., high, low] => Some(pair(!high, !low)),
        // ISATAP, RFC 5214
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(pair(high, low)),
        _ => None,
    }
}

/// The addresses of this machine's interfaces, read from the kernel at most once a second.
#[derive(Debug, Default)]
pub struct SystemAddresses {
    cached: std::sync::Mutex<Option<(std::time::Instant, Vec<IpAddr>)>>,
}

impl HostAddresses for SystemAddresses {
    fn is_own(&self, address: IpAddr) -> bool {
        use std::time::{Duration, Instant};
        let mut cached = self
            .cached
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let fresh = cached
            .as_ref()
            .is_some_and(|(read, _)| read.elapsed() < Duration::from_secs(1));
        if !fresh {
            *cached = interface_addresses().map(|list| (Instant::now(), list));
        }
        cached
            .as_ref()
            .is_none_or(|(_, list)| list.contains(&address))
    }
}

/// All addresses of all interfaces; `None` when the kernel does not tell.
fn interface_addresses() -> Option<Vec<IpAddr>> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes a list that it owns to `head`, or fails and leaves it alone.
    if unsafe { libc::getifaddrs(&mut head) } != 0 {
        return None;
    }
    let mut found = Vec::new();
    let mut entry = head;
    while !entry.is_null() {
        // SAFETY: `entry` is a node of the list just made, which lives until freeifaddrs below.
        let (address, next) = unsafe { ((*entry).ifa_addr, (*entry).ifa_next) };
        entry = next;
        if address.is_null() {
            continue;
        }
        // SAFETY: a non-null ifa_addr points to a sockaddr; its family says which kind it is.
        match i32::from(unsafe { (*address).sa_family }) {
            libc::AF_INET => {
                // SAFETY: the family says that this is a sockaddr_in; it may be unaligned for us.
                let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
                found.push(IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into()));
            }
            libc::AF_INET6 => {
                // SAFETY: as above for sockaddr_in6.
                let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
                found.push(IpAddr::V6(v6.sin6_addr.s6_addr.into()).to_canonical());
            }
            _ => {}
        }
    }
    // SAFETY: `head` came from getifaddrs and nothing of the list is used any more.
    unsafe { libc::freeifaddrs(head) };
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Host(Vec<IpAddr>);

    impl HostAddresses for Host {
        fn is_own(&self, address: IpAddr) -> bool {
            self.0.contains(&address)
        }
    }

    fn guard() -> AddressGuard {
        AddressGuard::new(Arc::new(Host(vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::10".parse().unwrap(),
        ])))
    }

    #[test]
    fn refusals() {
        use Refused::*;
        for (address, why) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("127.0.0.1", Loopback),
            ("127.255.0.9", Loopback),
            ("169.254.1.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("168.63.129.16", Metadata),
            ("100.100.100.200", Metadata),
            ("192.0.0.192", Metadata),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("192.0.2.10", HostAddress),
            ("::", Unspecified),
            ("::1", Loopback),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", LinkLocal),
            ("ff02::1", Multicast),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("2001:db8::10", HostAddress),
            // mapped, compatible, translated
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:169.254.169.254", Metadata),
            ("::ffff:192.0.2.10", HostAddress),
            ("::ffff:0.0.0.0", Unspecified),
            ("::127.0.0.1", Reserved),
            ("::192.0.2.10", Reserved),
            ("::2", Reserved),
            ("::ffff:0:127.0.0.1", Reserved),
            // NAT64
            ("64:ff9b::127.0.0.1", Loopback),
            ("64:ff9b::a9fe:a9fe", Metadata),
            ("64:ff9b::192.0.2.10", HostAddress),
            ("64:ff9b:1::8.8.8.8", Tunnel),
            ("64:ff9b:1:7f00:0:100::", Tunnel),
            ("64:ff9b::1:8.8.8.8", Reserved),
            // 6to4, Teredo, ISATAP
            ("2002:7f00:1::", Loopback),
            ("2002:a9fe:a9fe::1", Metadata),
            ("2002:c000:20a::1", HostAddress),
            ("2001:0:1234::80ff:fffe", Loopback),
            ("2001:db8:1::5efe:127.0.0.1", Loopback),
            ("2001:db8:1::200:5efe:a9fe:a9fe", Metadata),
        ] {
            assert_eq!(
                guard().check(address.parse().unwrap()),
                Err(why),
                "{address}"
            );
        }
    }

    #[test]
    fn the_rest_of_the_world_is_reachable() {
        for (address, dialled) in [
            ("8.8.8.8", "8.8.8.8"),
            ("10.0.0.1", "10.0.0.1"),
            ("192.0.2.11", "192.0.2.11"),
            ("223.255.255.255", "223.255.255.255"),
            ("::ffff:8.8.8.8", "8.8.8.8"),
            ("64:ff9b::8.8.8.8", "64:ff9b::8.8.8.8"),
            ("2002:808:808::1", "2002:808:808::1"),
            ("2606:4700::1111", "2606:4700::1111"),
            ("fd12:3456::1", "fd12:3456::1"),
        ] {
            assert_eq!(
                guard().check(address.parse().unwrap()),
                Ok(dialled.parse().unwrap()),
                "{address}"
            );
        }
    }

    #[test]
    fn the_system_knows_its_own() {
        let system = SystemAddresses::default();
        assert!(system.is_own("127.0.0.1".parse().unwrap()));
        assert!(!system.is_own("203.0.113.77".parse().unwrap()));
    }

    proptest! {
        // Every way of writing a forbidden IPv4 address in IPv6 is forbidden too.
        #[test]
        fn no_disguise_helps(a in prop_oneof![Just(127u8), Just(0u8), 224u8..=255], b: u8, c: u8, d: u8) {
            let [h, l] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            for form in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, h, l),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, h, l),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, h, l),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, h, l),
                Ipv6Addr::new(0x2002, h, l, 1, 2, 3, 4, 5),
                Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !h, !l),
                Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0x200, 0x5efe, h, l),
            ] {
                prop_assert!(guard().check(IpAddr::V6(form)).is_err(), "{}", form);
            }
        }
    }
}
