//! Transparent egress in a real network namespace (root only), and the dialler with injected ends.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boxrig_engine::net::ack::{self, Outcome};
use boxrig_engine::net::{
    self, AddressGuard, Dial, Egress, EgressLimits, EgressListeners, EgressOptions, EgressPolicy,
    EgressRule, Family, HostAddresses, LookupFailure, Neighbourhood, Neighbours, OriginalTarget,
    Protocol, Resolve, Target, Told, Verdict, netlink,
};
use boxrig_engine::{BoxDuplex, BoxFuture, InstanceId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Debug)]
struct Host;

impl HostAddresses for Host {
    fn is_own(&self, address: IpAddr) -> bool {
        address == IpAddr::from([192, 0, 2, 10])
    }
}

/// Stands for the world: every connection is answered with the address that was dialled, then echoes.
#[derive(Debug, Default)]
struct World {
    dialled: Mutex<Vec<SocketAddr>>,
}

impl Dial for World {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxDuplex>> {
        self.dialled.lock().unwrap().push(address);
        Box::pin(async move {
            if address.port() == 9 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(theirs);
                let hello = format!("{address}\n");
                if write.write_all(hello.as_bytes()).await.is_ok() {
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
                let _ = write.shutdown().await;
            });
            Ok(Box::new(ours) as BoxDuplex)
        })
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
        let found = match (name, family) {
            ("good.example", Family::V4) => Ok(vec!["198.51.100.7".parse().unwrap()]),
            ("good.example", Family::V6) => Ok(vec!["2001:db8::7".parse().unwrap()]),
            ("evil.example", Family::V4) => Ok(vec!["127.0.0.1".parse().unwrap()]),
            _ => Err(LookupFailure::NoName),
        };
        Box::pin(async move { found })
    }
}

fn options(world: &Arc<World>) -> EgressOptions {
    EgressOptions {
        dial: Arc::clone(world) as Arc<dyn Dial>,
        resolve: Arc::new(Zone),
        guard: AddressGuard::new(Arc::new(Host)),
        ..EgressOptions::default()
    }
}

fn deny(target: Target) -> EgressPolicy {
    EgressPolicy {
        rules: vec![EgressRule {
            verdict: Verdict::Deny,
            target,
            protocol: None,
            ports: None,
        }],
        ..EgressPolicy::default()
    }
}

/// Sends one request and reads the kernel's answers, as an instance's stage does.
fn send(request: &netlink::Request) -> Result<(), i32> {
    let os_error = || io::Error::last_os_error().raw_os_error().unwrap_or(-1);
    // SAFETY: plain system calls on a descriptor and buffers of our own.
    unsafe {
        let fd = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            request.protocol,
        );
        if fd < 0 {
            return Err(os_error());
        }
        let mut kernel: libc::sockaddr_nl = std::mem::zeroed();
        kernel.nl_family = libc::AF_NETLINK as u16;
        let sent = libc::sendto(
            fd,
            request.bytes.as_ptr().cast(),
            request.bytes.len(),
            0,
            (&raw const kernel).cast(),
            size_of::<libc::sockaddr_nl>() as u32,
        );
        let mut result = if sent < 0 {
            Err(os_error())
        } else {
            Ok(Outcome::More)
        };
        let mut buffer = [0u8; 8192];
        while result == Ok(Outcome::More) {
            let got = libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0);
            result = match usize::try_from(got) {
                Ok(got) => Ok(ack::outcome(&buffer[..got], request.last_seq)),
                Err(_) => Err(os_error()),
            };
        }
        libc::close(fd);
        match result? {
            Outcome::Done => Ok(()),
            Outcome::Failed { errno, .. } => Err(errno),
            other => panic!("{other:?}"),
        }
    }
}

/// Why the test cannot run here, if so.
fn cannot_unshare() -> bool {
    // On a thread of its own, which ends with its namespace.
    // SAFETY: changes the network namespace of that thread only.
    let tried = std::thread::spawn(|| unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0);
    if tried.join().unwrap_or(false) {
        return false;
    }
    assert_ne!(
        std::env::var("BOXRIG_REQUIRE").as_deref(),
        Ok("sandbox"),
        "this test must run, and needs root and network namespaces"
    );
    eprintln!("skipped: making a network namespace from a test is not permitted here");
    true
}

