//! The uniform operations: the same for every table.

use boxrig_wire::{
    BoxFuture, Decoding, Json, JsonReply, ReplyCodec, ReplyShape, Result, WireBody, endpoint,
    params,
};
use http::Response;
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

endpoint! {
    /// Lists the rows of a table.
    pub TableList = "list": VergeOs, GET "/api/v4/{table}" {
        path: (String,),
        query: ListQuery,
        reply: RowsReply,
    }
}

endpoint! {
    /// Does an action on a row; the path names the kind of row, as in `vm_actions`.
    pub TableAction = "action": VergeOs, POST "/api/v4/{kind}_actions" {
        path: (String,),
        body: Json<ActionPost>,
        reply: JsonReply<Receipt>,
    }
}

/// Rows: an array, or the one object that singletons answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RowsReply(pub Vec<Row>);

impl ReplyCodec for RowsReply {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let bytes = cx.bytes(cx.success(response).await?.into_body()).await?;
            if bytes.is_empty() {
                return Ok(Self(Vec::new()));
            }
            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Either {
                Many(Vec<Row>),
                One(Row),
            }
            Ok(match cx.json(&bytes)? {
                Either::Many(rows) => Self(rows),
                Either::One(row) => Self(vec![row]),
            })
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        JsonReply::ok(self.0).encode()
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
