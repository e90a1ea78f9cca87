//! Rows of a running `boxrig serve`, through its VergeOS API.
//!
//! usage, with `BOXRIG_URL` and `VERGE_PASSWORD` set: `tables ROWS TIMES` makes ROWS virtual machines, lists them TIMES times
//! filtered, sorted and projected, and prints `{"list_ms": [...], "rows": N, "bytes": N}`.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use boxrig_transport::Http;
use boxrig_wire::{BaseUrl, CallOptions, Caller, RawBody, RawRequest};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

/// Rows that are being made at the same time.
const AT_ONCE: usize = 32;
/// Lists before the first that counts.
const WARM_UP: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, times] = arguments.as_slice() else {
        return Err("usage: tables ROWS TIMES".into());
    };
    let (rows, times): (usize, usize) = (rows.parse()?, times.parse()?);
    let caller = caller()?;
    stream::iter(0..rows)
        .map(|n| make(&caller, n))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;

    let mut list_ms = Vec::new();
    let mut bytes = 0;
    for round in 0..WARM_UP + times {
        let request = RawRequest::new(Method::GET, "/api/v4/vms")
            .query(
                "filter",
                "name bw 'vm-' and (ram ge 512 or enabled eq false)",
            )
            .query("sort", "-ram,name")
            .query(
                "fields",
                "$key,name,ram,cpu_cores,display(os_family) as os,snapshot_profile#name as profile",
            );
        let begin = Instant::now();
        let response = caller.raw_stream(request).await?;
        let body = response.into_body().collect(256 << 20).await?;
        let took = begin.elapsed();
        check(&body, rows)?;
        bytes = body.len();
        if round >= WARM_UP {
            list_ms.push(took.as_secs_f64() * 1e3);
        }
    }
    println!(
        "{}",
        json!({ "list_ms": list_ms, "rows": rows, "bytes": bytes })
    );
    Ok(())
}

fn caller() -> Result<Caller> {
    let variable = |name: &str| std::env::var(name).map_err(|e| format!("{name}: {e}"));
    let text = format!("admin:{}", variable("VERGE_PASSWORD")?);
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    let basic = HeaderValue::from_str(&format!("Basic {text}"))?;
    let base = BaseUrl::parse(&variable("BOXRIG_URL")?)?;
    let transport = Http::builder().build()?;
    let headers = HeaderMap::from_iter([(AUTHORIZATION, basic)]);
    Ok(Caller::new(Arc::new(transport), base).with_headers(headers))
}

async fn make(caller: &Caller, n: usize) -> Result<()> {
    let row =
        json!({ "name": format!("vm-{n:05}"), "ram": 512 * (1 + n % 16), "cpu_cores": 1 + n % 8 });
    let request = RawRequest::new(Method::POST, "/api/v4/vms")
        .body(RawBody::Json(row))
        .options(CallOptions::new().retries(0));
    let (parts, body) = caller.raw_stream(request).await?.into_parts();
    if parts.status != http::StatusCode::CREATED {
        let body = body.collect(1 << 20).await?;
        return Err(format!("{}: {}", parts.status, String::from_utf8_lossy(&body)).into());
    }
    Ok(())
}

/// Every row, in the order that was asked for.
fn check(body: &[u8], rows: usize) -> Result<()> {
    let all: Vec<Value> = serde_json::from_slice(body)?;
    let order = |row: &Value| {
        let ram = row["ram"].as_i64().unwrap_or(0);
        (-ram, row["name"].as_str().unwrap_or("").to_owned())
    };
    let sorted = all.windows(2).all(|pair| order(&pair[0]) < order(&pair[1]));
    let whole = all
        .iter()
        .all(|r| r["os"] == "Linux" && r.get("profile").is_some());
    match all.len() == rows && sorted && whole {
        true => Ok(()),
        false => Err(format!("a wrong list of {} rows", all.len()).into()),
    }
}