/// Runs `inside` on a thread with a new network namespace. Sockets made there stay there, whichever
/// thread uses them later.
fn in_new_netns<T: Send + 'static>(inside: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        // SAFETY: changes the network namespace of this thread only.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(unshared, 0, "{}", io::Error::last_os_error());
        inside()
    });
    thread.join().unwrap()
}

fn set_up() -> EgressListeners {
    let started = Instant::now();
    for request in net::setup() {
        if let Err(errno) = send(&request) {
            panic!("{}: errno {errno}", request.what);
        }
    }
    println!("network set up in {:?}", started.elapsed());
    let mut listeners = EgressListeners::default();
    for listener in net::LISTENERS {
        match listener.protocol {
            Protocol::Tcp => listeners
                .tcp
                .push(TcpListener::bind(listener.address).unwrap()),
            Protocol::Udp => listeners
                .dns
                .push(UdpSocket::bind(listener.address).unwrap()),
        }
    }
    listeners
}

fn talk(address: &str) -> io::Result<String> {
    let target: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    assert_eq!(stream.peer_addr()?, target);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"ping")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    Ok(heard)
}

/// Asks for one address, as a stub resolver would, over UDP.
fn ask(server: &str, name: &str, kind: u8) -> io::Result<Vec<u8>> {
    let family = if server.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(family)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(server)?;
    socket.send(&question(name, kind))?;
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn question(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
    bytes
}

#[test]
fn everything_leads_to_the_dialler() {
    if cannot_unshare() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = Arc::new(World::default());
    let (to_guest, from_server) = std::sync::mpsc::channel::<()>();
    let (to_server, from_guest) = std::sync::mpsc::channel();

    let guest = std::thread::spawn(move || {
        in_new_netns(move || {
            to_server.send(set_up()).unwrap();
            from_server.recv().unwrap();

            // TCP of both families, to two addresses told apart.
            assert_eq!(talk("198.51.100.1:80").unwrap(), "198.51.100.1:80\nping");
            assert_eq!(talk("203.0.113.5:4443").unwrap(), "203.0.113.5:4443\nping");
            assert_eq!(talk("[2001:db8::5]:80").unwrap(), "[2001:db8::5]:80\nping");
            assert_eq!(
                talk("198.51.100.1:65080").unwrap(),
                "198.51.100.1:65080\nping"
            );

            // Refused by rule, by the guard, by the far end: always a reset, at once.
            for refused in [
                "10.1.2.3:80",
                "169.254.169.254:80",
                "192.0.2.10:80",
                "240.0.0.1:80",
                "198.51.100.1:9",
                "[fd00:ec2::254]:80",
                "[64:ff9b::7f00:1]:80",
                // The listener itself has no target beyond the loopback.
                "127.0.0.1:65080",
                "[::1]:65080",
            ] {
                let started = Instant::now();
                let error = talk(refused).unwrap_err();
                assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset
                            | io::ErrorKind::BrokenPipe
                            | io::ErrorKind::NotConnected
                    ),
                    "{refused}: {error}"
                );
                assert!(started.elapsed() < Duration::from_secs(2), "{refused}");
            }

            // The instance's own loopback stays its own.
            let own = TcpListener::bind("127.0.0.1:8080").unwrap();
            let mut client = TcpStream::connect("127.0.0.1:8080").unwrap();
            let (mut served, _) = own.accept().unwrap();
            served.write_all(b"own").unwrap();
            let mut heard = [0; 3];
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"own");
            let own = UdpSocket::bind("127.0.0.1:5300").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"own", "127.0.0.1:5300").unwrap();
            assert_eq!(own.recv(&mut heard).unwrap(), 3);
            // Nobody there: refused by the instance, not dialled.
            assert_eq!(
                TcpStream::connect("127.0.0.1:8081").unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );

            // A process that listens on all addresses is not reached by a connection to the world.
            let all = TcpListener::bind("0.0.0.0:7777").unwrap();
            all.set_nonblocking(true).unwrap();
            assert_eq!(
                talk("198.51.100.1:7777").unwrap(),
                "198.51.100.1:7777\nping"
            );
            assert_eq!(all.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);

            // DNS at every address, over UDP and TCP.
            for server in ["10.0.2.3:53", "8.8.8.8:53", "[2001:4860:4860::8888]:53"] {
                let answer = ask(server, "good.example", 1).unwrap();
                assert_eq!(answer[3] & 0xf, 0, "{server}");
                assert_eq!(&answer[answer.len() - 4..], &[198, 51, 100, 7]);
            }
            assert_eq!(ask("8.8.8.8:53", "evil.example", 1).unwrap()[3] & 0xf, 5);
            assert_eq!(ask("8.8.8.8:53", "none.example", 1).unwrap()[3] & 0xf, 3);
            let mut stream = TcpStream::connect("9.9.9.9:53").unwrap();
            let message = question("good.example", 1);
            stream
                .write_all(&(message.len() as u16).to_be_bytes())
                .unwrap();
            stream.write_all(&message).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer[answer.len() - 4..], &[198, 51, 100, 7]);

            // Everything else is dropped where it is sent.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            assert_eq!(
                socket.send_to(b"x", "198.51.100.1:123").unwrap_err().kind(),
                io::ErrorKind::PermissionDenied
            );
            let socket = UdpSocket::bind("[::]:0").unwrap();
            assert_eq!(
                socket
                    .send_to(b"x", "[2001:db8::1]:123")
                    .unwrap_err()
                    .kind(),
                io::ErrorKind::PermissionDenied
            );

            let mut times: Vec<Duration> = (0..50)
                .map(|_| {
                    let started = Instant::now();
                    talk("198.51.100.1:80").unwrap();
                    started.elapsed()
                })
                .collect();
            times.sort();
            println!(
                "connect, echo, end: min {:?} median {:?}",
                times[0], times[25]
            );
        });
    });

    let listeners = from_guest.recv().unwrap();
    let policy = deny(Target::Net("10.0.0.0/8".parse().unwrap()));
    let egress = {
        let _in = runtime.enter();
        Egress::start(listeners, policy, options(&world)).unwrap()
    };
    to_guest.send(()).unwrap();
    guest.join().unwrap();

    let dialled = world.dialled.lock().unwrap();
    let forbidden = |address: &&SocketAddr| {
        let text = address.ip().to_string();
        ["10.", "127.", "169.", "192.0.2.10", "240.", "fd00:", "64:"]
            .iter()
            .any(|bad| text.starts_with(bad))
    };
    assert_eq!(dialled.iter().find(forbidden), None);
    let counters = egress.counters();
    assert_eq!(counters.connected, 55);
    assert_eq!((counters.refused, counters.failed), (8, 1));
    assert_eq!(counters.sent_bytes, 55 * 4);
    assert!(counters.received_bytes > 55 * 4);
}

