//! Where a redirected connection was going.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

/// Finds out where an accepted connection was going. A seam: tests have no redirection.
pub trait OriginalTarget: Send + Sync + std::fmt::Debug {
    /// The address and port that the process in the instance asked for.
    ///
    /// # Errors
    /// When the kernel does not know.
    fn target(&self, stream: &TcpStream) -> io::Result<SocketAddr>;
}

/// Asks the kernel's connection tracking (`SO_ORIGINAL_DST`, `linux/netfilter_ipv4.h`;
/// `IP6T_SO_ORIGINAL_DST`, `linux/netfilter_ipv6/ip6_tables.h`; both are 80).
#[derive(Debug, Clone, Copy, Default)]
pub struct ConntrackTarget;

impl OriginalTarget for ConntrackTarget {
    fn target(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        const SO_ORIGINAL_DST: i32 = 80;
        match stream.local_addr()? {
            SocketAddr::V4(_) => {
                // SAFETY: all-zero bytes are a valid sockaddr_in.
                let mut found: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                let mut length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                // SAFETY: the pointers are to a sockaddr_in and its length, as the option wants.
                let code = unsafe {
                    libc::getsockopt(
                        stream.as_raw_fd(),
                        libc::SOL_IP,
                        SO_ORIGINAL_DST,
                        (&raw mut found).cast(),
                        &mut length,
                    )
                };
                if code != 0 {
                    return Err(io::Error::last_os_error());
                }
                let address = u32::from_be(found.sin_addr.s_addr).into();
                Ok(SocketAddrV4::new(address, u16::from_be(found.sin_port)).into())
            }
            SocketAddr::V6(_) => {
                // SAFETY: all-zero bytes are a valid sockaddr_in6.
                let mut found: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
                let mut length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                // SAFETY: the pointers are to a sockaddr_in6 and its length, as the option wants.
                let code = unsafe {
                    libc::getsockopt(
                        stream.as_raw_fd(),
                        libc::SOL_IPV6,
                        SO_ORIGINAL_DST,
                        (&raw mut found).cast(),
                        &mut length,
                    )
                };
                if code != 0 {
                    return Err(io::Error::last_os_error());
                }
                let address = found.sin6_addr.s6_addr.into();
                Ok(SocketAddrV6::new(address, u16::from_be(found.sin6_port), 0, 0).into())
            }
        }
    }
}
