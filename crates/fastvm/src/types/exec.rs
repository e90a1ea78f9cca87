use std::borrow::Cow;
use std::fmt;

use base64_simd::{STANDARD, STANDARD_NO_PAD};
use boxrig_wire::{
    BoxFuture, Decoding, JsonReply, Lines, ReplyCodec, ReplyShape, Secret, Untrusted, WireBody,
};
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::model::{Extra, Schema, reply, request};

/// A command: an argument vector, or a line for `sh -c`.
///
/// Text becomes `["sh", "-c", text]`, lists go as they are. A server reads a plain string in the same way, because the
/// oldest SDKs send one.
///
/// ```
/// use boxrig_fastvm::Command;
/// assert_eq!(Command::from("ls -la").argv(), ["sh", "-c", "ls -la"]);
/// assert_eq!(Command::from(["python3", "main.py"]).argv(), ["python3", "main.py"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command(Vec<String>);

impl Command {
    /// The argument vector.
    pub fn argv(&self) -> &[String] {
        &self.0
    }
    /// The argument vector.
    pub fn into_argv(self) -> Vec<String> {
        self.0
    }
}

impl From<&str> for Command {
    fn from(line: &str) -> Self {
        Self(vec!["sh".into(), "-c".into(), line.to_owned()])
    }
}

impl From<String> for Command {
    fn from(line: String) -> Self {
        Self(vec!["sh".into(), "-c".into(), line])
    }
}

