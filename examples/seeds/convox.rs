//! Every example of the vendor's Python SDK document, in Rust, against the rack of `CONVOX_HOST`.
//!
//! `boxrig up && eval "$(boxrig env)" && cargo run -p boxrig-examples --example convox`

use std::time::Duration;

use boxrig_convox::ops::builds::BuildCreateForm;
use boxrig_convox::ops::services::ServiceUpdateForm;
use boxrig_convox::{Client, Deploy, EnvChange, LogOptions, RetryConfig, Wait};
use boxrig_wire::{CallOptions, Error, Kind, LineStream, RawRequest, Result, WireBody};
use futures_util::StreamExt;

/// Fails when an example does not hold.
fn holds(what: &str, so: bool) -> Result<()> {
    if so {
        println!("ok  {what}");
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("does not hold: {what}")))
}

/// What the rack offers not, it says by name; anything else is an error.
fn offered<T>(what: &str, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => {
            println!("ok  {what}");
            Ok(Some(value))
        }
        Err(e) if e.kind() == Kind::Unsupported => {
            println!("501 {what}");
            Ok(None)
        }
        Err(e) => Err(e.context(what)),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // Authentication: explicit, by the environment, by the tool's files (`Client::from_cli_config`).
    let host = std::env::var("CONVOX_HOST").unwrap_or_default();
    let key = std::env::var("CONVOX_PASSWORD").unwrap_or_default();
    let explicit = Client::builder()
        .host(host)
        .api_key(key)
        .rack("org/rack-name")
        .build()?;
    holds("explicit credentials", explicit.apps().list().await.is_ok())?;
    let client = Client::from_env()?;

    // Retries.
    let more = RetryConfig {
        max_retries: 5,
        backoff_base: Duration::from_secs(2),
        backoff_max: Duration::from_secs(60),
        retry_on_500: true,
    };
    let patient = Client::builder().env().retry(more).build()?;
    holds("other retries", patient.system().get().await.is_ok())?;
    let none = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    holds(
        "no retries",
        Client::builder()
            .env()
            .retry(none)
            .build()?
            .system()
            .get()
            .await
            .is_ok(),
    )?;

    // System.
    let rack = client.system().get().await?;
    println!("{} v{} ({})", rack.name, rack.version, rack.provider);
    holds("system", !rack.name.is_empty() && !rack.version.is_empty())?;
    client.system().capacity().await?;

    let app = format!("seed-{}", std::process::id());
    let done = examples(&client, &app).await;
    // What was made is taken away, whatever came of it.
    let _ = client.apps().lock(&app, false).await;
    client.apps().delete(&app).await?;
    client.apps().gone(&app, Wait::default()).await?;
    done?;
    println!("all examples hold");
    Ok(())
}

