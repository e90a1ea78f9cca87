//! A TLS listener with canned answers of a VergeOS system: it does nothing but read requests and write ready bytes, so that
//! what is measured is the client. Plain threads and blocking sockets, no code of boxrig in it.
//!
//! usage: `canned_vergeos CA_FILE FILE_MIB`; writes the authority's certificate to CA_FILE and prints its host and port. It has
//! [`ROWS`] virtual machines and one file of FILE_MIB MiB; what is uploaded is read and dropped.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

use boxrig_benches::ROWS;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the file consists of.
static BLOCK: [u8; 1024 * 1024] = [0x5a; 1024 * 1024];

type Io = BufReader<StreamOwned<ServerConnection, TcpStream>>;

struct Canned {
    /// The list of all machines.
    all: Vec<u8>,
    /// That of one.
    one: Vec<u8>,
    file_mib: usize,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ca_file, file_mib] = arguments.as_slice() else {
        return Err(io::Error::other("usage: canned_vergeos CA_FILE FILE_MIB"));
    };
    let (ca, config) = identity().map_err(io::Error::other)?;
    std::fs::write(ca_file, ca)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let rows: Vec<String> = (1..=ROWS).map(row).collect();
    let canned = Arc::new(Canned {
        all: format!("[{}]", rows.join(",")).into_bytes(),
        one: format!("[{}]", rows.first().map_or("", String::as_str)).into_bytes(),
        file_mib: file_mib.parse().map_err(io::Error::other)?,
    });
    let config = Arc::new(config);
    for stream in listener.incoming() {
        let (stream, canned, config) = (stream?, canned.clone(), config.clone());
        std::thread::spawn(move || {
            // A client that hangs up ends its thread.
            let _ = serve(stream, config, &canned);
        });
    }
    Ok(())
}

/// An authority and a certificate of it for 127.0.0.1.
fn identity() -> Result<(String, ServerConfig), Box<dyn std::error::Error + Send + Sync>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::new(Vec::new())?;
    // Both have the same subject unless told otherwise, and OpenSSL then takes this one for self-signed.
    params.distinguished_name.push(DnType::CommonName, "canned");
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &ca)?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    Ok((ca.pem(), config))
}

/// A machine with the columns that both clients ask for by default.
fn row(n: usize) -> String {
    let running = n.is_multiple_of(2);
    let (status, node) = match running {
        true => ("running", r#"1,"node_name":"node1""#),
        false => ("stopped", r#"null,"node_name":null"#),
    };
    format!(
        "{{\"$key\":{n},\"name\":\"vm-{n:05}\",\"description\":\"Made for a measurement, number {n}\",\"enabled\":true,\
         \"machine\":{},\"machine_type\":\"pc-q35-10.0\",\"cpu_cores\":{},\"ram\":{},\"os_family\":\"linux\",\
         \"is_snapshot\":false,\"guest_agent\":false,\"uefi\":true,\"secure_boot\":false,\"created\":{},\"modified\":{},\
         \"cloudinit_datasource\":\"none\",\"ha_group\":null,\"cluster_key\":1,\"cluster_name\":\"cluster1\",\
         \"running\":{running},\"status\":\"{status}\",\"node_key\":{node}}}",
        n + 1000,
        1 + n % 8,
        1024 * (1 + n % 16),
        1_700_000_000 + n,
        1_710_000_000 + n,
    )
}

/// What of a request's head matters here.
struct Head {
    method: String,
    path: String,
    length: u64,
}

impl Head {
    /// Reads one; `None` when the client is done.
    fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().unwrap_or_default().to_owned();
        let mut head = Self {
            method: word(),
            path: word(),
            length: 0,
        };
        loop {
            line.clear();
            input.read_line(&mut line)?;
            let header = line.trim_end();
            if header.is_empty() {
                return Ok(Some(head));
            }
            if let Some((name, value)) = header.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                head.length = value.parse().unwrap_or(0);
            }
        }
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, canned: &Canned) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut io = BufReader::with_capacity(256 * 1024, StreamOwned::new(connection, stream));
    while let Some(head) = Head::read(&mut io)? {
        let read = io::copy(
            &mut Read::by_ref(&mut io).take(head.length),
            &mut io::sink(),
        )?;
        if read != head.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer(&mut io, canned, &head)?;
    }
    Ok(())
}

fn send(io: &mut Io, status: &str, body: &[u8]) -> io::Result<()> {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(body);
    io.get_mut().write_all(&text)?;
    io.get_mut().flush()
}

fn answer(io: &mut Io, canned: &Canned, head: &Head) -> io::Result<()> {
    const SYSTEM: &[u8] =
        br#"[{"$key":1,"yb_version":"26.1.8","os_version":"26.1.8","cloud_name":"canned"}]"#;
    let (path, query) = head.path.split_once('?').unwrap_or((&head.path, ""));
    let path = path.strip_prefix("/api/v4/").unwrap_or(path);
    match (head.method.as_str(), path) {
        ("GET", "system") => send(io, "200 OK", SYSTEM),
        ("GET", "vms") if query.contains("limit=1") => send(io, "200 OK", &canned.one),
        ("GET", "vms") => send(io, "200 OK", &canned.all),
        ("POST", "files") => send(
            io,
            "201 Created",
            br#"{"location":"/v4/files/1","dbpath":"files/1","$row":1,"$key":"1"}"#,
        ),
        ("PUT", _) => send(io, "200 OK", b""),
        ("GET", "files/1") if query.contains("download=1") => content(io, canned.file_mib),
        ("GET", path) if path == "files" || path == "files/1" => {
            let row = format!(
                r#"{{"$key":1,"name":"disk.raw","type":"raw","description":"","filesize":{}}}"#,
                canned.file_mib << 20
            );
            match path {
                "files" => send(io, "200 OK", format!("[{row}]").as_bytes()),
                _ => send(io, "200 OK", row.as_bytes()),
            }
        }
        _ => send(io, "404 Not Found", br#"{"err":"not canned"}"#),
    }
}

fn content(io: &mut Io, mib: usize) -> io::Result<()> {
    let out = io.get_mut();
    let kind = "application/octet-stream";
    let length = mib << 20;
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    for _ in 0..mib {
        out.write_all(&BLOCK)?;
    }
    out.flush()
}
