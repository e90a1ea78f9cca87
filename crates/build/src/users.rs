//! Names of users and groups, looked up in an image's own files.

use boxrig_engine::{Engine, InstanceId, Kind};
use tokio::io::AsyncReadExt;

use crate::error::{BuildError, Result};

/// Largest account file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Who a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The user's folder, when the image's files name one.
    pub(crate) home: Option<String>,
}

/// An image's account files.
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them; an image without has no names.
    pub(crate) async fn read(engine: &dyn Engine, id: &InstanceId) -> Result<Self> {
        Ok(Self {
            passwd: text(engine, id, "/etc/passwd").await?,
            group: text(engine, id, "/etc/group").await?,
        })
    }

    /// `user`, `user:group`, by names or numbers. Without a group it is the user's own one.
    pub(crate) fn user(&self, what: &str) -> Result<User> {
        let (name, group) = split(what);
        let lines = || {
            self.passwd
                .lines()
                .map(|l| l.split(':').collect::<Vec<_>>())
        };
        let number = name.parse::<u32>().ok();
        let found = lines().find(|fields| match number {
            Some(uid) => fields.get(2).is_some_and(|f| f.parse() == Ok(uid)),
            None => fields.first() == Some(&name),
        });
        let field = |at: usize| found.as_ref().and_then(|f| f.get(at).copied());
        let uid = number.or_else(|| field(2)?.parse().ok());
        let uid = uid.ok_or_else(|| no_name("user", name))?;
        let gid = match group {
            Some(group) => self.group(group)?,
            None => field(3).and_then(|f| f.parse().ok()).unwrap_or(0),
        };
        let home = field(5).filter(|h| h.starts_with('/')).map(str::to_owned);
        Ok(User { uid, gid, home })
    }

    /// The owner of copied files: as [`Accounts::user`], but a number without a group is the group's too.
    pub(crate) fn owner(&self, what: &str) -> Result<(u32, u32)> {
        let (name, group) = split(what);
        match (name.parse::<u32>(), group) {
            (Ok(uid), None) => Ok((uid, uid)),
            (Ok(uid), Some(group)) => Ok((uid, self.group(group)?)),
            _ => self.user(what).map(|user| (user.uid, user.gid)),
        }
    }

    fn group(&self, name: &str) -> Result<u32> {
        if let Ok(gid) = name.parse() {
            return Ok(gid);
        }
        let mut lines = self.group.lines().map(|l| l.split(':').collect::<Vec<_>>());
        let found = lines.find(|fields| fields.first() == Some(&name));
        let gid = found.and_then(|f| f.get(2)?.parse().ok());
        gid.ok_or_else(|| no_name("group", name))
    }
}

fn split(what: &str) -> (&str, Option<&str>) {
    match what.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (what, None),
    }
}

fn no_name(what: &str, name: &str) -> BuildError {
    BuildError::dockerfile(format!("the image knows no {what} {name:?}"))
}

async fn text(engine: &dyn Engine, id: &InstanceId, path: &str) -> Result<String> {
    let read = match engine.read_file(id, path.as_bytes(), 0).await {
        Ok(read) => read,
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Invalid) => return Ok(String::new()),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    let whole = read.content.take(MAX_FILE).read_to_end(&mut bytes).await;
    whole.map_err(|e| BuildError::context(format!("{path}: {e}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\nbroken\n".into(),
            group: "root:x:0:\nweb:x:33:\n".into(),
        };
        let user = |what| accounts.user(what).map(|u| (u.uid, u.gid, u.home));
        let home = || Some("/home/app".to_owned());
        assert_eq!(user("app").unwrap(), (1000, 1001, home()));
        assert_eq!(user("1000").unwrap(), (1000, 1001, home()));
        assert_eq!(user("app:web").unwrap(), (1000, 33, home()));
        assert_eq!(user("7").unwrap(), (7, 0, None));
        assert_eq!(user("7:8").unwrap(), (7, 8, None));
        assert!(user("nobody").unwrap_err().message.contains("nobody"));
        assert!(user("app:nobody").is_err());
        assert_eq!(accounts.owner("7").unwrap(), (7, 7));
        assert_eq!(accounts.owner("app").unwrap(), (1000, 1001));
        assert_eq!(accounts.owner("app:web").unwrap(), (1000, 33));
        assert_eq!(accounts.owner("0:web").unwrap(), (0, 33));
    }
}
