//! Our side of the VergeOS measurements: boxrig's client on the canned listener, or on a real one.
//!
//! usage: `client_vergeos HOST CA_FILE SCENARIO [PATH]`, with the password in `VERGE_PASSWORD`; prints one JSON line, as
//! `vergeos_sdk.py` does for the peer.

use std::error::Error;

use boxrig_benches::{GETS, Meter, ROWS, rss_mib};
use boxrig_vergeos::Client;
use boxrig_vergeos::client::{Transfer, UploadSource};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (host, ca, scenario, path) = match arguments.as_slice() {
        [host, ca, scenario] => (host, ca, scenario, ""),
        [host, ca, scenario, path] => (host, ca, scenario, path.as_str()),
        _ => return Err("usage: client_vergeos HOST CA_FILE SCENARIO [PATH]".into()),
    };
    let client = Client::builder()
        .host(host)
        .username("admin")
        .password(std::env::var("VERGE_PASSWORD").unwrap_or_else(|_| "p".to_owned()))
        .ca_file(ca)
        .build()?;
    client.connect().await?;
    // A task of its own, as calls are made in most programs that make many.
    let (scenario, path) = (scenario.clone(), path.to_owned());
    tokio::spawn(async move { measure(client, &scenario, &path).await }).await?
}

async fn measure(client: Client, scenario: &str, path: &str) -> Result<()> {
    if scenario == "first" {
        // The whole process is measured from outside.
        let rows = client.vms().list().limit(1).await?;
        println!("{}", rows.first().and_then(|vm| vm.name()).ok_or("no row")?);
        return Ok(());
    }
    let before = rss_mib();
    let meter = Meter::start();
    let units = match scenario {
        "list" => {
            let rows = client.vms().list().await?;
            let mut cost = meter.finish(scenario, rows.len() as u64);
            cost.peak_mib -= before;
            // What was read is held until it was measured, and is what was sent.
            let cores = rows.iter().filter_map(|vm| vm.cpu_cores()).sum::<i64>();
            let running = rows
                .iter()
                .filter(|vm| vm.is_running() == Some(true))
                .count();
            if rows.len() != ROWS || cores <= 0 || running == 0 {
                return Err("a wrong list".into());
            }
            println!("{}", serde_json::to_string(&cost)?);
            return Ok(());
        }
        "gets" => {
            for _ in 0..GETS {
                let vm = client.vms().get().key(1).await?;
                vm.name().ok_or("no row")?;
            }
            GETS
        }
        "upload" => {
            let source = UploadSource::Path(path.into());
            let done = client.upload(source, "disk.raw", Transfer::new()).await?;
            done.bytes
        }
        "download" => {
            let settings = Transfer::new().overwrite(true);
            client.download(1, "disk.raw", path, settings).await?.bytes
        }
        other => return Err(format!("unknown scenario {other}").into()),
    };
    let mut cost = meter.finish(scenario, units);
    cost.peak_mib -= before;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
