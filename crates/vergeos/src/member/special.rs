//! Members that are more than requests with JSON in them: content, clients of tenants, documents put together on this side.

use boxrig_wire::{BoxFuture, Error, Json, Kind, Result, WireBody};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::call::Node;
use super::catalogue::Way;
use super::outcome::same;
use super::ran::Ran;
use super::run::{Invocation, Run, begin, carry_out};
use super::value::{Look, plain};
use crate::client::{Transfer, UploadSource};
use crate::ops::{CloudInitGet, GetQuery, TableCreate, TableDelete, TableUpdate};
use crate::{Client, Key, Row};

/// The longest content that is given back in memory.
const CONTENT: usize = 256 << 20;

/// Carries a special member out; `None`: the ordinary way after all.
pub(crate) fn run<'a>(special: &'a str, run: &'a mut Run) -> BoxFuture<'a, Result<Option<Ran>>> {
    Box::pin(dispatch(special, run))
}

async fn dispatch(special: &str, run: &mut Run) -> Result<Option<Ran>> {
    let client = run.invocation.node.client.clone();
    Ok(Some(match special {
        "upload" => upload(&client, run).await?,
        "download" => download(&client, run).await?,
        "file_content" => {
            let (key, name) = file(&client, run).await?;
            let body = client.file_content(&key, &name).await?;
            content(run, collect(body).await?)
        }
        "cloudinit_content" => {
            let key = match run.arg("key") {
                Some(key) => Key::of(key),
                None => run.invocation.node.scopes.last().map(|s| s.key.clone()),
            };
            let key = key.ok_or_else(|| Error::new(Kind::Invalid, "no key"))?;
            let query = GetQuery {
                download: Some(1),
                ..GetQuery::default()
            };
            let reply = client
                .call::<CloudInitGet>((key.to_string(),), query, Default::default())
                .await?;
            content(run, collect(reply.body).await?)
        }
        "licence_payload" => licence_payload(&client, run).await?,
        "delete_all" => delete_all(&client, run).await?,
        "tenant_client" => tenant_client(&client, run).await?,
        "simulate" => simulate(run).await?,
        "browse" | "browse_one" => browse(special, run).await?,
        "wireguard_config" => wireguard_config(run).await?,
        "inventory" => {
            let ran = ordinary(run).await?;
            let mut document = Map::new();
            for reply in &ran.replies {
                document.insert(reply.table_name().to_owned(), reply.value.clone());
            }
            Ran::of(run, Value::Object(document))
        }
        "vm_create" => {
            let files = match run.invocation.args.get("cloud_init") {
                Some(Value::Object(map)) => {
                    map.iter().map(|(k, v)| (k.clone(), plain(v))).collect()
                }
                Some(Value::Array(list)) => list
                    .iter()
                    .map(|f| (plain(&f["name"]), plain(&f["contents"])))
                    .collect(),
                _ => Vec::new(),
            };
            if files.is_empty() {
                return Ok(None);
            }
            run.invocation.args.remove("cloud_init");
            let source = run.invocation.args.entry("cloudinit_datasource");
            source.or_insert_with(|| "ConfigDrive".into());
            let ran = ordinary(run).await?;
            let key = ran.replies.first().and_then(|r| Key::of(&r.value["$key"]));
            let key =
                key.ok_or_else(|| Error::new(Kind::Protocol, "the new machine has no key"))?;
            for (name, contents) in files {
                let file = json!({"name": name, "owner": format!("vms/{key}"), "render": "no", "contents": contents});
                let row = file.as_object().cloned().unwrap_or_default();
                client
                    .call::<TableCreate>(
                        ("cloudinit_files".to_owned(),),
                        Default::default(),
                        Json(row),
                    )
                    .await?;
            }
            ran
        }
        "schedule_times" => {
            let times = match ordinary(run).await?.into_value()? {
                Value::Array(times) => times,
                Value::Object(mut map) => {
                    let times = map.remove("times").or_else(|| map.remove("schedule"));
                    times
                        .and_then(|t| t.as_array().cloned())
                        .unwrap_or_default()
                }
                _ => Vec::new(),
            };
            Ran::of(run, Value::Array(times))
        }
        "merge_settings" => {
            if !merge_settings(&client, run).await? {
                return Ok(None);
            }
            ordinary(run).await?
        }
        other => {
            return Err(Error::new(
                Kind::Failed,
                format!("the table of members has {other}"),
            ));
        }
    }))
}

