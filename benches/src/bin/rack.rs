//! Promotions on the rack of a running `boxrig serve`, through its API.
//!
//! usage, with `CONVOX_HOST` and `CONVOX_PASSWORD` set: `rack promote N`: milliseconds from the call that promotes a built
//! release of an app of one process to the first answer of that release at the service's host name, N times; prints
//! `{"serving_ms": […]}`.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use boxrig_convox::{Client, Deploy, EnvChange, Wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Rounds before the first that counts.
const WARM_UP: usize = 2;
/// From one request to the next while a release is waited for.
const PAUSE: Duration = Duration::from_millis(2);
/// No promotion of a ready app takes so long.
const LONGEST: Duration = Duration::from_secs(60);

const MANIFEST: &str =
    "services:\n  web:\n    build: .\n    port: 3000\n    health: /\n    termination: {grace: 2}\n";
const DOCKERFILE: &str =
    "FROM boxrig/base\nCOPY server.py /server.py\nCMD [\"python3\", \"/server.py\"]\n";
/// Says which release it is.
const SERVER: &str = "import os, socket
text = os.environ['RELEASE'].encode()
s = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
while True:
    c, _ = s.accept()
    c.recv(65536)
    c.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(text) + text)
    c.close()
";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["promote", n] => promote(n.parse()?).await,
        _ => Err("usage: rack promote N".into()),
    }
}

async fn promote(times: usize) -> Result<()> {
    let client = Client::from_env()?;
    let host = std::env::var("CONVOX_HOST")?;
    let address = host.trim_start_matches("http://").to_owned();
    let folder = Folder::new()?;
    let deploy = Deploy::new(&folder.0).create(true).promote(true);
    client.deploy("bench", &deploy).await?;
    let mut serving = Vec::new();
    for round in 0..WARM_UP + times {
        let change = EnvChange::new().set("ROUND", round.to_string());
        let release = client.environment().change("bench", change).await?.id;
        let begin = Instant::now();
        client.releases().promote("bench", &release).await?;
        while !answer(&address).await?.ends_with(&release) {
            if begin.elapsed() > LONGEST {
                return Err(format!("{release} does not serve").into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        if round >= WARM_UP {
            serving.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        client.apps().settle("bench", Wait::default()).await?;
    }
    client.apps().delete("bench").await?;
    client.apps().gone("bench", Wait::default()).await?;
    println!("{}", serde_json::json!({ "serving_ms": serving }));
    Ok(())
}

/// What the service answers by its host name: a connection, a request, everything until its end.
async fn answer(address: &str) -> Result<String> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(b"GET / HTTP/1.1\r\nHost: web.bench.localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    io.read_to_string(&mut text).await?;
    Ok(text)
}

/// The app's source; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let name = format!("boxrig-bench-rack-{}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir(&folder.0)?;
        let write = |name: &str, text: &str| std::fs::write(folder.0.join(name), text);
        write("convox.yml", MANIFEST)?;
        write("Dockerfile", DOCKERFILE)?;
        write("server.py", SERVER)?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
