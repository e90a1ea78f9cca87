//! The uniform operations: the same for every table.

use boxrig_wire::{
    BoxFuture, ByteBody, ByteReply, Catalog, Decoding, Endpoint, Json, JsonReply, ReplyCodec,
    ReplyShape, Result, Secret, WireBody, endpoint, params,
};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Row, VergeOs};

params! {
    /// Which rows and columns.
    pub struct ListQuery {
        /// The filter expression; all rows when absent.
        pub filter: Option<String> = "filter",
        /// A comma list of columns, or a view.
        pub fields: Option<String> = "fields",
        /// A comma list of columns, `-` before a descending one.
        pub sort: Option<String> = "sort",
        /// The most rows; 0: all.
        pub limit: Option<u64> = "limit",
        /// Rows to pass over, after filter and sort.
        pub offset: Option<u64> = "offset",
    }
}

params! {
    /// Which columns of one row, or its content.
    pub struct GetQuery {
        /// A comma list of columns, or a view.
        pub fields: Option<String> = "fields",
        /// `1`: the content instead of the row (`files`, `cloudinit_files`).
        pub download: Option<u32> = "download",
        /// The name the content is to be saved under.
        pub asname: Option<String> = "asname",
    }
}

params! {
    /// What a write to a row is besides its body.
    pub struct WriteQuery {
        /// The action in query form, such as `import`; none changes columns.
        pub action: Option<String> = "action",
        /// Of `files`: the body is content that begins at this byte.
        pub filepos: Option<u64> = "filepos",
    }
}

endpoint! {
    /// Lists the rows of a table.
    pub TableList = "list": VergeOs, GET "/api/v4/{table}" {
        path: (String,),
        query: ListQuery,
        reply: RowsReply,
    }
}

endpoint! {
    /// One row of a table by its key.
    pub TableGet = "get": VergeOs, GET "/api/v4/{table}/{key}" {
        path: (String, String),
        query: GetQuery,
        reply: RowReply,
    }
}

endpoint! {
    /// Adds a row to a table. Answers a receipt, not the row.
    pub TableCreate = "create": VergeOs, POST "/api/v4/{table}" {
        path: (String,),
        body: Json<Row>,
        reply: Written,
    }
}

endpoint! {
    /// Changes the columns of a row that are sent.
    pub TableUpdate = "update": VergeOs, PUT "/api/v4/{table}/{key}" {
        path: (String, String),
        query: WriteQuery,
        body: Json<Row>,
        reply: Written,
    }
}

endpoint! {
    /// Does an action on a row, in query form. One that the table does not know is answered 200 and ignored.
    pub RowAction = "row_action": VergeOs, PUT "/api/v4/{table}/{key}" {
        path: (String, String),
        query: WriteQuery,
        body: Json<Row>,
        reply: Written,
        idempotency: Never,
    }
}

endpoint! {
    /// Removes a row, with what belongs to it.
    pub TableDelete = "delete": VergeOs, DELETE "/api/v4/{table}/{key}" {
        path: (String, String),
        reply: Written,
    }
}

endpoint! {
    /// Does an action on a row; the path names the kind of row, as in `vm_actions`.
    pub TableAction = "action": VergeOs, POST "/api/v4/{kind}_actions" {
        path: (String,),
        body: Json<ActionPost>,
        reply: Written,
    }
}

endpoint! {
    /// Does an action on a row, in path form: `nodes/1/enable_maintenance`.
    pub RowVerb = "row_verb": VergeOs, POST "/api/v4/{table}/{key}/{verb}" {
        path: (String, String, String),
        body: Json<Row>,
        reply: Written,
    }
}

endpoint! {
    /// Applies what was changed of a row: `vnets/3/applydns`.
    pub RowApply = "row_apply": VergeOs, PUT "/api/v4/{table}/{key}/{verb}" {
        path: (String, String, String),
        body: Json<Row>,
        reply: Written,
    }
}

endpoint! {
    /// Does an action of a table as a whole: `update_actions/runpreinstallcheck`.
    pub TableVerb = "table_verb": VergeOs, POST "/api/v4/{table}/{verb}" {
        path: (String, String),
        body: Json<Row>,
        reply: Written,
    }
}

endpoint! {
    /// The schema of a table. For administrators.
    pub TableSchema = "schema": VergeOs, GET "/api/v4/{table}/$table" {
        path: (String,),
        reply: JsonReply<Value>,
    }
}

endpoint! {
    /// A file of the catalogue: its row, or with `download=1` its content.
    pub FileGet = "file_get": VergeOs, GET "/api/v4/files/{key}" {
        path: (String,),
        query: GetQuery,
        reply: ByteReply,
    }
}

endpoint! {
    /// Writes a piece of a file's content at `filepos`, in any order; without it, changes columns of its row.
    pub FilePut = "file_put": VergeOs, PUT "/api/v4/files/{key}" {
        path: (String,),
        query: WriteQuery,
        body: ByteBody,
        reply: Written,
    }
}

endpoint! {
    /// A cloud-init file: its row, or with `download=1` its content.
    pub CloudInitGet = "cloudinit_get": VergeOs, GET "/api/v4/cloudinit_files/{key}" {
        path: (String,),
        query: GetQuery,
        reply: ByteReply,
    }
}

endpoint! {
    /// Begins a session: its token is the key of the receipt, and is sent as `x-yottabyte-token`.
    pub TokenCreate = "token_create": VergeOs, POST "/api/sys/tokens" {
        body: Json<Login>,
        reply: Written,
    }
}

