//! What instances may reach, and how it is enforced.
//!
//! An instance has a network namespace with a loopback interface and nothing else. A default route
//! on that interface lets connections to anywhere leave their socket; nf_tables rules then redirect
//! TCP to one loopback listener and DNS to another, and drop the rest. The listeners are made inside
//! the namespace and handed to the server, which decides by [`EgressPolicy`], dials for the instance
//! and copies bytes ([`Egress`]). Names of neighbours ([`Neighbours`]) lead to other instances the same
//! way. No link, no address, no packet of the instance ever reaches the host's network, and nothing here
//! needs root.
//!
//! Order of work when an instance starts:
//!
//! 1. its stage sends the [`setup`] requests in the new namespace ([`loopback_setup`] when it has no
//!    network), reading answers with [`ack::outcome`];
//! 2. before any guest process runs, it makes the listeners of [`LISTENERS`] there;
//! 3. the server starts [`Egress`] on them.
//!
//! `CAP_NET_ADMIN` and `CAP_NET_RAW` must be out of the instance's bounding set, or root inside could
//! undo the rules (and then still reach nothing: there is no link).

pub mod ack;
mod neighbours;
pub mod netlink;
pub mod nft;
mod policy;
pub mod route;

#[cfg(target_os = "linux")]
mod address;
#[cfg(target_os = "linux")]
mod copy;
#[cfg(target_os = "linux")]
mod dialler;
#[cfg(target_os = "linux")]
pub mod dns;
#[cfg(target_os = "linux")]
mod names;
#[cfg(target_os = "linux")]
mod original;
#[cfg(target_os = "linux")]
mod resolve;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(target_os = "linux")]
pub use {
    address::{AddressGuard, HostAddresses, Refused, SystemAddresses},
    dialler::{
        Dial, Egress, EgressCounters, EgressLimits, EgressListeners, EgressOptions, SystemDial,
    },
    names::NameTable,
    original::{ConntrackTarget, OriginalTarget},
    resolve::{Family, LookupFailure, Resolve, SystemResolve},
};

pub use neighbours::{Neighbourhood, Neighbours, Told};
pub use policy::{
    DnsPolicy, DnsRule, DomainPattern, DomainPatternError, EgressPolicy, EgressRule, IpNet, Ports,
    Protocol, Target, Verdict,
};

/// Where TCP connections are redirected to, on 127.0.0.1 and ::1 of the instance. Above the usual
/// range of ephemeral ports, so that no process of the instance meets it by chance.
pub const TCP_PORT: u16 = 65080;
/// Where DNS over UDP is redirected to, on 127.0.0.1 and ::1 of the instance.
pub const DNS_PORT: u16 = 65053;
/// What an instance's `/etc/resolv.conf` names. Any address that is not a loopback one would do,
/// because port 53 of every address is answered by the server.
pub const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// A socket to make inside the instance's network namespace before any guest process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP (listening) or UDP (bound).
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
    /// Whether the instance may start without it (the IPv6 ones, on a kernel without IPv6).
    pub optional: bool,
}

/// The sockets that [`Egress`] serves.
pub const LISTENERS: [Listener; 4] = [
    Listener {
        protocol: Protocol::Tcp,
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), TCP_PORT),
        optional: false,
    },
    Listener {
        protocol: Protocol::Udp,
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DNS_PORT),
        optional: false,
    },
    Listener {
        protocol: Protocol::Tcp,
        address: SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), TCP_PORT),
        optional: true,
    },
    Listener {
        protocol: Protocol::Udp,
        address: SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), DNS_PORT),
        optional: true,
    },
];

/// The requests that give an instance transparent egress, in order: the rules are in force before
/// there is a route.
#[must_use]
pub fn setup() -> Vec<netlink::Request> {
    vec![
        nft::redirect_v4(TCP_PORT, DNS_PORT),
        nft::redirect_v6(TCP_PORT, DNS_PORT),
        route::loopback_up(),
        route::default_route_v4(),
        route::default_route_v6(),
    ]
}

/// The requests for an instance that reaches only itself.
#[must_use]
pub fn loopback_setup() -> Vec<netlink::Request> {
    vec![route::loopback_up()]
}