/// The requests as they are written down.
async fn ordinary(run: &Run) -> Result<Ran> {
    let fresh = begin(run.invocation.clone())?;
    let way = fresh.way()?;
    fresh.learn(&way).await?;
    carry_out(fresh, way).await
}

fn content(run: &Run, bytes: Bytes) -> Ran {
    let mut ran = Ran::of(run, Value::Null);
    ran.document = None;
    ran.content = Some(bytes);
    ran
}

async fn collect(body: WireBody) -> Result<Bytes> {
    body.collect(CONTENT).await.map_err(|e| {
        Error::new(Kind::Transport, "the content could not be read to its end").with_source(e)
    })
}

fn text(run: &Run, name: &str) -> Option<String> {
    run.arg(name).filter(|v| !v.is_null()).map(plain)
}

/// Key and name of the file that is meant.
async fn file(client: &Client, run: &Run) -> Result<(Key, String)> {
    let table = client.table::<crate::generated::rows::File>();
    if let Some(key) = run.arg("key").and_then(Key::of) {
        let name = match text(run, "filename") {
            Some(name) => name,
            None => {
                let row = table.get(key.clone()).await?;
                row.name().unwrap_or("").to_owned()
            }
        };
        return Ok((key, name));
    }
    let name = text(run, "name")
        .ok_or_else(|| Error::new(Kind::Invalid, "a file is named by its key or its name"))?;
    let row = table.find(&name).await?;
    Ok(((&row).into(), name))
}

async fn upload(client: &Client, run: &Run) -> Result<Ran> {
    let path = text(run, "path").unwrap_or_default();
    let source = UploadSource::Path(path.into());
    let name = text(run, "name").or_else(|| source.name());
    let name = name.ok_or_else(|| Error::new(Kind::Invalid, "the file has no name"))?;
    let entry = crate::client::Entry {
        description: text(run, "description"),
        tier: run.arg("tier").and_then(Value::as_i64),
    };
    let mut upload = client
        .begin_upload_as(source, &name, entry, Transfer::new())
        .await?;
    let done = match upload.run().await {
        Ok(done) => done,
        Err(e) => {
            // The first error is the one to tell; an entry that stays is visible in the catalogue.
            let _ = upload.abandon().await;
            return Err(e);
        }
    };
    let row = client
        .table::<crate::generated::rows::File>()
        .get(done.key.clone())
        .await?;
    let mut ran = Ran::of(run, crate::RowType::record(&row).to_map().into());
    ran.give_row();
    Ok(ran)
}

async fn download(client: &Client, run: &Run) -> Result<Ran> {
    let (key, name) = file(client, run).await?;
    // The name comes from the server: only its last part is a file's name here.
    let own = name.rsplit(['/', '\\']).next().unwrap_or("").to_owned();
    let own = match own.as_str() {
        "" | "." | ".." => format!("file-{key}"),
        _ => own,
    };
    let mut target =
        std::path::PathBuf::from(text(run, "destination").unwrap_or_else(|| ".".into()));
    if target.is_dir() {
        target.push(text(run, "filename").unwrap_or(own));
    }
    let overwrite = run.arg("overwrite") == Some(&Value::Bool(true));
    let done = client
        .download(key, &name, target, Transfer::new().overwrite(overwrite))
        .await?;
    let mut ran = Ran::of(run, Value::Null);
    ran.document = None;
    ran.transferred = Some(done);
    Ok(ran)
}

