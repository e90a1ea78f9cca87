//! Our side of the measurements: boxrig's FastVM and Convox clients on the canned listener.
//!
//! usage: `client ORIGIN SCENARIO [PATH]`; prints one JSON line, as `sdk.py` does for the peer.
//! What is measured begins with a connected client and ends with the last answer.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use boxrig_benches::{CALLS, FLIGHT, LISTS, Meter, STREAM_COMMAND, SUMMING_VM, VM};
use boxrig_fastvm::{Checked, Client, ExecEvent};
use futures_util::StreamExt;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (origin, scenario, path) = match words[..] {
        [origin, scenario] => (origin, scenario, ""),
        [origin, scenario, path] => (origin, scenario, path),
        _ => return Err("usage: client ORIGIN SCENARIO [PATH]".into()),
    };
    if let Some(scenario) = scenario.strip_prefix("convox-") {
        return convox(origin, scenario).await;
    }
    let client = Client::builder().api_key("k").base_url(origin).build()?;
    // A task of its own, as calls are made in most programs that make many.
    let (scenario, path) = (scenario.to_owned(), path.to_owned());
    tokio::spawn(async move { measure(&client, &scenario, &path).await }).await?
}

async fn measure(client: &Client, scenario: &str, path: &str) -> Result<()> {
    run(client).await?; // connected, warm
    let meter = Meter::start();
    let units = match scenario {
        "exec" => exec(client).await?,
        "flight" => flight(client).await?,
        "stream" => stream(client).await?,
        "download" => download(client, VM, path, Checked::Length).await?,
        "download-sha256" => download(client, SUMMING_VM, path, Checked::Sha256).await?,
        "upload-dir" => {
            client.upload(VM, path, "/root/tree").await?;
            1
        }
        other => return Err(format!("unknown scenario {other}").into()),
    };
    println!("{}", serde_json::to_string(&meter.finish(scenario, units))?);
    Ok(())
}

async fn run(client: &Client) -> Result<()> {
    match client.vms().run(VM, ["true"]).await?.exit_code {
        0 => Ok(()),
        code => Err(format!("true ended with {code}").into()),
    }
}

/// One call after the other.
async fn exec(client: &Client) -> Result<u64> {
    for _ in 0..CALLS {
        run(client).await?;
    }
    Ok(CALLS)
}

/// [`FLIGHT`] calls at the same time.
async fn flight(client: &Client) -> Result<u64> {
    let calls = CALLS * 4;
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..FLIGHT)
        .map(|_| {
            let (client, next) = (client.clone(), next.clone());
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < calls {
                    run(&client).await?;
                }
                Ok::<(), Box<dyn Error + Send + Sync>>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(calls)
}

/// A file, which must have been checked as expected.
async fn download(client: &Client, vm: &str, path: &str, expected: Checked) -> Result<u64> {
    let report = client.download(vm, "/object", path).await?;
    if report.checked != expected {
        return Err(format!("checked by {:?}, not {expected:?}", report.checked).into());
    }
    Ok(std::fs::metadata(path)?.len())
}

/// The output of one command.
async fn stream(client: &Client) -> Result<u64> {
    let mut events = client.vms().stream(VM, STREAM_COMMAND).await?;
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        if let ExecEvent::Stdout(chunk) = event? {
            bytes += chunk.len() as u64;
        }
    }
    Ok(bytes)
}

/// A rack's apps listed one time after the other, or one log read to its end.
async fn convox(origin: &str, scenario: &str) -> Result<()> {
    let client = boxrig_convox::Client::builder()
        .host(origin)
        .api_key("k")
        .build()?;
    client.apps().list().await?; // connected, warm
    let meter = Meter::start();
    let mut units = 0;
    match scenario {
        "list" => {
            for _ in 0..LISTS {
                units += client.apps().list().await?.len() as u64;
            }
        }
        "logs" => {
            let which = boxrig_convox::LogOptions::new().follow(true);
            let mut log = client.apps().logs("x", which).await?;
            while let Some(line) = log.next().await {
                units += line?.raw().len() as u64 + 1;
            }
        }
        other => return Err(format!("unknown scenario convox-{other}").into()),
    }
    let scenario = format!("convox-{scenario}");
    println!(
        "{}",
        serde_json::to_string(&meter.finish(&scenario, units))?
    );
    Ok(())
}
