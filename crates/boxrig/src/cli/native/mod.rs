//! Every operation of a platform as a command, made from its description.
//!
//! The arguments are read by the same codecs that the local server reads requests with, so a misspelt member or a wrong
//! type is found before anything is sent; the reply is typed too.

pub(crate) mod convox;
pub(crate) mod fastvm;
pub(crate) mod incus;
pub(crate) mod vergeos;

use std::collections::BTreeMap;

use boxrig_wire::{
    BodyCodec, BoxFuture, CallOptions, Caller, Decoding, Endpoint, Error, Form, Idempotency, Kind,
    Meta, NoBody, Params, PathValues, Protocol, ReplyCodec, Request, Result, WireBody,
};
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::HeaderMap;

/// The operations of a platform.
pub(crate) trait Natives {
    /// The platform's name.
    const PLATFORM: &'static str;

    /// All of them, in the order of the catalogue.
    const OPERATIONS: &'static [Native];

    /// Whether a context of this platform takes the operations; the platform's own do.
    fn is_spoken_by(platform: &str) -> bool {
        platform == Self::PLATFORM
    }

    /// Commands of the platform that are more than one operation.
    fn more() -> Vec<Command> {
        Vec::new()
    }

    /// Flags that every operation has besides those of its description.
    fn flags() -> Vec<Arg> {
        Vec::new()
    }

    /// Sends an operation and gives what is printed.
    fn call<'a>(
        native: &'static Native,
        caller: Caller,
        given: Given,
        options: CallOptions,
        _: &'a ArgMatches,
    ) -> BoxFuture<'a, Result<Reply>> {
        (native.call)(caller, given, options)
    }
}

/// What an operation is given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    /// The fields of a form.
    pub(crate) form: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
}

/// One operation, with its types forgotten.
pub(crate) struct Native {
    pub(crate) meta: &'static Meta,
    query: fn() -> &'static [&'static str],
    headers: fn() -> &'static [&'static str],
    form: fn() -> Option<&'static [&'static str]>,
    pub(crate) takes_body: fn() -> bool,
    pub(crate) call: fn(Caller, Given, CallOptions) -> BoxFuture<'static, Result<Reply>>,
}

/// A request whose types are forgotten; its target is a path.
pub(crate) type Encoded = http::Request<WireBody>;

/// A reply, written again by the codec that read it.
pub(crate) type Reply = http::Response<WireBody>;

impl Native {
    pub(crate) const fn of<E: Endpoint>() -> Self {
        Self {
            meta: E::META,
            query: <E::Query as Params>::names,
            headers: <E::Headers as Params>::names,
            form: <E::Body as BodyCodec>::form,
            takes_body: takes_body::<E>,
            call: |caller, given, options| Box::pin(call::<E>(caller, given, options)),
        }
    }

    /// An operation whose reply is printed as the server wrote it: what is given is still read by the types, the reply
    /// is not, so that a platform of hundreds of operations does not cost as many readers of replies.
    pub(crate) const fn as_answered<E: Endpoint>() -> Self {
        Self {
            call: |caller, given, options| Box::pin(answered::<E>(caller, given, options)),
            ..Self::of::<E>()
        }
    }

    /// The command's name: the operation's id in lower case with hyphens.
    pub(crate) fn command_name(&self) -> String {
        kebab(self.meta.id)
    }

    /// Says the project of the context, where the operation takes one and none is given.
    pub(crate) fn in_project(&self, given: &mut Given, project: &str) {
        let takes = (self.query)().contains(&"project");
        let chosen = |(name, _): &(String, String)| name == "project" || name == "all-projects";
        if takes && !given.query.iter().any(chosen) {
            given.query.push(("project".to_owned(), project.to_owned()));
        }
    }

    /// Whether it only reads.
    pub(crate) fn is_safe(&self) -> bool {
        self.meta.idempotency == Idempotency::Safe
    }
}

fn takes_body<E: Endpoint>() -> bool {
    std::any::type_name::<E::Body>() != std::any::type_name::<NoBody>()
}

/// The fields of a form as they were given.
struct Fields(Vec<(String, String)>);

impl Params for Fields {
    fn to_pairs(&self) -> Vec<(String, String)> {
        self.0.clone()
    }
    fn from_pairs(
        pairs: &[(String, String)],
    ) -> std::result::Result<Self, boxrig_wire::ParamError> {
        Ok(Self(pairs.to_vec()))
    }
}

/// Reads what is given as the server would.
async fn read<E: Endpoint>(given: Given) -> Result<Request<E>> {
    let invalid = |m: String| Error::new(Kind::Invalid, m).with_operation(E::META.id);
    let named = |e: boxrig_wire::ParamError| invalid(e.to_string());
    let path = E::Path::from_values(given.path)
        .ok_or_else(|| invalid("the path's values cannot be read".to_owned()))?;
    let body = match given.body {
        Some(bytes) => WireBody::full(bytes),
        None => Form(Fields(given.form))
            .encode(&mut HeaderMap::new())
            .map_err(invalid)?,
    };
    let body = E::Body::decode(&HeaderMap::new(), body, usize::MAX)
        .await
        .map_err(|e| invalid(format!("the body: {e}")))?;
    Ok(Request::<E> {
        path,
        query: E::Query::from_pairs(&given.query).map_err(named)?,
        headers: E::Headers::from_pairs(&given.headers).map_err(named)?,
        body,
    })
}

