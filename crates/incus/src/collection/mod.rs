//! What most of the API is: named things in a collection, listed, read, made, changed, renamed, deleted.

mod conflict;
mod kinds;
mod more;

pub use kinds::*;

use std::fmt;
use std::marker::PhantomData;

use boxrig_wire::{Endpoint, Error, Json, Kind, NoBody, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::client::{Client, Outcome, Parts};
use crate::envelope::{List, Sync};
use crate::model::Merge;

/// A collection that can be listed.
pub trait Listed: 'static {
    /// What is in it.
    type Item: Serialize + DeserializeOwned + Send;
    /// The operation.
    type List: Endpoint<Body = NoBody, Reply = Sync<List<Self::Item>>>;
}

/// A collection whose things can be read one by one.
pub trait Read: Listed {
    /// The operation.
    type Get: Endpoint<Body = NoBody, Reply = Sync<Self::Item>>;
}

/// A collection in which things can be made.
pub trait Create: 'static {
    /// A new one, with its name in it.
    type New: Serialize + DeserializeOwned + Send;
    /// The operation.
    type Create: Endpoint<Body = Json<Self::New>, Reply: Outcome>;
}

/// A collection whose things can be replaced and, from what they are, updated.
pub trait Replace: Read {
    /// What can be changed.
    type Put: Serialize + DeserializeOwned + Default + Send;
    /// The operation.
    type Replace: Endpoint<Body = Json<Self::Put>, Reply: Outcome>;
    /// Whether a replacement must take something over from what is there.
    const TAKES_OVER: bool = false;
    /// Takes it over.
    fn take_over(_current: &Self::Item, _put: &mut Self::Put) {}
}

/// A collection whose things can be changed in part.
pub trait Patch: Replace {
    /// The operation.
    type Patch: Endpoint<Body = Json<Merge<Self::Put>>, Reply: Outcome>;
}

/// A collection whose things can be renamed.
pub trait Rename: 'static {
    /// The operation.
    type Rename: Endpoint<Body = Json<Self::Post>, Reply: Outcome>;
    /// What a rename says.
    type Post: Serialize + DeserializeOwned + Send;
    /// The member of it that is the new name.
    const NAME: &'static str = "name";
}

/// A collection whose things can be deleted.
pub trait Delete: 'static {
    /// The operation.
    type Delete: Endpoint<Body = NoBody, Reply: Outcome>;
}

/// One collection of a server. What its things can undergo is told by the traits of its kind: [`Read`], [`Create`], [`Replace`],
/// [`Patch`], [`Rename`], [`Delete`].
///
/// ```no_run
/// # async fn f(client: boxrig_incus::Client) -> boxrig_wire::Result<()> {
/// use boxrig_incus::models::ProfilesPost;
///
/// let mut new = ProfilesPost::default();
/// new.name = "small".to_owned();
/// new.config.insert("limits.cpu".to_owned(), "1".to_owned());
/// client.profiles().create(new).await?;
/// client.profiles().update("small", |p| p.description = "one processor".to_owned()).await?;
/// client.profiles().delete("small").await?;
/// # Ok(()) }
/// ```
pub struct Collection<'a, K> {
    client: &'a Client,
    parent: Vec<String>,
    filter: Option<String>,
    kind: PhantomData<fn() -> K>,
}

impl<K> fmt::Debug for Collection<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collection({:?})", self.parent)
    }
}

impl<K> Clone for Collection<'_, K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client,
            parent: self.parent.clone(),
            filter: self.filter.clone(),
            kind: PhantomData,
        }
    }
}

impl<'a, K> Collection<'a, K> {
    pub(crate) fn new(client: &'a Client, parent: &[&str]) -> Self {
        Self {
            client,
            parent: parent.iter().map(|s| (*s).to_owned()).collect(),
            filter: None,
            kind: PhantomData,
        }
    }

    pub(crate) fn client(&self) -> &'a Client {
        self.client
    }

    /// Lists only what this filter of the server's leaves: `name eq web and config.user.a eq b`.
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// The parts of a request for the collection itself.
    pub(crate) fn parts(&self) -> Parts {
        Parts::new(&self.parent)
    }

    /// The parts of a request for one of its things.
    pub(crate) fn one(&self, name: &str) -> Parts {
        let mut parts = Parts::new(&self.parent);
        parts.path.push(name.to_owned());
        parts
    }

    fn listing(&self, recursion: u32) -> Parts {
        let mut parts = self.parts().query("recursion", recursion);
        if let Some(filter) = &self.filter {
            parts = parts.query("filter", filter);
        }
        parts
    }
}