async fn examples(client: &Client, app: &str) -> Result<()> {
    // Apps.
    client.apps().create(app).await?;
    client.apps().settle(app, Wait::default()).await?;
    let all = client.apps().list().await?;
    holds("apps.list", all.iter().any(|a| a.name == app))?;
    holds("apps.get", client.apps().get(app).await?.name == app)?;
    client.apps().lock(app, true).await?;
    holds("apps.update lock", client.apps().get(app).await?.locked)?;
    let locked = client.apps().delete(app).await;
    holds(
        "a locked app stays",
        locked.is_err_and(|e| e.kind() == Kind::Conflict),
    )?;
    client.apps().lock(app, false).await?;
    offered(
        "apps.update parameters",
        client
            .apps()
            .set_parameters(app, [("BuildCpu", "512")])
            .await,
    )?;
    let idle = client.apps().cancel(app).await;
    holds("apps.cancel of nothing", idle.is_err())?;

    // Errors.
    let e = match client.apps().get("no-such-app").await {
        Err(e) => e,
        Ok(_) => return holds("an unknown app is not found", false),
    };
    holds(
        "an unknown app is not found",
        e.kind() == Kind::NotFound && e.request_id().is_some(),
    )?;
    let taken = client.apps().create(app).await;
    holds(
        "a taken name is a conflict",
        taken.is_err_and(|e| e.kind() == Kind::Conflict),
    )?;

    // Low level.
    holds("api.get", client.api().get("/apps").await?.is_array())?;
    let posted = client.api().post("/apps").data([("name", app)]).await;
    holds(
        "api.post",
        posted.is_err_and(|e| e.kind() == Kind::Conflict),
    )?;

    // Environment.
    let made = client
        .environment()
        .set(app, [("KEY", "value"), ("OTHER", "val")])
        .await?;
    holds("environment.set makes a release", made.id.starts_with('R'))?;
    let vars = client.environment().get(app).await?;
    holds(
        "environment.get",
        vars.get("KEY").is_some_and(|v| v == "value"),
    )?;
    client.environment().unset(app, &["KEY"]).await?;
    holds(
        "environment.unset",
        !client.environment().get(app).await?.contains_key("KEY"),
    )?;
    let broken = client
        .environment()
        .change(app, EnvChange::new().set("A", "two\nlines"))
        .await;
    holds(
        "a line break is refused",
        broken.is_err_and(|e| e.kind() == Kind::Invalid),
    )?;

    // Releases and builds.
    let releases = client.releases().list(app, None).await?;
    holds("releases.list", releases.len() == 2)?;
    let one = client.releases().get(app, &releases[0].id).await?;
    holds("releases.get", one.env.expose() == "OTHER=val\n")?;
    holds(
        "builds.list",
        client.builds().list(app, None).await?.is_empty(),
    )?;

    let dir = tempdir(app)?;
    let form = BuildCreateForm {
        description: Some("v2.0 release".into()),
        ..Default::default()
    };
    let deploy = Deploy::new(&dir)
        .build(form)
        .promote(true)
        .wait(Wait::default().timeout(Duration::from_secs(300)));
    let deployed = offered(
        "builds.create and releases.promote",
        client.deploy(app, &deploy).await,
    );
    let _ = std::fs::remove_dir_all(&dir);
    if let Some(first) = deployed? {
        holds(
            "builds.get",
            client.builds().get(app, &first.build.id).await?.status == "complete",
        )?;
        running(client, app, &first.release).await?;
        let exported = client.builds().export(app, &first.build.id).await;
        if let Some(export) = offered("builds.export", exported)? {
            let tarball = export
                .body
                .collect(1 << 30)
                .await
                .map_err(|e| Error::new(Kind::Transport, e.to_string()))?;
            let again = client
                .builds()
                .import_build(app, WireBody::full(tarball.clone()))
                .await;
            offered("builds.import_build", again)?;
            let hour = CallOptions::new().timeout(Duration::from_secs(3600));
            let again = client
                .builds()
                .with(hour)
                .import_build(app, WireBody::full(tarball))
                .await;
            offered("builds.import_build with a deadline", again)?;
        }
    }

    // Resources.
    client
        .resources()
        .list(app)
        .await
        .map(drop)
        .or_else(|e| offered::<()>("resources.list", Err(e)).map(drop))?;
    offered(
        "resources.system_list",
        client.resources().system_list().await,
    )?;

    // A raw stream: the status is not checked, and logs are sockets.
    let request =
        RawRequest::new(http::Method::GET, format!("/apps/{app}/logs")).query("follow", "true");
    let response = client.raw_stream(request).await?;
    let status = response.status();
    let mut lines = LineStream::new(response.into_body(), 1 << 20);
    while let Some(Ok(_)) = lines.next().await {}
    holds("stream", status.is_client_error())
}

/// What can be done with an app that runs.
async fn running(client: &Client, app: &str, first: &str) -> Result<()> {
    let services = client.services().list(app).await?;
    holds("services.list", services.iter().any(|s| s.name == "web"))?;
    let processes = client.processes().list(app).await?;
    holds("processes.list", !processes.is_empty())?;
    let one = client.processes().get(app, &processes[0].id).await?;
    holds("processes.get", one.id == processes[0].id)?;
    let mut log = client.apps().logs(app, LogOptions::new()).await?;
    while let Some(line) = log.next().await {
        line?;
    }
    let scale = ServiceUpdateForm {
        count: Some(2),
        memory: Some(128),
        ..Default::default()
    };
    client.services().update(app, "web", scale).await?;
    client.apps().settle(app, Wait::default()).await?;
    holds(
        "services.update",
        client.services().list(app).await?[0].count == 2,
    )?;
    client.services().restart(app, "web").await?;
    client.apps().settle(app, Wait::default()).await?;
    let processes = client.processes().list(app).await?;
    if let Some(process) = processes.first() {
        client.processes().stop(app, &process.id).await?;
        println!("ok  processes.stop");
    }
    // A rollback is a new release of the old one.
    let changed = client
        .environment()
        .change(app, EnvChange::new().set("V", "2").promote())
        .await?;
    client.apps().settle(app, Wait::default()).await?;
    holds(
        "releases.promote",
        client.apps().get(app).await?.release == changed.id,
    )?;
    let back = client.releases().rollback(app, first).await?;
    client.apps().settle(app, Wait::default()).await?;
    holds(
        "releases.rollback",
        client.apps().get(app).await?.release == back.id && back.id != first,
    )
}

/// A small app to deploy.
fn tempdir(app: &str) -> Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(app);
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text);
    let made = std::fs::create_dir_all(&dir)
        .and_then(|()| {
            write(
                "convox.yml",
                "services:\n  web:\n    build: .\n    command: sleep 3600\n",
            )
        })
        .and_then(|()| write("Dockerfile", "FROM boxrig/base\nRUN echo built >/built\n"));
    made.map_err(|e| Error::new(Kind::Failed, format!("the folder: {e}")))?;
    Ok(dir)
}