/// Sends what is given, and writes the typed reply again.
async fn call<E: Endpoint>(caller: Caller, given: Given, options: CallOptions) -> Result<Reply> {
    let reply = caller.call(read::<E>(given).await?, &options).await?;
    reply.encode().map_err(|e| Error::new(Kind::Protocol, e))
}

/// Sends what is given, and gives the reply as it came.
async fn answered<E: Endpoint>(
    caller: Caller,
    given: Given,
    options: CallOptions,
) -> Result<Reply> {
    let written = given.body.clone();
    let request = read::<E>(given).await?.encode(caller.base().prefix())?;
    let cx = Decoding {
        meta: E::META,
        decode_error: <E::Protocol as Protocol>::decode_error,
        limit: usize::MAX,
    };
    untyped(caller, request, written, cx, options).await
}

/// The part that all operations share.
async fn untyped(
    caller: Caller,
    mut request: Encoded,
    written: Option<Vec<u8>>,
    cx: Decoding,
    options: CallOptions,
) -> Result<Reply> {
    // A document that can be read is sent as it was written: an empty list or a null says something else than a member
    // that is not there.
    if let Some(written) = written {
        *request.body_mut() = WireBody::full(written);
    }
    let reply = caller.send(request, cx.meta, &options).await?;
    cx.success(reply).await
}

/// `listVms` becomes `list-vms`.
pub(crate) fn kebab(id: &str) -> String {
    let mut out = String::new();
    for c in id.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        out.push(if matches!(c, '_' | '.') {
            '-'
        } else {
            c.to_ascii_lowercase()
        });
    }
    out
}

/// A flag's name from a wire name: `metadata.` becomes `metadata`, `Idempotency-Key` becomes `idempotency-key`,
/// `X-Incus-uid` becomes `uid`.
fn flag(wire: &str) -> String {
    let name = wire.trim_end_matches('.');
    if let Some(name) = name.strip_prefix("X-Incus-") {
        return name.to_ascii_lowercase();
    }
    if name.contains('-') && name.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
        return name.to_owned();
    }
    kebab(&name.replace("X-Boxrig-", "").replace('-', ""))
}

/// The command of an operation.
fn command<P: Natives>(native: &Native) -> Command {
    let mut c = Command::new(native.command_name())
        .about(native.meta.summary())
        .after_help(format!("{} {}", native.meta.method, native.meta.path));
    for name in native.meta.path.names() {
        c = c.arg(
            Arg::new(format!("path:{name}"))
                .value_name(kebab(name).to_uppercase().replace('-', "_"))
                .required(true),
        );
    }
    let form = (native.form)();
    let mut taken: Vec<String> = Vec::new();
    for (place, names) in [
        ("query", (native.query)()),
        ("header", (native.headers)()),
        ("form", form.unwrap_or_default()),
    ] {
        for wire in names {
            let mut long = own_flag(wire);
            if taken.contains(&long) {
                // The same name in two places of one request.
                long = format!("{place}-{long}");
            }
            taken.push(long.clone());
            let arg = Arg::new(format!("{place}:{wire}"))
                .long(long)
                .help(format!("The {place} value {}", wire.trim_end_matches('.')));
            c = c.arg(if wire.ends_with('.') {
                arg.value_name("NAME=VALUE")
                    .action(ArgAction::Append)
                    .value_parser(super::units::pair)
            } else {
                arg.value_name("VALUE")
            });
        }
    }
    c = match form {
        Some([]) => c.arg(
            Arg::new("fields")
                .long("field")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .value_parser(super::units::pair)
                .help("A value under a name of your own"),
        ),
        None if (native.takes_body)() => c.args(super::tree::body_args()),
        _ => c,
    };
    c.args(P::flags())
}

/// Flags that mean something else on every command get another name.
fn own_flag(wire: &str) -> String {
    match flag(wire) {
        // What the platform filters is not what the table filters.
        f if f == "filter" => "where".to_owned(),
        f if f == "all" => "everything".to_owned(),
        f if f == "timeout" => "wait-timeout".to_owned(),
        f => f,
    }
}

/// The commands of a platform.
pub(crate) fn tree<P: Natives>(c: Command) -> Command {
    c.subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(P::OPERATIONS.iter().map(command::<P>))
        .subcommands(P::more())
}