impl<T: Into<String>> From<Vec<T>> for Command {
    fn from(argv: Vec<T>) -> Self {
        Self(argv.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<String>, const N: usize> From<[T; N]> for Command {
    fn from(argv: [T; N]) -> Self {
        Self(argv.into_iter().map(Into::into).collect())
    }
}

impl<T: Clone + Into<String>> From<&[T]> for Command {
    fn from(argv: &[T]) -> Self {
        Self(argv.iter().cloned().map(Into::into).collect())
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::String(line) => Ok(Self::from(line)),
            argv => serde_json::from_value(argv)
                .map(Self)
                .map_err(D::Error::custom),
        }
    }
}

/// Bytes that travel as base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64(pub Bytes);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl<T: Into<Bytes>> From<T> for Base64 {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

/// Standard base64 with or without its padding; what commands print comes in it, so it is read many bytes at a time.
fn unbase64(text: &str) -> Result<Bytes, ()> {
    // A whole number of quads is the same in both forms.
    let form = if text.len().is_multiple_of(4) {
        STANDARD
    } else {
        STANDARD_NO_PAD
    };
    form.decode_to_vec(text).map(Bytes::from).map_err(drop)
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode_to_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(d)?;
        unbase64(&text)
            .map(Self)
            .map_err(|()| D::Error::custom("not base64"))
    }
}

request! {
    /// A command to run.
    pub struct ExecRequest = "ExecVMRequest" {
        required {
            /// The command; its first element is not empty.
            command: Command = "command",
        }
        optional {
            /// What it reads on standard input, which is then closed.
            stdin: Base64 = "stdin",
            /// How many seconds it may run; the server ends it then.
            timeout_sec: u64 = "timeoutSec",
        }
    }

    /// A staging object to be made.
    pub struct FilePresignRequest = "FilePresignRequest" {
        required {
            /// The path in the machine that it is for; any value is accepted.
            path: String = "path",
        }
    }

    /// A staging object to be fetched by the machine.
    pub struct FileFetchRequest = "FileFetchRequest" {
        required {
            /// A download URL of [`FilePresignResponse`]; every other is refused.
            url: Secret = "url",
            /// An absolute path in the machine.
            path: String = "path",
        }
        optional {
            /// How many seconds it may take.
            timeout_sec: u64 = "timeoutSec",
        }
    }
}

reply! {
    /// A command that has run. Each stream is cut at 4 MiB, and bytes that are not UTF-8 do not survive; the streaming
    /// form has neither limit.
    pub struct ExecResponse = "ExecVMResponse" {
        required {
            /// Its exit code.
            exit_code: i32 = "exitCode",
            /// What it wrote to standard output.
            stdout: String = "stdout",
            /// What it wrote to standard error.
            stderr: String = "stderr",
            /// Whether the server ended it because its time was up.
            timed_out: bool = "timedOut",
            /// Whether standard output was longer.
            stdout_truncated: bool = "stdoutTruncated",
            /// Whether standard error was longer.
            stderr_truncated: bool = "stderrTruncated",
            /// How long it ran in milliseconds.
            duration_ms: u64 = "durationMs",
        }
    }

    /// A staging object: two signed URLs for one thing, usable in either direction for about a day.
    pub struct FilePresignResponse = "FilePresignResponse" {
        required {
            /// For a PUT of `application/octet-stream`, without the API key.
            upload_url: Secret = "uploadUrl",
            /// For a GET.
            download_url: Secret = "downloadUrl",
            /// How long both are good for, in seconds.
            expires_in_sec: u64 = "expiresInSec",
            /// The largest upload in bytes: the machine's disk.
            max_upload_bytes: u64 = "maxUploadBytes",
        }
    }
}

impl ExecResponse {
    /// Whether the command ended by itself with 0.
    pub fn success(&self) -> bool {
        self.exit_code == 0 && !self.timed_out
    }
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecExit {
    /// Its exit code.
    pub code: i32,
    /// Whether the server ended it because its time was up.
    pub timed_out: bool,
    /// How long it ran in milliseconds.
    pub duration_ms: u64,
    /// Why it could not be started, in words.
    pub diagnostic: Option<Untrusted>,
    /// Members that this version does not know.
    pub extra: Extra,
}

impl ExecExit {
    /// Whether the command ended by itself with 0.
    pub fn success(&self) -> bool {
        self.code == 0 && !self.timed_out
    }
}

/// What happens while a command runs: any number of chunks, then one exit.
///
/// On the wire the members are `t`, `d`, `c`, `to` and `ms`. `d` of a chunk is base64, `d` of an exit is plain text: both
/// of the vendor's SDKs decode the latter too and fail on it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ExecEvent {
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// The end.
    Exit(ExecExit),
    /// Something that this version does not know, as it came.
    Other(Extra),
}

impl ExecEvent {
    /// What the API description says of it.
    pub const SCHEMA: Schema = Schema {
        name: "ExecEvent",
        required: &["t"],
        optional: &["d", "c", "to", "ms"],
    };
}

impl Serialize for ExecEvent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let chunk = |s: S, t: &str, bytes: &Bytes| {
            let mut map = s.serialize_map(Some(2))?;
            map.serialize_entry("t", t)?;
            map.serialize_entry("d", &STANDARD.encode_to_string(bytes))?;
            map.end()
        };
        match self {
            Self::Stdout(bytes) => chunk(s, "o", bytes),
            Self::Stderr(bytes) => chunk(s, "e", bytes),
            Self::Other(members) => members.serialize(s),
            Self::Exit(exit) => {
                let mut map = s.serialize_map(None)?;
                map.serialize_entry("t", "x")?;
                if let Some(text) = exit.diagnostic.as_ref().filter(|t| !t.is_empty()) {
                    map.serialize_entry("d", text)?;
                }
                if exit.code != 0 {
                    map.serialize_entry("c", &exit.code)?;
                }
                if exit.timed_out {
                    map.serialize_entry("to", &true)?;
                }
                map.serialize_entry("ms", &exit.duration_ms)?;
                for (k, v) in &exit.extra {
                    map.serialize_entry(k, v)?;
                }
                map.end()
            }
        }
    }
}

/// The kind of an event, as far as it has been read.
#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Stdout,
    Stderr,
    Exit,
    Other,
}

impl Tag {
    fn of(text: &str) -> Self {
        match text {
            "o" => Self::Stdout,
            "e" => Self::Stderr,
            "x" => Self::Exit,
            _ => Self::Other,
        }
    }
}

enum Payload {
    Bytes(Bytes),
    Text(String),
    None,
}

/// Reads `d`. Chunks are decoded straight from the line: a command with much output sends thousands of them.
struct PayloadSeed(Option<Tag>);