async fn licence_payload(client: &Client, run: &Run) -> Result<Ran> {
    let receipt = ordinary(run).await?.into_value()?;
    let response = &receipt["response"];
    let key = response["filekey"].as_str().and_then(Key::of_reference);
    let key = key.ok_or_else(|| Error::new(Kind::Protocol, "the payload has no file"))?;
    let name = response["filename"].as_str().unwrap_or("").to_owned();
    let body = client.file_content(&key, &name).await?;
    let bytes = collect(body).await?;
    if run.arg("delete_catalog_file") != Some(&Value::Bool(false)) {
        let path = ("files".to_owned(), key.to_string());
        client
            .call::<TableDelete>(path, Default::default(), Default::default())
            .await?;
    }
    Ok(content(run, bytes))
}

/// Deletes every row that is found, and says how many.
async fn delete_all(client: &Client, run: &Run) -> Result<Ran> {
    let mut fresh = begin(run.invocation.clone())?;
    let way = fresh.way()?;
    fresh.learn(&way).await?;
    let table = fresh.member.table.clone();
    let reads = Way {
        steps: way
            .steps
            .iter()
            .filter(|s| s.method == "GET")
            .cloned()
            .collect(),
        ..way.clone()
    };
    fresh.member.pick.clear();
    let ran = carry_out(fresh, reads).await?;
    let rows = ran.replies.last().and_then(|r| r.value.as_array().cloned());
    let mut deleted = 0;
    for row in rows.unwrap_or_default() {
        if let Some(key) = row.get("$key").and_then(Key::of) {
            let path = (table.clone(), key.to_string());
            client
                .call::<TableDelete>(path, Default::default(), Default::default())
                .await?;
            deleted += 1;
        }
    }
    Ok(Ran::of(run, deleted.into()))
}

/// A tenant is a system of its own, at an address of its own.
async fn tenant_client(client: &Client, run: &Run) -> Result<Ran> {
    let table = client.table::<crate::generated::rows::Tenant>();
    let scope = run.invocation.node.scopes.last().map(|s| s.key.clone());
    let key = scope.or_else(|| run.arg("key").and_then(Key::of));
    let tenant = match (key, text(run, "name")) {
        (Some(key), _) => table.get(key).await?,
        (None, Some(name)) => table.find(&name).await?,
        (None, None) => return Err(Error::new(Kind::Invalid, "no tenant is named")),
    };
    let refuse = |why: &str| Err(Error::new(Kind::Conflict, format!("the tenant {why}")));
    let record = crate::RowType::record(&tenant);
    if record.flag("is_snapshot") == Some(true) {
        return refuse("is a snapshot");
    }
    if record.flag("running") != Some(true) {
        return refuse("does not run");
    }
    let Some(address) = record.text("ui_address_ip").filter(|a| !a.is_empty()) else {
        return refuse("has no address for its interface");
    };
    #[cfg(feature = "transport")]
    {
        let mut builder = Client::builder()
            .host(address)
            .username(text(run, "username").unwrap_or_default())
            .password(text(run, "password").unwrap_or_default());
        match run.arg("verify_ssl") {
            Some(Value::Bool(false)) => builder = builder.verify_ssl(false),
            // The same trust as for the parent.
            _ => builder = builder.transport(client.caller().transport().clone()),
        }
        if let Some(seconds) = run.arg("timeout").and_then(Value::as_u64) {
            builder = builder.timeout(std::time::Duration::from_secs(seconds));
        }
        let tenant = builder.connect().await?;
        let mut ran = Ran::of(run, json!({ "host": tenant.host() }));
        ran.client = Some(tenant);
        Ok(ran)
    }
    #[cfg(not(feature = "transport"))]
    {
        let _ = address;
        Err(Error::new(
            Kind::Unsupported,
            "without a transport no client can be made",
        ))
    }
}

