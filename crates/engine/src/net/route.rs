//! rtnetlink requests for an instance's network namespace (`rtnetlink(7)`): the loopback link up,
//! and a default route on it, so that a connection to anywhere leaves a socket and meets the
//! redirection of [`super::nft`].

use super::netlink::{ACK, APPEND, CREATE, ROUTE, Request, Writer};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

/// The loopback interface is made with its namespace and always gets the first index.
const LOOPBACK_INDEX: i32 = 1;

/// Sets the loopback interface up.
#[must_use]
pub fn loopback_up() -> Request {
    let mut writer = Writer::default();
    let message = writer.message(RTM_NEWLINK, ACK);
    // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change
    writer.raw(&[0, 0, 0, 0]);
    writer.raw(&LOOPBACK_INDEX.to_ne_bytes());
    writer.raw(&IFF_UP.to_ne_bytes());
    writer.raw(&IFF_UP.to_ne_bytes());
    writer.end_message(message);
    Request {
        what: "set the loopback interface up",
        protocol: ROUTE,
        last_seq: writer.seq(),
        bytes: writer.finish(),
        optional: false,
    }
}

/// An IPv4 default route on the loopback interface, with 127.0.0.1 as source address.
#[must_use]
pub fn default_route_v4() -> Request {
    let mut request = default_route(AF_INET, RTN_UNICAST, RT_SCOPE_LINK, Some(&[127, 0, 0, 1]));
    request.what = "add the IPv4 default route";
    request
}

/// An IPv6 default route on the loopback interface. It is of type `local`, because the kernel turns
/// every other IPv6 route on a loopback interface into a refusal (`fib6_is_reject`).
#[must_use]
pub fn default_route_v6() -> Request {
    let mut request = default_route(AF_INET6, RTN_LOCAL, RT_SCOPE_UNIVERSE, None);
    request.what = "add the IPv6 default route";
    request.optional = true;
    request
}

fn default_route(family: u8, kind: u8, scope: u8, source: Option<&[u8]>) -> Request {
    let mut writer = Writer::default();
    let message = writer.message(RTM_NEWROUTE, ACK | CREATE | APPEND);
    // struct rtmsg: family, destination and source prefix lengths, tos, table, protocol, scope,
    // type, flags
    writer.raw(&[family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, kind]);
    writer.raw(&0u32.to_ne_bytes());
    writer.attribute(RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
    if let Some(source) = source {
        writer.attribute(RTA_PREFSRC, source);
    }
    writer.end_message(message);
    Request {
        what: "add a default route",
        protocol: ROUTE,
        last_seq: writer.seq(),
        bytes: writer.finish(),
        optional: false,
    }
}
