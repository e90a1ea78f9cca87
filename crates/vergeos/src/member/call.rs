//! Members as they are called: a place, a name, arguments; awaited, it is carried out.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use boxrig_wire::{BoxFuture, Result};
use futures_util::Stream;
use serde_json::Value;

use super::outcome::Outcome;
use super::run::{self, Invocation};
use super::{Keys, List, Time};
use crate::client::{Query, Wait};
use crate::sort::SortKey;
use crate::{Client, Filter, Key, Record, Row, RowType};

/// A place in the tree of managers and rows.
#[derive(Clone)]
pub struct Node {
    pub(crate) client: Client,
    pub(crate) place: String,
    pub(crate) scopes: Vec<Arc<Scope>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// A row on the way to a member: its key, and as much of it as is known.
pub(crate) struct Scope {
    pub(crate) class: String,
    pub(crate) key: Key,
    row: Mutex<Row>,
}

impl Scope {
    pub(crate) fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Node {
    /// The manager at a place of the client, such as `client.vms`.
    pub fn top(client: &Client, place: &str) -> Self {
        Self {
            client: client.clone(),
            place: place.to_owned(),
            scopes: Vec::new(),
        }
    }
    /// What is at a place below. Places of the same members below several kinds of rows are one place in the table.
    pub fn child(&self, place: &str) -> Self {
        let mut node = self.clone();
        node.place.clear();
        node.place.push_str(place);
        node
    }
    /// A row of the manager here, whose own members are at `place`.
    pub fn row(&self, place: &str, class: &str, key: Key, record: Option<&Record>) -> Self {
        let mut node = self.child(place);
        let mut row = record.map(Record::to_map).unwrap_or_default();
        row.insert("$key".to_owned(), key.clone().into());
        node.scopes.push(Arc::new(Scope {
            class: class.to_owned(),
            key,
            row: Mutex::new(row),
        }));
        node
    }
    /// A call of a member of this place.
    pub fn call<T>(&self, member: &str) -> Call<T> {
        Call {
            invocation: Invocation::new(self.clone(), member),
            output: PhantomData,
        }
    }
}

/// A call of a member; await it.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<T> {
    pub(crate) invocation: Invocation,
    output: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Call<T> {
    /// Without the arguments: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.invocation.fmt(f)
    }
}

macro_rules! arguments {
    ($($name:ident: $ty:ty => |$v:ident| $value:expr;)*) => {$(
        #[doc(hidden)]
        pub fn $name(mut self, name: &'static str, $v: $ty) -> Self {
            self.invocation.args.insert(name.to_owned(), $value);
            self
        }
    )*};
}

impl<T> Call<T> {
    arguments! {
        flag: bool => |v| v.into();
        int: i64 => |v| v.into();
        float: f64 => |v| v.into();
        text: impl Into<String> => |v| Value::String(v.into());
        key: impl Into<Key> => |v| v.into().into();
        list: impl Into<List> => |v| v.into().0;
        keys: impl Into<Keys> => |v| v.into().0;
        json: impl Into<Value> => |v| v.into();
        time: impl Into<Time> => |v| v.into().0.into();
        span: Duration => |v| v.as_secs().into();
        word: impl fmt::Display => |v| Value::String(v.to_string());
    }
    #[doc(hidden)]
    pub fn filter(mut self, _: &'static str, filter: Filter) -> Self {
        self.invocation.filter = Some(match self.invocation.filter.take() {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }
    #[doc(hidden)]
    pub fn set(mut self, column: impl Into<String>, value: impl Into<Value>) -> Self {
        self.invocation.set.insert(column.into(), value.into());
        self
    }
    /// How to wait, where the member waits.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.invocation.wait = Some(wait);
        self
    }
    /// What would be sent is shown instead by [`super::invoke`]; here it is sent.
    pub fn into_invocation(self) -> Invocation {
        self.invocation
    }
}

impl<T: Outcome> IntoFuture for Call<T> {
    type Output = Result<T>;
    type IntoFuture = BoxFuture<'static, Result<T>>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { T::from_ran(run::run(self.invocation, T::lister()).await?) })
    }
}

/// All rows of a manager, page by page.
#[derive(Clone, Debug)]
#[must_use = "an iteration does nothing until its stream is read"]
pub struct Iter<R> {
    node: Node,
    page: u64,
    filter: Option<Filter>,
    fields: Option<String>,
    row: PhantomData<fn() -> R>,
}

impl<R> Iter<R> {
    pub(crate) fn new(node: Node) -> Self {
        Self {
            node,
            page: 100,
            filter: None,
            fields: None,
            row: PhantomData,
        }
    }
    /// Rows of a page, 100 by default.
    pub fn page_size(mut self, rows: u64) -> Self {
        self.page = rows.max(1);
        self
    }
    /// Only rows that pass.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }
    /// Other columns than those of the row's type.
    pub fn fields(mut self, fields: impl Into<String>) -> Self {
        self.fields = Some(fields.into());
        self
    }
}

impl<R: RowType> Iter<R> {
    /// The rows, as they are read. Pages go on from the last key, so that concurrent changes neither hide nor repeat rows.
    pub fn stream(self) -> impl Stream<Item = Result<R>> + Send + 'static {
        use futures_util::{StreamExt, TryStreamExt};
        futures_util::stream::once(async move {
            // What the manager's own list asks for is asked for here: its scope and its standing filters.
            let mut call = self.node.call::<Vec<R>>("list");
            if let Some(filter) = self.filter {
                call = call.filter("filter", filter);
            }
            let plan = run::plan_list(call.invocation).await?;
            let mut query = Query::new();
            if let Some(filter) = plan.filter {
                query = query.filter(Filter::raw(filter));
            }
            if let Some(fields) = self.fields.or(plan.fields) {
                query = query.fields(fields);
            }
            for key in SortKey::parse(plan.sort.as_deref().unwrap_or("")).unwrap_or_default() {
                query = query.sort(key);
            }
            let table = self.node.client.table_named::<R>(plan.table);
            Ok::<_, boxrig_wire::Error>(table.stream(query, self.page))
        })
        .try_flatten()
        .boxed()
    }
}