/// The operation that was asked for, and what it is given.
///
/// # Errors
///
/// [`Kind::Invalid`] for a body that is none.
pub(crate) fn given<P: Natives>(matches: &ArgMatches) -> Result<(&'static Native, Given)> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Error::new(Kind::Invalid, "no operation is named"));
    };
    let native = P::OPERATIONS
        .iter()
        .find(|n| n.command_name() == name)
        .ok_or_else(|| Error::new(Kind::Invalid, "no such operation"))?;
    let text = |id: String| matches.get_one::<String>(&id).cloned();
    let mut given = Given::default();
    for name in native.meta.path.names() {
        given.path.extend(text(format!("path:{name}")));
    }
    let pairs = |place: &str, names: &[&str]| {
        let mut pairs = Vec::new();
        for wire in names {
            let id = format!("{place}:{wire}");
            if wire.ends_with('.') {
                let many = matches.get_many::<(String, String)>(&id);
                pairs.extend(
                    many.into_iter()
                        .flatten()
                        .map(|(k, v)| (format!("{wire}{k}"), v.clone())),
                );
            } else if let Some(value) = text(id) {
                pairs.push(((*wire).to_owned(), value));
            }
        }
        pairs
    };
    given.query = pairs("query", (native.query)());
    given.headers = pairs("header", (native.headers)());
    match (native.form)() {
        Some([]) => {
            let fields = matches.get_many::<(String, String)>("fields");
            given.form = fields.into_iter().flatten().cloned().collect();
        }
        Some(names) => given.form = pairs("form", names),
        None if (native.takes_body)() => given.body = body(matches)?,
        None => {}
    }
    Ok((native, given))
}

/// The body: JSON, `@FILE`, `@-`, or fields.
///
/// # Errors
///
/// [`Kind::Invalid`], naming the part that is wrong.
pub(crate) fn body(matches: &ArgMatches) -> Result<Option<Vec<u8>>> {
    let parts: Vec<&String> = matches
        .get_many::<String>("body")
        .into_iter()
        .flatten()
        .collect();
    let Some(first) = parts.first() else {
        return Ok(None);
    };
    if parts.len() == 1 {
        if let Some(file) = first.strip_prefix('@') {
            let read = if file == "-" {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
            } else {
                std::fs::read(file)
            };
            return read.map(Some).map_err(|e| {
                let file = boxrig_wire::Untrusted::new(file);
                Error::new(Kind::Invalid, format!("--body @{file}: {e}"))
            });
        }
        if first.trim_start().starts_with(['{', '[', '"']) {
            let value: serde_json::Value = serde_json::from_str(first)
                .map_err(|e| Error::new(Kind::Invalid, format!("--body is not JSON: {e}")))?;
            return Ok(Some(value.to_string().into_bytes()));
        }
    }
    let mut root = serde_json::Map::new();
    for part in parts {
        let (name, value) = super::units::pair(part)
            .map_err(|e| Error::new(Kind::Invalid, format!("--body: {e}")))?;
        let value = serde_json::from_str(&value).unwrap_or(serde_json::Value::String(value));
        put(&mut root, &name, value)?;
    }
    Ok(Some(
        serde_json::Value::Object(root).to_string().into_bytes(),
    ))
}

fn put(
    map: &mut serde_json::Map<String, serde_json::Value>,
    name: &str,
    value: serde_json::Value,
) -> Result<()> {
    match name.split_once('.') {
        None => {
            map.insert(name.to_owned(), value);
            Ok(())
        }
        Some((head, tail)) => {
            let inner = map
                .entry(head)
                .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
            match inner {
                serde_json::Value::Object(inner) => put(inner, tail, value),
                _ => Err(Error::new(
                    Kind::Invalid,
                    format!("--body: {head} is given a value and members"),
                )),
            }
        }
    }
}

/// The command of every operation of a platform, for the coverage table.
pub(crate) fn commands<P: Natives>(platform: &str) -> BTreeMap<&'static str, String> {
    P::OPERATIONS
        .iter()
        .map(|n| (n.meta.id, format!("boxrig {platform} {}", n.command_name())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<serde_json::Value> {
        let matches = Command::new("x")
            .args(super::super::tree::body_args())
            .no_binary_name(true)
            .try_get_matches_from(args)
            .unwrap();
        Ok(body(&matches)?.map_or(serde_json::Value::Null, |b| {
            serde_json::from_slice(&b).unwrap()
        }))
    }

    #[test]
    fn bodies() {
        use serde_json::json;
        assert_eq!(read(&[]).unwrap(), json!(null));
        assert_eq!(read(&["--body", "{\"a\": 1}"]).unwrap(), json!({"a": 1}));
        assert_eq!(
            read(&[
                "-d",
                "name=web",
                "-d",
                "n=2",
                "-d",
                "ttl.seconds=60",
                "-d",
                "ttl.action=pause",
                "-d",
                "x=null"
            ])
            .unwrap(),
            json!({"name": "web", "n": 2, "ttl": {"seconds": 60, "action": "pause"}, "x": null})
        );
        for bad in [
            &["-d", "{"][..],
            &["-d", "a"],
            &["-d", "a=1", "-d", "a.b=2"],
            &["-d", "@/no/such"],
        ] {
            assert_eq!(read(bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(kebab("listVms"), "list-vms");
        assert_eq!(
            kebab("instance_exec-outputs_get"),
            "instance-exec-outputs-get"
        );
        assert_eq!(flag("metadata."), "metadata");
        assert_eq!(flag("all-projects"), "all-projects");
        assert_eq!(flag("X-Incus-uid"), "uid");
        assert_eq!(flag("Idempotency-Key"), "idempotency-key");
    }
}
