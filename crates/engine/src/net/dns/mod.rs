//! The name service of instances.
//!
//! Port 53 of every address leads here, over UDP and TCP. `A` and `AAAA` questions are answered by
//! the host's resolver, unless the name is a neighbour's; every address in an answer is noted, so that
//! rules about domains can be applied when it is dialled. Other types are answered "not implemented": the host's resolver
//! interface cannot ask for them, and an empty answer would be untrue.

mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use wire::{Malformed, Query, ResponseCode, parse_query, reply};

use super::address::AddressGuard;
use super::names::NameTable;
use super::neighbours::Neighbourhood;
use super::policy::{EgressPolicy, Verdict};
use super::resolve::{Family, LookupFailure, Resolve};

/// Seconds for which an answer may be kept.
const TIME_TO_LIVE: u32 = 30;
/// Addresses put into one answer at most.
const MAX_ADDRESSES: usize = 16;
/// Questions of one instance under way at a time; further ones are dropped, as a network does.
const MAX_PARALLEL: usize = 64;
/// What a resolver without EDNS can take over UDP (RFC 1035).
const UDP_BYTES: usize = 512;
/// What we send over UDP at most, whatever EDNS allows: it always fits the loopback interface.
const MAX_UDP_BYTES: usize = 4096;
/// How long a TCP connection may be silent.
const TCP_IDLE: Duration = Duration::from_secs(30);

/// Answers the questions of one instance.
#[derive(Debug)]
pub struct DnsServer {
    /// Finds addresses.
    pub resolve: Arc<dyn Resolve>,
    /// Addresses it refuses are left out of answers: they could not be dialled.
    pub guard: AddressGuard,
    /// Which names are answered.
    pub policy: watch::Receiver<Arc<EgressPolicy>>,
    /// Where answers are noted.
    pub names: Arc<NameTable>,
    /// Whose names are answered before the host's resolver is asked.
    pub neighbours: Option<Neighbourhood>,
}

impl DnsServer {
    /// Answers one message; `None` when it deserves no answer (too short, or an answer itself).
    /// The answer is cut to `limit` bytes and marked so.
    pub async fn answer(&self, message: &[u8], limit: usize) -> Option<Vec<u8>> {
        let query = match parse_query(message) {
            Ok(query) => query,
            Err(malformed) => return malformed.reply(),
        };
        let (code, addresses) = self.find(&query).await;
        Some(reply(&query, code, &addresses, TIME_TO_LIVE, limit))
    }

    async fn find(&self, query: &Query) -> (ResponseCode, Vec<IpAddr>) {
        const NONE: Vec<IpAddr> = Vec::new();
        if query.opcode != 0 {
            return (ResponseCode::NotImplemented, NONE);
        }
        if query.class != wire::CLASS_IN {
            return (ResponseCode::Refused, NONE);
        }
        let Some(name) = query.name.as_deref() else {
            return (ResponseCode::Refused, NONE);
        };
        if self.policy.borrow().dns.decide(name) == Verdict::Deny {
            return (ResponseCode::NameError, NONE);
        }
        let family = match query.kind {
            wire::TYPE_A => Family::V4,
            wire::TYPE_AAAA => Family::V6,
            _ => return (ResponseCode::NotImplemented, NONE),
        };
        // RFC 6761: the instance's own loopback, never asked of anyone.
        let lower = name.to_ascii_lowercase();
        if lower == "localhost" || lower.ends_with(".localhost") {
            let own = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            return (ResponseCode::NoError, vec![own]);
        }
        let neighbour = self.neighbours.as_ref().and_then(|n| n.address(name));
        if let Some(address) = neighbour.map(IpAddr::V4) {
            self.names.tie(name, address, Instant::now());
            let found = match family {
                Family::V4 => vec![address],
                Family::V6 => NONE,
            };
            return (ResponseCode::NoError, found);
        }
        let found = match self.resolve.resolve(name, family).await {
            Ok(found) => found,
            Err(LookupFailure::NoName) => return (ResponseCode::NameError, NONE),
            Err(LookupFailure::Unavailable) => return (ResponseCode::ServerFailure, NONE),
        };
        if found.is_empty() {
            return (ResponseCode::NoError, NONE);
        }
        let now = Instant::now();
        let mut allowed = Vec::new();
        for address in found {
            let right_family = address.is_ipv4() == (family == Family::V4);
            if !right_family || allowed.len() == MAX_ADDRESSES || self.guard.check(address).is_err()
            {
                continue;
            }
            self.names.tie(name, address, now);
            allowed.push(address);
        }
        if allowed.is_empty() {
            return (ResponseCode::Refused, allowed);
        }
        (ResponseCode::NoError, allowed)
    }