impl<K: Listed> Collection<'_, K> {
    /// All of it.
    ///
    /// # Errors
    ///
    /// Those of the server and of the way to it. A project that does not exist has an empty list.
    pub async fn list(&self) -> Result<Vec<K::Item>> {
        let reply = self.client.send::<K::List>(self.listing(1), NoBody).await?;
        Ok(reply.metadata.items())
    }

    /// All of it, with the parts of each thing (state, snapshots, backups), where it has such.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub async fn list_full(&self) -> Result<Vec<K::Item>> {
        let reply = self.client.send::<K::List>(self.listing(2), NoBody).await?;
        Ok(reply.metadata.items())
    }

    /// Only the names.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub async fn names(&self) -> Result<Vec<String>> {
        let reply = self.client.send::<K::List>(self.listing(0), NoBody).await?;
        let names = reply.metadata.urls();
        Ok(names.iter().map(|url| name_of_url(url)).collect())
    }
}

/// The name at the end of an address such as `/1.0/profiles/a%20b?project=x`.
pub(crate) fn name_of_url(url: &str) -> String {
    let path = url.split('?').next().unwrap_or(url);
    let last = path.rsplit('/').next().unwrap_or(path);
    percent_decoded(last)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl<K: Read> Collection<'_, K> {
    /// One of them.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a one.
    pub async fn get(&self, name: &str) -> Result<K::Item> {
        Ok(self.read(name).await?.metadata)
    }

    /// One of them with its version, to be given back with a change.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn read(&self, name: &str) -> Result<Sync<K::Item>> {
        self.client.send::<K::Get>(self.one(name), NoBody).await
    }

    /// One of them with its parts (state, snapshots, backups), where it has such.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn get_full(&self, name: &str) -> Result<K::Item> {
        let parts = self.one(name).query("recursion", 1);
        Ok(self.client.send::<K::Get>(parts, NoBody).await?.metadata)
    }
}

impl<K: Create> Collection<'_, K> {
    /// Makes one, and waits until it is made.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken, [`Kind::Unsupported`] when the server lacks an extension that it needs.
    pub async fn create(&self, new: K::New) -> Result<()> {
        self.client
            .finish::<K::Create>(self.parts(), Json(new))
            .await?;
        Ok(())
    }
}

impl<K: Replace> Collection<'_, K> {
    /// Replaces what can be changed: whatever `put` leaves out is emptied. With the version of what was read
    /// ([`read`](Self::read)) the server refuses when it has changed since.
    ///
    /// # Errors
    ///
    /// [`Kind::Precondition`] when it has changed since.
    pub async fn replace(&self, name: &str, mut put: K::Put, version: Option<&str>) -> Result<()> {
        if K::TAKES_OVER {
            K::take_over(&self.get(name).await?, &mut put);
        }
        let parts = self.one(name).if_match(version)?;
        self.client.finish::<K::Replace>(parts, Json(put)).await?;
        Ok(())
    }

    /// Changes it from what it is: read, changed by `change`, written back with the version that was read. What this
    /// library does not know is kept.
    ///
    /// # Errors
    ///
    /// [`Kind::Precondition`] when somebody else has changed it meanwhile, naming what either side changed.
    pub async fn update(&self, name: &str, change: impl FnOnce(&mut K::Put)) -> Result<()> {
        let read = self.read(name).await?;
        let etag = read.etag.clone();
        let base = changeable::<K>(&read.metadata)?;
        let mut put = from_value::<K::Put>(base.clone())?;
        change(&mut put);
        let ours = to_value(&put)?;
        let parts = self.one(name).if_match(etag.as_deref())?;
        match self.client.finish::<K::Replace>(parts, Json(put)).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == Kind::Precondition => {
                let theirs = self.get(name).await.ok();
                let theirs = theirs.and_then(|item| changeable::<K>(&item).ok());
                Err(conflict::both_sides(e, &base, &ours, theirs.as_ref()))
            }
            Err(e) => Err(e),
        }
    }
}

