//! Resolving names by the host's own resolver.

use std::ffi::CString;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::BoxFuture;

/// Which addresses of a name are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 (`A`).
    V4,
    /// IPv6 (`AAAA`).
    V6,
}

/// Why a name gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupFailure {
    /// There is no such name.
    NoName,
    /// The resolver did not answer, or not in time, or is overloaded.
    Unavailable,
}

/// Finds the addresses of names. A seam: tests answer without a network.
pub trait Resolve: Send + Sync + std::fmt::Debug {
    /// The addresses of `name` in one family; none when the name exists without such addresses.
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        family: Family,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>>;
}

/// The host's resolver (`getaddrinfo`), with all that the host has configured: hosts file, search
/// domains, name services.
#[derive(Debug)]
pub struct SystemResolve {
    slots: Arc<Semaphore>,
    timeout: Duration,
}

impl SystemResolve {
    /// A resolver with at most `parallel` questions under way, each given up after `timeout`. A
    /// question that was given up holds its place until the host's resolver returns.
    #[must_use]
    pub fn new(parallel: usize, timeout: Duration) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(parallel)),
            timeout,
        }
    }
}

impl Default for SystemResolve {
    fn default() -> Self {
        Self::new(64, Duration::from_secs(5))
    }
}

impl Resolve for SystemResolve {
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        family: Family,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>> {
        Box::pin(async move {
            let name = CString::new(name).map_err(|_| LookupFailure::NoName)?;
            // A process in an instance is connected to us before we dial, so it cannot fall back to IPv4
            // when IPv6 turns out to lead nowhere.
            if family == Family::V6 && !host_has_ipv6() {
                return Ok(Vec::new());
            }
            let slots = Arc::clone(&self.slots);
            let lookup = async move {
                let slot = slots.acquire_owned().await.ok();
                tokio::task::spawn_blocking(move || {
                    let found = getaddrinfo(&name, family);
                    drop(slot);
                    found
                })
                .await
                .unwrap_or(Err(LookupFailure::Unavailable))
            };
            tokio::time::timeout(self.timeout, lookup)
                .await
                .unwrap_or(Err(LookupFailure::Unavailable))
        })
    }
}

/// Whether this host has a way to IPv6 addresses. Asks the routing table; nothing is sent.
fn host_has_ipv6() -> bool {
    // Any global address will do.
    const SOMEWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .is_ok_and(|socket| socket.connect((SOMEWHERE, 53)).is_ok())
}

/// `getaddrinfo(3)`. The standard library's wrapper does not tell "no such name" from "try later".
fn getaddrinfo(name: &CString, family: Family) -> Result<Vec<IpAddr>, LookupFailure> {
    // `EAI_NODATA` and `EAI_ADDRFAMILY` of glibc: the name exists without such addresses.
    const NODATA: i32 = -5;
    const ADDRFAMILY: i32 = -9;
    // SAFETY: all fields of addrinfo may be zero; that is how hints are made.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut head: *mut libc::addrinfo = std::ptr::null_mut();
    // SAFETY: `name` is a C string, `hints` is initialised, `head` receives a list on success.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), std::ptr::null(), &hints, &mut head) };
    match code {
        0 => {}
        NODATA | ADDRFAMILY => return Ok(Vec::new()),
        libc::EAI_NONAME => return Err(LookupFailure::NoName),
        _ => return Err(LookupFailure::Unavailable),
    }
    let mut found = Vec::new();
    let mut entry = head;
    while !entry.is_null() {
        // SAFETY: `entry` is a node of the list just made, freed only below.
        let node = unsafe { &*entry };
        entry = node.ai_next;
        if node.ai_addr.is_null() {
            continue;
        }
        let address = match node.ai_family {
            libc::AF_INET => {
                // SAFETY: the family says that ai_addr points to a sockaddr_in.
                let v4 = unsafe { node.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that ai_addr points to a sockaddr_in6.
                let v6 = unsafe { node.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                IpAddr::V6(v6.sin6_addr.s6_addr.into())
            }
            _ => continue,
        };
        if !found.contains(&address) {
            found.push(address);
        }
    }
    // SAFETY: `head` came from getaddrinfo and nothing of the list is used any more.
    unsafe { libc::freeaddrinfo(head) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_host_knows_itself() {
        let resolver = SystemResolve::default();
        let found = resolver.resolve("localhost", Family::V4).await.unwrap();
        assert_eq!(found, [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(
            resolver.resolve("a\0b", Family::V4).await,
            Err(LookupFailure::NoName)
        );
    }
}