    /// Serves a bound UDP socket until the future is dropped.
    pub(super) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let slots = Arc::new(Semaphore::new(MAX_PARALLEL));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            // No buffer is held while nothing comes: there are thousands of these.
            let ready = socket.readable().await;
            let mut message = vec![0; MAX_UDP_BYTES];
            let received = ready.and_then(|()| socket.try_recv_from(&mut message));
            let (length, peer) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => {
                    // An error of an earlier answer, such as a closed port. Not worth a busy loop.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
            };
            message.truncate(length);
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                continue;
            };
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tasks.spawn(async move {
                let room = parse_query(&message)
                    .ok()
                    .and_then(|query| query.udp_payload);
                let limit = usize::from(room.unwrap_or(0)).clamp(UDP_BYTES, MAX_UDP_BYTES);
                if let Some(answer) = server.answer(&message, limit).await {
                    // The guest may have gone; there is nobody to tell.
                    let _ = socket.send_to(&answer, peer).await;
                }
                drop(slot);
            });
        }
    }

    /// Serves one TCP connection: messages preceded by their length (RFC 1035, 4.2.2).
    pub(super) async fn serve_tcp(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            let mut message = Vec::new();
            let read = async {
                stream.read_exact(&mut length).await?;
                message.resize(usize::from(u16::from_be_bytes(length)), 0);
                stream.read_exact(&mut message).await
            };
            match tokio::time::timeout(TCP_IDLE, read).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            }
            let Some(answer) = self.answer(&message, usize::from(u16::MAX)).await else {
                return Ok(());
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::HostAddresses;
    use super::super::policy::{DnsPolicy, DnsRule};
    use super::wire::tests::{parse_reply, question};
    use super::*;
    use crate::BoxFuture;

    #[derive(Debug)]
    struct Nobody;

    impl HostAddresses for Nobody {
        fn is_own(&self, address: IpAddr) -> bool {
            address == IpAddr::from([192, 0, 2, 10])
        }
    }

    #[derive(Debug)]
    struct Zone;

    impl Resolve for Zone {
        fn resolve<'a>(
            &'a self,
            name: &'a str,
            family: Family,
        ) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>> {
            let found = match (name.to_ascii_lowercase().as_str(), family) {
                ("good.example", Family::V4) => Ok(vec!["198.51.100.1".parse().unwrap()]),
                ("good.example", Family::V6) => Ok(vec![]),
                ("mixed.example", Family::V4) => Ok(vec![
                    "127.0.0.1".parse().unwrap(),
                    "198.51.100.2".parse().unwrap(),
                    "192.0.2.10".parse().unwrap(),
                ]),
                ("rebind.example", _) => Ok(vec!["127.0.0.1".parse().unwrap()]),
                ("many.example", Family::V4) => Ok((0..40)
                    .map(|last| IpAddr::from([198, 51, 100, last]))
                    .collect()),
                ("slow.example", _) => Err(LookupFailure::Unavailable),
                _ => Err(LookupFailure::NoName),
            };
            Box::pin(async move { found })
        }
    }

    fn server(dns: DnsPolicy) -> DnsServer {
        let policy = EgressPolicy {
            dns,
            ..EgressPolicy::default()
        };
        DnsServer {
            resolve: Arc::new(Zone),
            guard: AddressGuard::new(Arc::new(Nobody)),
            policy: watch::channel(Arc::new(policy)).1,
            names: Arc::new(NameTable::default()),
            neighbours: None,
        }
    }

    async fn ask(server: &DnsServer, name: &str, kind: u16) -> (u8, Vec<IpAddr>) {
        let message = question(7, name, kind, None);
        let answer = server.answer(&message, 512).await.unwrap();
        let reply = parse_reply(&answer);
        assert_eq!(reply.id, 7);
        (reply.code, reply.addresses)
    }

    #[tokio::test]
    async fn answers_and_refusals() {
        let server = server(DnsPolicy::default());
        let good: IpAddr = "198.51.100.1".parse().unwrap();
        assert_eq!(ask(&server, "Good.Example", 1).await, (0, vec![good]));
        assert_eq!(server.names.names(good, Instant::now()), ["good.example"]);
        assert_eq!(ask(&server, "good.example", 28).await, (0, vec![]));
        // Addresses that could not be dialled are left out, and are not tied to the name.
        let second: IpAddr = "198.51.100.2".parse().unwrap();
        assert_eq!(ask(&server, "mixed.example", 1).await, (0, vec![second]));
        assert!(
            server
                .names
                .names("127.0.0.1".parse().unwrap(), Instant::now())
                .is_empty()
        );
        assert_eq!(ask(&server, "rebind.example", 1).await, (5, vec![]));
        assert_eq!(ask(&server, "none.example", 1).await, (3, vec![]));
        assert_eq!(ask(&server, "slow.example", 1).await, (2, vec![]));
        assert_eq!(ask(&server, "good.example", 16).await, (4, vec![]));
        assert_eq!(
            ask(&server, "x.localhost", 28).await,
            (0, vec!["::1".parse().unwrap()])
        );
        assert_eq!(ask(&server, "many.example", 1).await.1.len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn names_by_rule() {
        let rules = vec![DnsRule {
            verdict: Verdict::Allow,
            pattern: "good.example".parse().unwrap(),
        }];
        let server = server(DnsPolicy {
            rules,
            otherwise: Verdict::Deny,
        });
        assert_eq!(ask(&server, "good.example", 1).await.0, 0);
        assert_eq!(ask(&server, "many.example", 1).await.0, 3);
        // A denied name is denied for every type.
        assert_eq!(ask(&server, "many.example", 16).await.0, 3);
    }

    #[tokio::test]
    async fn over_tcp() {
        let server = server(DnsPolicy::default());
        let (mut client, end) = tokio::io::duplex(4096);
        let serve = server.serve_tcp(end);
        let talk = async {
            for _ in 0..2 {
                let message = question(9, "good.example", 1, None);
                client
                    .write_all(&(message.len() as u16).to_be_bytes())
                    .await
                    .unwrap();
                client.write_all(&message).await.unwrap();
                let length = client.read_u16().await.unwrap();
                let mut answer = vec![0; usize::from(length)];
                client.read_exact(&mut answer).await.unwrap();
                assert_eq!(parse_reply(&answer).addresses.len(), 1);
            }
            drop(client);
        };
        let (served, ()) = tokio::join!(serve, talk);
        served.unwrap();
    }
}