#[test]
fn an_instance_without_network_reaches_only_itself() {
    if cannot_unshare() {
        return;
    }
    in_new_netns(|| {
        for request in net::loopback_setup() {
            send(&request).unwrap();
        }
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(own.local_addr().unwrap()).unwrap();
        for address in ["198.51.100.1:80", "[2001:db8::1]:80"] {
            let error = TcpStream::connect(address).unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable
                ),
                "{error}"
            );
        }
    });
}

/// Every connection was going to one place.
#[derive(Debug)]
struct To(SocketAddr);

impl OriginalTarget for To {
    fn target(&self, _: &tokio::net::TcpStream) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

fn local(options: EgressOptions, policy: EgressPolicy) -> (Egress, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listeners = EgressListeners {
        tcp: vec![listener],
        dns: Vec::new(),
    };
    (Egress::start(listeners, policy, options).unwrap(), address)
}

async fn greeting(stream: &mut tokio::net::TcpStream) -> io::Result<String> {
    let mut buffer = [0; 64];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await??;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

#[tokio::test]
async fn a_new_policy_cuts_what_it_denies() {
    let world = Arc::new(World::default());
    let target = "198.51.100.1:80".parse().unwrap();
    let options = EgressOptions {
        original: Arc::new(To(target)),
        ..options(&world)
    };
    let (egress, address) = local(options, EgressPolicy::default());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(greeting(&mut stream).await.unwrap(), "198.51.100.1:80\n");
    egress.set_policy(deny(Target::Net("203.0.113.0/24".parse().unwrap())));
    stream.write_all(b"still").await.unwrap();
    assert_eq!(greeting(&mut stream).await.unwrap(), "still");
    egress.set_policy(deny(Target::Any));
    assert_eq!(
        greeting(&mut stream).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(greeting(&mut stream).await.is_err());
    assert_eq!(
        (egress.counters().connected, egress.counters().refused),
        (1, 1)
    );
}

/// One neighbour, `api`, whose port 5000 answers who asked.
#[derive(Debug)]
struct Street;

impl Neighbours for Street {
    fn knows(&self, _: &InstanceId, name: &str) -> bool {
        name == "api"
    }

    fn connect<'a>(
        &'a self,
        from: &'a InstanceId,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<BoxDuplex>> {
        Box::pin(async move {
            if port != 5000 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs
                .write_all(format!("{name} to {from}").as_bytes())
                .await?;
            Ok(Box::new(ours) as BoxDuplex)
        })
    }
}

#[tokio::test]
async fn a_neighbour_is_reached_as_far_as_the_rules_let() {
    let told = Told::default();
    assert!(told.set(Arc::new(Street)).is_ok());
    let neighbours = Neighbourhood::new(InstanceId::new("web").unwrap(), told);
    let known = neighbours.address("api").unwrap();
    let unknown = std::net::Ipv4Addr::from(u32::from(known) ^ 1);
    let world = Arc::new(World::default());
    let deny_port = EgressPolicy {
        rules: vec![EgressRule {
            verdict: Verdict::Deny,
            target: Target::Any,
            protocol: Some(Protocol::Tcp),
            ports: Some(net::Ports {
                first: 5000,
                last: 5000,
            }),
        }],
        ..EgressPolicy::default()
    };
    for (address, port, policy, wanted) in [
        (known, 5000, EgressPolicy::default(), Some("api to web")),
        (known, 5001, EgressPolicy::default(), None),
        (known, 5000, deny_port, None),
        (unknown, 5000, EgressPolicy::default(), None),
    ] {
        let options = EgressOptions {
            original: Arc::new(To((address, port).into())),
            neighbours: Some(neighbours.clone()),
            ..options(&world)
        };
        let (_egress, at) = local(options, policy);
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        assert_eq!(greeting(&mut stream).await.ok().as_deref(), wanted);
    }
    // Nothing of it went into the world.
    assert!(world.dialled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn connections_are_bounded_and_end_with_the_egress() {
    let world = Arc::new(World::default());
    let target = "198.51.100.1:80".parse().unwrap();
    let options = EgressOptions {
        original: Arc::new(To(target)),
        limits: EgressLimits {
            connections: 2,
            idle: Duration::from_millis(300),
            ..EgressLimits::default()
        },
        ..options(&world)
    };
    let (egress, address) = local(options, EgressPolicy::default());
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        greeting(&mut stream).await.unwrap();
        held.push(stream);
    }
    let mut third = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(greeting(&mut third).await.is_err());
    // Silence frees the places.
    for stream in &mut held {
        assert!(greeting(stream).await.is_err());
    }
    let mut fourth = tokio::net::TcpStream::connect(address).await.unwrap();
    greeting(&mut fourth).await.unwrap();
    drop(egress);
    assert!(!matches!(greeting(&mut fourth).await, Ok(text) if !text.is_empty()));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_real_dialler_refuses_the_host() {
    // With nothing injected but the target: a server of the host must not be reached by its loopback.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    assert!(server.as_raw_fd() >= 0);
    let target = server.local_addr().unwrap();
    for target in [
        target,
        SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), target.port()),
    ] {
        let options = EgressOptions {
            original: Arc::new(To(target)),
            ..EgressOptions::default()
        };
        let (egress, address) = local(options, EgressPolicy::default());
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        assert!(greeting(&mut stream).await.is_err());
        assert_eq!(egress.counters().refused, 1);
    }
    assert_eq!(
        server.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}