/// A simulated recipe is answered 405 with a report: that is its success.
async fn simulate(run: &Run) -> Result<Ran> {
    let mut invocation = Invocation::new(run.invocation.node.clone(), "create");
    invocation.args = run.invocation.args.clone();
    invocation.args.insert("simulate".to_owned(), true.into());
    let error = match super::run::run(invocation, None).await {
        Ok(_) => {
            return Err(Error::new(
                Kind::Protocol,
                "the simulation was not answered with a report",
            ));
        }
        Err(e) => e,
    };
    let report = error
        .body()
        .and_then(|b| serde_json::from_str::<Value>(b.raw()).ok())
        .filter(|v| v["err"] == "Simulation complete" && v["response"].is_object())
        .map(|mut v| v["response"].take());
    match report {
        Some(report) if error.status() == Some(http::StatusCode::METHOD_NOT_ALLOWED) => {
            Ok(Ran::of(run, report))
        }
        _ => Err(error),
    }
}

/// What a browser job has found: nothing, rows, an object with entries, or JSON in a text.
fn entries(result: &Value) -> Vec<Value> {
    match result {
        Value::Array(items) => items.clone(),
        Value::Object(map) => map
            .get("entries")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(Value::String(_)) | Err(_) => Vec::new(),
            Ok(value) => entries(&value),
        },
        _ => Vec::new(),
    }
}

async fn browse(special: &str, run: &Run) -> Result<Ran> {
    let list = match special {
        "browse" => ordinary(run).await?,
        _ => {
            let path = text(run, "path").unwrap_or_default();
            let folder = path
                .trim_matches('/')
                .rsplit_once('/')
                .map_or("", |(f, _)| f);
            let mut invocation = Invocation::new(run.invocation.node.clone(), "list");
            invocation.args.insert("path".to_owned(), folder.into());
            if let Some(timeout) = run.arg("timeout") {
                invocation
                    .args
                    .insert("timeout".to_owned(), timeout.clone());
            }
            ordinary(&begin(invocation)?).await?
        }
    };
    let job = list.replies.last().map(|r| r.value["result"].clone());
    let found = entries(&job.unwrap_or_default());
    if special == "browse" {
        return Ok(Ran::of(run, Value::Array(found)));
    }
    let path = text(run, "path").unwrap_or_default();
    let name = path.trim_matches('/').rsplit('/').next().unwrap_or("");
    let entry = found.into_iter().find(|e| same(&e["name"], &name.into()));
    match entry {
        Some(entry) => Ok(Ran::of(run, entry)),
        None => Err(crate::client::none("volume_browser", path)),
    }
}

/// The text that a peer's own end is set up with.
async fn wireguard_config(run: &Run) -> Result<Ran> {
    let ran = ordinary(run).await?;
    let mut rows: Vec<&Value> = Vec::new();
    for reply in &ran.replies {
        match &reply.value {
            Value::Array(items) => rows.extend(items),
            row => rows.push(row),
        }
    }
    // Only what is a single line of text may stand in the file.
    let find = |names: &[&str]| {
        names.iter().find_map(|n| {
            let value = rows.iter().rev().find_map(|r| r.get(*n))?;
            let text = plain(value);
            (!text.is_empty() && !text.contains(['\n', '\r'])).then_some(text)
        })
    };
    if let Some(text) = find(&["config", "configuration"]) {
        return Ok(Ran::of(run, text.into()));
    }
    let mut out = String::from("[Interface]\n");
    let line = |out: &mut String, name: &str, value: Option<String>| {
        if let Some(value) = value {
            out.push_str(&format!("{name} = {value}\n"));
        }
    };
    line(&mut out, "PrivateKey", find(&["private_key"]));
    line(&mut out, "Address", find(&["peer_ip", "ip", "ipaddress"]));
    out.push_str("\n[Peer]\n");
    line(&mut out, "PublicKey", find(&["public_key"]));
    line(&mut out, "PresharedKey", find(&["preshared_key"]));
    line(&mut out, "AllowedIPs", find(&["allowed_ips"]));
    let endpoint = find(&["endpoint", "endpoint_ip"]);
    let port = find(&["listenport", "listen_port", "port"]);
    line(
        &mut out,
        "Endpoint",
        match (endpoint, port) {
            (Some(host), Some(port)) if !host.contains(':') => Some(format!("{host}:{port}")),
            (host, _) => host,
        },
    );
    line(&mut out, "PersistentKeepalive", find(&["keepalive"]));
    Ok(Ran::of(run, out.into()))
}

