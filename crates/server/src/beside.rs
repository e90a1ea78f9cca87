//! Listeners beside the server's own, for systems that have an address of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::core::Platform;
use crate::front::{AllowedHosts, Front};
use crate::listen::{Connections, Service, Stop, serve_tcp};
use crate::tls::Tls;

/// Makes a service of a front: requests by it count as the server's own.
pub(crate) type ServiceOf = Arc<dyn Fn(Front) -> Service + Send + Sync>;

/// Opens listeners with the server's certificate, limits and end.
pub(crate) struct Beside {
    /// The server's own address; a listener beside it has the same, with a port of its own.
    pub(crate) addr: SocketAddr,
    pub(crate) hosts: AllowedHosts,
    pub(crate) tls: Tls,
    pub(crate) connections: Connections,
    pub(crate) stop: Stop,
    pub(crate) service: ServiceOf,
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("addr", &self.addr).finish()
    }
}

/// A listener beside the server's own; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where it is reached from this machine.
    pub(crate) addr: SocketAddr,
    stop: Stop,
    accepting: JoinHandle<()>,
}

impl Opened {
    /// Ends it; afterwards nobody is accepted any more.
    pub(crate) async fn close(mut self) {
        self.stop.end();
        // It cannot fail but by the end of the runtime, which ends it too.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.stop.end();
    }
}

impl Beside {
    /// A listener that answers VergeOS' paths by `vergeos` and knows nothing else; on `port` if it is free.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub(crate) async fn open(
        &self,
        port: Option<u16>,
        vergeos: Arc<dyn Platform>,
    ) -> std::io::Result<Opened> {
        let mut at = self.addr;
        at.set_port(port.unwrap_or(0));
        let listener = match TcpListener::bind(at).await {
            Ok(listener) => listener,
            Err(_) => {
                at.set_port(0);
                TcpListener::bind(at).await?
            }
        };
        let mut addr = listener.local_addr()?;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let service = (self.service)(Front::of_vergeos(self.hosts.clone(), vergeos));
        let stop = Stop::default();
        let (own, all) = (stop.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = own.ended() => return,
                () = all.finishing() => own.finish(),
            }
            tokio::select! {
                () = own.ended() => {}
                () = all.ended() => own.end(),
            }
        });
        let accepting = tokio::spawn(serve_tcp(
            listener,
            Some(self.tls.clone()),
            service,
            self.connections.clone(),
            stop.clone(),
        ));
        Ok(Opened {
            addr,
            stop,
            accepting,
        })
    }
}