endpoint! {
    /// Ends a session.
    pub TokenDelete = "token_delete": VergeOs, DELETE "/api/sys/tokens/{token}" {
        path: (String,),
        reply: Written,
    }
}

/// The operations of the platform: the same few for each of its tables.
pub const CATALOG: Catalog = &[
    TableList::META,
    TableGet::META,
    TableCreate::META,
    TableUpdate::META,
    RowAction::META,
    TableDelete::META,
    TableAction::META,
    RowVerb::META,
    RowApply::META,
    TableVerb::META,
    TableSchema::META,
    FileGet::META,
    FilePut::META,
    CloudInitGet::META,
    TokenCreate::META,
    TokenDelete::META,
];

/// Who begins a session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    /// The user's name.
    pub login: String,
    /// The password.
    #[serde(with = "exposed")]
    pub password: Secret,
}

/// A secret in a request body: the one place where it has to be written out.
mod exposed {
    use boxrig_wire::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(secret.expose())
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Secret, D::Error> {
        Ok(Secret::new(
            Option::<String>::deserialize(d)?.unwrap_or_default(),
        ))
    }
}

/// What a write answers: often nothing, else a receipt or the result of an action.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The body; `None` when it was empty.
    pub value: Option<Value>,
    /// The status it came or goes with.
    pub status: StatusCode,
}

impl Written {
    /// 200 without a body, as updates and deletes answer.
    pub fn done() -> Self {
        Self {
            value: None,
            status: StatusCode::OK,
        }
    }
    /// 201 with or without a body, as creates and actions answer.
    pub fn created(value: Option<Value>) -> Self {
        Self {
            value,
            status: StatusCode::CREATED,
        }
    }
    /// The body as a receipt; an empty one when there was none, or it is no object.
    pub fn receipt(&self) -> Receipt {
        let value = self.value.as_ref();
        value
            .and_then(|v| Receipt::deserialize(v).ok())
            .unwrap_or_default()
    }
}

impl ReplyCodec for Written {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            let bytes = cx.bytes(body).await?;
            let value = match bytes.trim_ascii().is_empty() {
                true => None,
                false => Some(cx.json(&bytes)?),
            };
            Ok(Self {
                value,
                status: parts.status,
            })
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        match self.value {
            Some(value) => JsonReply {
                value,
                status: self.status,
            }
            .encode(),
            None => {
                let mut response = Response::new(WireBody::empty());
                *response.status_mut() = self.status;
                Ok(response)
            }
        }
    }
}

/// One row: an object, or the array of one that some singletons answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RowReply(pub Row);

impl ReplyCodec for RowReply {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let reply = RowsReply::decode(response, cx).await?;
            let row = reply.rows.into_iter().next();
            row.map(Self)
                .ok_or_else(|| cx.protocol("there is no row in the reply"))
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        JsonReply::ok(self.0).encode()
    }
}

/// Rows: an array, or the one object that singletons answer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RowsReply {
    /// The rows of a reply that was read.
    pub rows: Vec<Row>,
    /// A server's reply that is written already, which it sends instead of `rows`.
    pub written: Option<Bytes>,
}

impl RowsReply {
    /// A reply of these rows.
    pub fn new(rows: Vec<Row>) -> Self {
        Self {
            rows,
            written: None,
        }
    }
    /// A reply that is JSON already: a server that writes rows as it reads them holds no list of them.
    pub fn written(json: impl Into<Bytes>) -> Self {
        Self {
            rows: Vec::new(),
            written: Some(json.into()),
        }
    }
}

impl ReplyCodec for RowsReply {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let bytes = cx.bytes(cx.success(response).await?.into_body()).await?;
            if bytes.is_empty() {
                return Ok(Self::default());
            }
            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Either {
                Many(Vec<Row>),
                One(Row),
            }
            Ok(match cx.json(&bytes)? {
                Either::Many(rows) => Self::new(rows),
                Either::One(row) => Self::new(vec![row]),
            })
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        let Some(json) = self.written else {
            return JsonReply::ok(self.rows).encode();
        };
        let mut response = Response::new(WireBody::full(json));
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// An action of a table. The actions of a platform are types, so that a misspelt one does not compile.
pub trait Action: Serialize {
    /// The kind of row: the action table without its `_actions`, and the member that names the row.
    const KIND: &'static str;
    /// The action's name on the wire.
    fn name(&self) -> &'static str;
}

/// The body of an action: the row, the action, its parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ActionPost {
    /// The action's name.
    pub action: String,
    /// The action's parameters.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// The member that names the row, such as `vm`, and whatever else was sent.
    #[serde(flatten)]
    pub row: Map<String, Value>,
}

impl ActionPost {
    /// The body for one row.
    pub fn new<A: Action>(key: i64, action: A) -> Self {
        let params = match serde_json::to_value(&action) {
            Ok(Value::Object(params)) => params,
            _ => Map::new(),
        };
        let row = Map::from_iter([(A::KIND.to_owned(), key.into())]);
        Self {
            action: action.name().to_owned(),
            params,
            row,
        }
    }
}

/// What a write answers: the key of what was made, the task that does it, a response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Receipt {
    /// The key of the row.
    #[serde(rename = "$key", skip_serializing_if = "Option::is_none")]
    pub key: Option<Value>,
    /// The task that carries it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Value>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