/// The members of an item that can be changed, with those that are not known: they may be such.
pub(crate) fn changeable<K: Replace>(item: &K::Item) -> Result<Value> {
    let mut members = match to_value(item)? {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let known_item = known::<K::Item>();
    let known_put = known::<K::Put>();
    members.retain(|name, _| known_put.contains(name) || !known_item.contains(name));
    Ok(Value::Object(members))
}

/// The members that a model knows by name. Those of a request are left out when they are empty, so they are asked of the
/// reader: an unknown member ends among the extra ones.
fn known<T: Serialize + DeserializeOwned>() -> Known<T> {
    Known(PhantomData)
}

struct Known<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned> Known<T> {
    /// A `null` of a known member is read as empty; that of an unknown one is kept as it is.
    fn contains(&self, name: &str) -> bool {
        let read: Option<T> = serde_json::from_value(json!({ name: null })).ok();
        let written = read.and_then(|value| serde_json::to_value(value).ok());
        written.is_none_or(|value| value.get(name) != Some(&Value::Null))
    }
}

pub(crate) fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::new(Kind::Invalid, "a model that is no JSON").with_source(e))
}

pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Error::new(Kind::Protocol, "the server's answer does not fit").with_source(e))
}

impl<K: Patch> Collection<'_, K> {
    /// Changes only the members named; maps are merged, and an empty text unsets a key. With a version as in
    /// [`replace`](Self::replace).
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub async fn patch(
        &self,
        name: &str,
        changes: Merge<K::Put>,
        version: Option<&str>,
    ) -> Result<()> {
        let parts = self.one(name).if_match(version)?;
        self.client.finish::<K::Patch>(parts, Json(changes)).await?;
        Ok(())
    }
}

impl<K: Rename> Collection<'_, K> {
    /// Gives it another name.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the name is taken.
    pub async fn rename(&self, name: &str, new: &str) -> Result<()> {
        let post = from_value(json!({ K::NAME: new }))?;
        self.client
            .finish::<K::Rename>(self.one(name), Json(post))
            .await?;
        Ok(())
    }
}

impl<K: Delete> Collection<'_, K> {
    /// Deletes it, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such a one, [`Kind::Conflict`] for one that is in use.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.client
            .finish::<K::Delete>(self.one(name), NoBody)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Profile;

    #[test]
    fn names_of_addresses() {
        assert_eq!(name_of_url("/1.0/profiles/a%20b?project=x"), "a b");
        assert_eq!(name_of_url("/1.0/images/aliases/debian%2F12"), "debian/12");
        assert_eq!(name_of_url("/1.0/x/100%"), "100%");
    }

    /// A member that a model does not know goes along as it is, and the server passes over it: a name that is lost so would be an empty one.
    #[test]
    fn a_new_name_is_where_the_server_looks() {
        fn check<K: Rename>() {
            assert!(
                known::<K::Post>().contains(K::NAME),
                "{}",
                std::any::type_name::<K>()
            );
        }
        check::<Profiles>();
        check::<Projects>();
        check::<ImageAliases>();
        check::<InstanceSnapshots>();
        check::<InstanceBackups>();
        check::<Networks>();
        check::<NetworkAcls>();
        check::<NetworkAddressSets>();
        check::<NetworkIntegrations>();
        check::<Volumes>();
        check::<VolumeSnapshots>();
        check::<VolumeBackups>();
        check::<BucketBackups>();
        check::<ClusterMembers>();
        check::<ClusterGroups>();
        assert!(
            !known::<crate::models::ClusterMemberPost>().contains("name"),
            "the test can fail"
        );
    }

    #[test]
    fn what_cannot_be_changed_is_not_sent_and_what_is_unknown_is_kept() {
        let profile: Profile = serde_json::from_value(json!({
            "name": "p", "config": {"a": "b"}, "used_by": ["x"], "project": "default", "novel": {"x": 1}
        }))
        .unwrap();
        let put = changeable::<Profiles>(&profile).unwrap();
        let expected =
            json!({"config": {"a": "b"}, "description": "", "devices": {}, "novel": {"x": 1}});
        assert_eq!(put, expected);
    }
}
