//! Calls members by name, one JSON line each on standard input; for `ci/vergeos/equivalence.py`.
//!
//! `{"place": "client.vms[VM].drives", "rows": [["VM", {"$key": 1, …}]], "member": "list", "args": {…}, "set": {…}}`
//! is answered with `{"ok": …}` or `{"error": kind, "text": …}`; `{"class": "Vm", "row": {…}}` with what is computed from the row.

use std::io::{BufRead, Write};

use boxrig_vergeos::member::{Invocation, Node, invoke};
use boxrig_vergeos::{Client, Key, Record};
use serde_json::{Value, json};

fn invocation(client: &Client, line: &Value) -> Option<Invocation> {
    let place = line["place"].as_str()?;
    let mut node = Node::top(client, place);
    for row in line["rows"].as_array()? {
        let map = row[1].as_object()?.clone();
        let key = Key::of(map.get("$key")?)?;
        let record = Record::from_map(&[], map);
        node = node.row(place, row[0].as_str()?, key, Some(&record));
    }
    let mut invocation = Invocation::new(node, line["member"].as_str()?);
    for (name, value) in line["args"].as_object()? {
        invocation = invocation.arg(name, value.clone());
    }
    for (name, value) in line["set"].as_object()? {
        invocation = invocation.column(name, value.clone());
    }
    Some(invocation)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    for line in std::io::stdin().lock().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if let Some(class) = line["class"].as_str() {
            let row = line["row"].as_object().cloned().unwrap_or_default();
            let computed = boxrig_vergeos::rows::computed_of(class, row);
            writeln!(std::io::stdout(), "{}", json!({ "ok": computed }))?;
            continue;
        }
        let answer = match invocation(&client, &line) {
            None => json!({"error": "usage", "text": "the line is not understood"}),
            Some(invocation) => match invoke(invocation).await {
                Ok(value) => json!({ "ok": value }),
                Err(e) => json!({"error": e.kind().as_str(), "text": e.to_string()}),
            },
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