/// Merges given settings into those there are, so that nothing that is not named is lost: the platform replaces the document whole.
async fn merge_settings(client: &Client, run: &mut Run) -> Result<bool> {
    let Some(Value::Object(given)) = run.arg("settings").cloned() else {
        return Ok(false);
    };
    if run.arg("merge_settings") == Some(&Value::Bool(false)) {
        return Ok(false);
    }
    let key = run.arg("key").and_then(Key::of);
    let key = key.ok_or_else(|| Error::new(Kind::Invalid, "no key"))?;
    let query = GetQuery {
        fields: Some("$key,settings".to_owned()),
        ..GetQuery::default()
    };
    let bytes = client
        .document(
            "auth_sources".to_owned(),
            Some(key.to_string()),
            Default::default(),
            query,
        )
        .await?;
    let row: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(Kind::Protocol, format!("the row is no JSON: {e}")))?;
    let settings = match &row["settings"] {
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        other => other.clone(),
    };
    let mut merged = settings.as_object().cloned().unwrap_or_default();
    // The server puts this in by itself.
    merged.remove("debug");
    merged.extend(given);
    run.invocation
        .args
        .insert("settings".to_owned(), Value::Object(merged));
    Ok(true)
}

impl Client {
    /// Changes members of a JSON document in a column and leaves the others: the platform itself replaces the whole document,
    /// which has cost people their secrets. `null` removes a member.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the column holds something else than a document; the system's, by meaning.
    pub async fn merge_document(
        &self,
        table: &str,
        key: impl Into<Key>,
        column: &str,
        changes: Map<String, Value>,
    ) -> Result<()> {
        let key = key.into().to_string();
        let query = GetQuery {
            fields: Some(format!("$key,{column}")),
            ..GetQuery::default()
        };
        let bytes = self
            .document(
                table.to_owned(),
                Some(key.clone()),
                Default::default(),
                query,
            )
            .await?;
        let row: Row = serde_json::from_slice(&bytes)
            .map_err(|e| Error::new(Kind::Protocol, format!("the row is no JSON: {e}")))?;
        let mut document = match row.get(column) {
            Some(Value::Object(map)) => map.clone(),
            Some(Value::String(text)) if text.is_empty() => Map::new(),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map_err(|_| Error::new(Kind::Conflict, format!("{column} holds no document")))?,
            None | Some(Value::Null) => Map::new(),
            Some(_) => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("{column} holds no document"),
                ));
            }
        };
        for (name, value) in changes {
            match value {
                Value::Null => document.remove(&name),
                value => document.insert(name, value),
            };
        }
        let body = Row::from_iter([(column.to_owned(), Value::Object(document))]);
        self.call::<TableUpdate>((table.to_owned(), key), Default::default(), Json(body))
            .await?;
        Ok(())
    }
}

/// The node of a place, whose rows on the way are given by their keys in order.
///
/// # Errors
///
/// [`Kind::Invalid`] when a key is missing, or the place is none.
pub fn node_at(client: &Client, place: &str, keys: &[Key]) -> Result<Node> {
    if !place.starts_with("client.") {
        return Err(Error::new(Kind::Invalid, format!("{place} is no place")));
    }
    let classes: Vec<&str> = rows_on_the_way(place).collect();
    if classes.len() != keys.len() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{place} needs the keys of: {}", classes.join(", ")),
        ));
    }
    let mut node = Node::top(client, place);
    for (class, key) in classes.into_iter().zip(keys) {
        node = node.row(place, class, key.clone(), None);
    }
    Ok(node)
}

/// The classes of the rows on the way to a place: `VM` of `client.vms[VM].drives`.
pub fn rows_on_the_way(place: &str) -> impl Iterator<Item = &str> {
    place
        .split('[')
        .skip(1)
        .map(|part| part.split(']').next().unwrap_or(""))
}
