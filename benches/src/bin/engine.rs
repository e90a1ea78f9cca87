//! Instances of a running `boxrig serve`, through its HTTP API.
//!
//! usage, with `FASTVM_BASE_URL` and `FASTVM_API_KEY` set:
//! - `engine start N`: milliseconds from the launch to the output of a first command, N times, each on a
//!   new instance; prints `{"launch_ms": […], "output_ms": […]}`;
//! - `engine launch N`: launches N instances and leaves them; prints `{"units": N, "wall_s": …}`;
//! - `engine clear`: deletes every instance.

use std::error::Error;
use std::time::Instant;

use boxrig_fastvm::{Client, Launch, ListVms};
use futures_util::{StreamExt, TryStreamExt, stream};

/// Launches and deletions under way at the same time.
const AT_ONCE: usize = 8;
/// Rounds before the first that counts.
const WARM_UP: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let client = Client::from_env()?;
    match words[..] {
        ["start", n] => start(&client, n.parse()?).await,
        ["launch", n] => launch(&client, n.parse()?).await,
        ["clear"] => clear(&client).await,
        _ => Err("usage: engine start N | launch N | clear".into()),
    }
}

fn size() -> Launch {
    Launch::new("c1m1")
}

/// One instance after the other: nothing is started ahead, nothing runs beside it.
async fn start(client: &Client, times: usize) -> Result<()> {
    let (mut launched, mut answered) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + times {
        let begin = Instant::now();
        let vm = client.vms().launch(size()).await?.vm;
        let after_launch = begin.elapsed();
        let out = client.vms().run(&vm.id, ["echo", "ready"]).await?;
        let after_output = begin.elapsed();
        if out.stdout.trim_end() != "ready" || out.exit_code != 0 {
            return Err(format!("echo: {out:?}").into());
        }
        client.vms().delete(&vm.id).await?;
        if round >= WARM_UP {
            launched.push(after_launch.as_secs_f64() * 1e3);
            answered.push(after_output.as_secs_f64() * 1e3);
        }
    }
    let report = serde_json::json!({ "launch_ms": launched, "output_ms": answered });
    println!("{report}");
    Ok(())
}

async fn launch(client: &Client, count: usize) -> Result<()> {
    let begin = Instant::now();
    let launches = stream::iter((0..count).map(Ok::<_, boxrig_wire::Error>));
    launches
        .try_for_each_concurrent(AT_ONCE, |_| async {
            client.vms().launch(size()).await.map(drop)
        })
        .await?;
    let wall = begin.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "units": count, "wall_s": wall }));
    Ok(())
}

async fn clear(client: &Client) -> Result<()> {
    let all = client.vms().list(ListVms::new()).await?;
    let count = all.len();
    stream::iter(all)
        .map(|vm| async move { client.vms().delete(&vm.id).await.map(drop) })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    println!("{}", serde_json::json!({ "units": count }));
    Ok(())
}