/// Declares calls with settings.
macro_rules! calls {
    (
        $(#[$doc:meta])*
        $name:ident -> $out:ty { $($setter:ident $kind:ident $(($ty:ty))? ;)* } $(+ $set:ident)?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "a call does nothing until it is awaited"]
        pub struct $name(pub(crate) Call<$out>);

        impl $name {
            $( $crate::member::calls!(@setter $setter $kind $(($ty))?); )*
            $( $crate::member::calls!(@$set); )?
            /// How to wait, where the member waits.
            pub fn waiting(mut self, wait: $crate::client::Wait) -> Self {
                self.0 = self.0.wait(wait);
                self
            }
        }

        impl ::std::future::IntoFuture for $name {
            type Output = ::boxrig_wire::Result<$out>;
            type IntoFuture = ::boxrig_wire::BoxFuture<'static, ::boxrig_wire::Result<$out>>;
            fn into_future(self) -> Self::IntoFuture {
                self.0.into_future()
            }
        }
    };
    (@setter $setter:ident word ($ty:ty)) => {
        #[doc = concat!("The parameter `", stringify!($setter), "`.")]
        pub fn $setter(mut self, value: $ty) -> Self {
            self.0 = self.0.text($crate::member::calls!(@name $setter), value.as_str());
            self
        }
    };
    (@setter $setter:ident $kind:ident) => {
        #[doc = concat!("The parameter `", stringify!($setter), "`.")]
        pub fn $setter(mut self, value: $crate::member::calls!(@ty $kind)) -> Self {
            self.0 = self.0.$kind($crate::member::calls!(@name $setter), value);
            self
        }
    };
    (@name $setter:ident) => {{
        const NAME: &str = stringify!($setter);
        // A name that is a word of Rust is written `r#…`.
        match NAME.as_bytes() {
            [b'r', b'#', ..] => NAME.split_at(2).1,
            _ => NAME,
        }
    }};
    (@set) => {
        /// Any column; of a list, its value in the filter.
        pub fn set(mut self, column: impl Into<String>, value: impl Into<::serde_json::Value>) -> Self {
            self.0 = self.0.set(column, value);
            self
        }
        /// Empties a column.
        pub fn clear(self, column: impl Into<String>) -> Self {
            self.set(column, ::serde_json::Value::Null)
        }
    };
    (@ty flag) => { bool };
    (@ty int) => { i64 };
    (@ty float) => { f64 };
    (@ty text) => { impl Into<String> };
    (@ty key) => { impl Into<$crate::Key> };
    (@ty list) => { impl Into<$crate::List> };
    (@ty keys) => { impl Into<$crate::Keys> };
    (@ty json) => { impl Into<::serde_json::Value> };
    (@ty time) => { impl Into<$crate::Time> };
    (@ty span) => { ::std::time::Duration };
    (@ty filter) => { $crate::Filter };
}
pub(crate) use calls;