impl<'de> DeserializeSeed<'de> for PayloadSeed {
    type Value = Payload;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Payload, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PayloadSeed {
    type Value = Payload;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Payload, E> {
        match self.0 {
            Some(Tag::Stdout | Tag::Stderr) => decode(text).map(Payload::Bytes),
            _ => Ok(Payload::Text(text.to_owned())),
        }
    }
    fn visit_unit<E>(self) -> Result<Payload, E> {
        Ok(Payload::None)
    }
}

fn decode<E: serde::de::Error>(text: &str) -> Result<Bytes, E> {
    unbase64(text).map_err(|()| E::custom("d: not base64"))
}

impl<'de> Deserialize<'de> for ExecEvent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Event;
        impl<'de> Visitor<'de> for Event {
            type Value = ExecEvent;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an exec event")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExecEvent, A::Error> {
                let mut tag = None;
                let mut word = String::new();
                let mut payload = Payload::None;
                let mut exit = ExecExit::default();
                let mut numbers = false;
                while let Some(key) = map.next_key::<Key>()? {
                    match key {
                        Key::T => {
                            word = map.next_value::<Option<String>>()?.unwrap_or_default();
                            tag = Some(Tag::of(&word));
                        }
                        Key::D => payload = map.next_value_seed(PayloadSeed(tag))?,
                        Key::C => exit.code = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        Key::To => {
                            exit.timed_out = map.next_value::<Option<_>>()?.unwrap_or_default();
                        }
                        Key::Ms => {
                            numbers = true;
                            exit.duration_ms = map.next_value::<Option<_>>()?.unwrap_or_default();
                        }
                        Key::Other(name) if matches!(tag, Some(Tag::Stdout | Tag::Stderr)) => {
                            drop(name);
                            map.next_value::<IgnoredAny>()?;
                        }
                        Key::Other(name) => {
                            exit.extra.insert(name, map.next_value()?);
                        }
                    }
                }
                match tag {
                    Some(Tag::Stdout) => Ok(ExecEvent::Stdout(bytes(payload)?)),
                    Some(Tag::Stderr) => Ok(ExecEvent::Stderr(bytes(payload)?)),
                    Some(Tag::Exit) => {
                        exit.diagnostic = match payload {
                            Payload::Text(text) if !text.is_empty() => Some(text.into()),
                            Payload::Bytes(_) | Payload::Text(_) | Payload::None => None,
                        };
                        Ok(ExecEvent::Exit(exit))
                    }
                    Some(Tag::Other) | None => {
                        let mut members = exit.extra;
                        if tag.is_some() {
                            members.insert("t".to_owned(), word.into());
                        }
                        if let Payload::Text(text) = payload {
                            members.insert("d".to_owned(), text.into());
                        }
                        if exit.code != 0 {
                            members.insert("c".to_owned(), exit.code.into());
                        }
                        if exit.timed_out {
                            members.insert("to".to_owned(), true.into());
                        }
                        if numbers {
                            members.insert("ms".to_owned(), exit.duration_ms.into());
                        }
                        Ok(ExecEvent::Other(members))
                    }
                }
            }
        }
        fn bytes<E: serde::de::Error>(payload: Payload) -> Result<Bytes, E> {
            match payload {
                Payload::Bytes(bytes) => Ok(bytes),
                // `d` came before `t`.
                Payload::Text(text) => decode(&text),
                Payload::None => Ok(Bytes::new()),
            }
        }
        d.deserialize_map(Event)
    }
}

enum Key {
    T,
    D,
    C,
    To,
    Ms,
    Other(String),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "t" => Key::T,
                    "d" => Key::D,
                    "c" => Key::C,
                    "to" => Key::To,
                    "ms" => Key::Ms,
                    other => Key::Other(other.to_owned()),
                })
            }
        }
        d.deserialize_identifier(Name)
    }
}

/// What exec answers, chosen by `Accept`: one object, or events as they happen.
#[derive(Debug)]
pub enum ExecReply {
    /// `application/json`: the command has ended.
    Whole(ExecResponse),
    /// `application/x-ndjson`: the command runs.
    Events(Lines<ExecEvent>),
}

/// The media type of the streaming form.
pub(crate) const NDJSON: &str = "application/x-ndjson";

impl ReplyCodec for ExecReply {
    // Neither form ends before the command does, and a command may run for as long as it likes.
    const SHAPE: ReplyShape = ReplyShape::Stream;

    fn decode(
        response: Response<WireBody>,
        cx: Decoding,
    ) -> BoxFuture<'static, boxrig_wire::Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            let events = parts
                .headers
                .get(CONTENT_TYPE)
                .and_then(|v| v.to_str().ok())
                .is_some_and(|t| t.trim_start().starts_with(NDJSON));
            if events {
                return Ok(Self::Events(Lines::read(body, cx)));
            }
            let bytes = cx.bytes(body).await?;
            Ok(Self::Whole(cx.json(&bytes)?))
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        match self {
            Self::Whole(whole) => JsonReply::ok(whole).encode(),
            Self::Events(lines) => Ok(lines.write()),
        }
    }
}
