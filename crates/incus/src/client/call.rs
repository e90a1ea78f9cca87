//! Calls: any operation by its description, with the client's project and target put where it takes them.

use boxrig_wire::{
    BodyCodec, CallOptions, Endpoint, Error, Kind, NoBody, Params, PathValues, Request, Result,
    Timeout,
};
use serde_json::Value;

use super::Client;
use crate::envelope::{Answer, Async, Sync};
use crate::models::Operation;

/// What a call is made of beside its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) options: CallOptions,
}

impl Parts {
    pub(crate) fn new<S: AsRef<str>>(path: &[S]) -> Self {
        Self {
            path: path.iter().map(|s| s.as_ref().to_owned()).collect(),
            ..Self::default()
        }
    }
    pub(crate) fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }
    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
    pub(crate) fn if_match(mut self, etag: Option<&str>) -> Result<Self> {
        if let Some(etag) = etag {
            let value = http::HeaderValue::from_str(etag).map_err(|e| {
                Error::new(Kind::Invalid, "the version cannot be sent in a header").with_source(e)
            })?;
            self.options.headers.insert(http::header::IF_MATCH, value);
        }
        Ok(self)
    }
    pub(crate) fn timeout(mut self, timeout: Timeout) -> Self {
        self.options.timeout = timeout;
        self
    }
}

impl Client {
    /// Calls any operation by its description: the typed way to what has no verb by hand. The client's project and target
    /// are filled in where the operation takes them and the request names none; what the body needs of the server's
    /// extensions is checked first.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_incus::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_incus::ops::{profiles::ProfileGet, queries::ProjectQuery};
    /// use boxrig_wire::{CallOptions, NoBody, NoParams, Request};
    ///
    /// let request = Request::<ProfileGet> {
    ///     path: ("default".to_owned(),),
    ///     query: ProjectQuery::default(),
    ///     headers: NoParams,
    ///     body: NoBody,
    /// };
    /// let profile = client.call(request, &CallOptions::new()).await?.metadata;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] naming the extension that the server lacks; else the server's error.
    pub async fn call<E: Endpoint>(
        &self,
        mut request: Request<E>,
        options: &CallOptions,
    ) -> Result<E::Reply> {
        let mut query = request.query.to_pairs();
        let given = query.len();
        for (name, value) in self.scope_pairs() {
            if !query.iter().any(|(n, _)| *n == name) {
                query.push((name, value));
            }
        }
        if query.len() > given {
            request.query = params::<E::Query>(E::META.id, &query)?;
        }
        let needed = needed::<E>(&request.body);
        self.check_extensions(E::META.id, needed).await?;
        self.caller().call(request, options).await
    }

    /// A call from parts; names that the operation does not take are left out.
    pub(crate) async fn send<E: Endpoint>(&self, parts: Parts, body: E::Body) -> Result<E::Reply> {
        let id = E::META.id;
        let request = Request::<E> {
            path: E::Path::from_values(parts.path).ok_or_else(|| {
                Error::new(Kind::Invalid, "a name of the path is missing").with_operation(id)
            })?,
            query: params(id, &parts.query)?,
            headers: params(id, &parts.headers)?,
            body,
        };
        self.call(request, &parts.options).await
    }

    /// A call without a body.
    pub(crate) async fn get<E: Endpoint<Body = NoBody>>(&self, path: &[&str]) -> Result<E::Reply> {
        self.send::<E>(Parts::new(path), NoBody).await
    }

    fn scope_pairs(&self) -> Vec<(String, String)> {
        let scope = self.scope();
        let mut pairs = Vec::new();
        if let Some(project) = &scope.project {
            pairs.push(("project".to_owned(), project.clone()));
        }
        if let Some(target) = &scope.target {
            pairs.push(("target".to_owned(), target.clone()));
        }
        if scope.all_projects {
            pairs.push(("all-projects".to_owned(), "true".to_owned()));
        }
        pairs
    }

    async fn check_extensions(
        &self,
        id: &'static str,
        needed: Vec<(String, &'static str)>,
    ) -> Result<()> {
        for (what, extension) in needed {
            self.require(extension, &what)
                .await
                .map_err(|e| e.with_operation(id))?;
        }
        Ok(())
    }
}

/// The extensions that a request needs. A body is not held across a wait: streams are not shared.
fn needed<E: Endpoint>(body: &E::Body) -> Vec<(String, &'static str)> {
    let id = E::META.id;
    let mut needed = super::extensions::of_operation(id);
    if super::extensions::has_members(id) {
        let document = body.document().unwrap_or(Value::Null);
        needed.extend(super::extensions::of_body(id, &document));
    }
    needed
}

fn params<P: Params>(id: &'static str, pairs: &[(String, String)]) -> Result<P> {
    P::from_pairs(pairs).map_err(|e| Error::new(Kind::Invalid, e.to_string()).with_operation(id))
}

/// What a call answers: done, or an operation that goes on.
pub trait Outcome {
    /// The operation, when it is one.
    fn operation(self) -> Option<Operation>;
}
impl<T> Outcome for Sync<T> {
    fn operation(self) -> Option<Operation> {
        None
    }
}
impl Outcome for Async {
    fn operation(self) -> Option<Operation> {
        Some(self.0)
    }
}
impl<T> Outcome for Answer<T> {
    fn operation(self) -> Option<Operation> {
        match self {
            Self::Done(_) => None,
            Self::Started(operation) => Some(operation.0),
        }
    }
}
