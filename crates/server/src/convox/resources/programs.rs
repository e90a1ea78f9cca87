//! The programs that resources are, and how they are started.

use std::path::{Path, PathBuf};

/// The types that are offered.
pub(in super::super) const TYPES: [&str; 3] = ["postgres", "redis", "memcached"];
/// The database and its user.
const APP: &str = "app";

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Program {
    Postgres,
    Redis,
    Memcached,
}

impl Program {
    pub(in super::super) fn of_type(text: &str) -> Option<Self> {
        match text {
            "postgres" => Some(Self::Postgres),
            "redis" => Some(Self::Redis),
            "memcached" => Some(Self::Memcached),
            _ => None,
        }
    }

    /// The port it listens on in its instance.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::Memcached => 11211,
        }
    }

    /// The folder of its programs under `/usr`, which instances see.
    ///
    /// # Errors
    ///
    /// How to get it.
    pub(in super::super) fn find(self) -> Result<PathBuf, String> {
        let (file, package) = match self {
            Self::Postgres => ("postgres", "postgresql"),
            Self::Redis => ("redis-server", "redis-server"),
            Self::Memcached => ("memcached", "memcached"),
        };
        let mut folders: Vec<PathBuf> = Vec::new();
        if self == Self::Postgres {
            // One folder for each version; the newest first.
            let versions = std::fs::read_dir("/usr/lib/postgresql")
                .into_iter()
                .flatten()
                .flatten();
            let mut versions: Vec<_> = versions.map(|v| v.path().join("bin")).collect();
            versions.sort_by_key(|v| std::cmp::Reverse(number(v)));
            folders.extend(versions);
        }
        folders.extend(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
        let found = folders.into_iter().find(|f| f.join(file).is_file());
        found.ok_or_else(|| {
            format!(
                "{file} is not installed on this machine (looked under /usr): install it, on Debian and Ubuntu by `apt-get install {package}`, and promote again"
            )
        })
    }

    /// The main process of its instance: makes the data at the first start, then becomes the program, as an ordinary user.
    pub(super) fn script(self, folder: &Path) -> String {
        let bin = folder.display();
        // `daemon` is a user of the built-in image; the data are its.
        let user = "setpriv --reuid=1 --regid=1 --clear-groups --";
        match self {
            Self::Postgres => format!(
                r#"set -e
umask 077
export HOME=/tmp
if [ ! -e /data/ready ]; then
  rm -rf /data && mkdir -p /data && printf %s "$SECRET" > /data/secret && chown -R 1:1 /data
  {user} {bin}/initdb -D /data/db -U {APP} --pwfile=/data/secret --auth=scram-sha-256 -E UTF8 --locale=C >/dev/null
  echo 'CREATE DATABASE {APP};' | {user} {bin}/postgres --single -D /data/db postgres >/dev/null
  rm /data/secret
  touch /data/ready
fi
unset SECRET
rm -f /data/db/postmaster.pid
exec {user} {bin}/postgres -D /data/db -c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=mmap
"#,
                port = self.port(),
            ),
            Self::Redis => format!(
                r#"set -e
umask 077
mkdir -p /data
cat > /data/redis.conf <<END
bind 127.0.0.1
port {port}
dir /data
appendonly yes
requirepass $SECRET
END
chown -R 1:1 /data
unset SECRET
exec {user} {bin}/redis-server /data/redis.conf
"#,
                port = self.port(),
            ),
            Self::Memcached => format!(
                "unset SECRET\nexec {user} {bin}/memcached -l 127.0.0.1 -p {} -U 0\n",
                self.port(),
            ),
        }
    }

    /// Its address when it is reached on `port` of the loopback.
    pub(super) fn url(self, password: &str, port: u16) -> String {
        match self {
            Self::Postgres => {
                format!("postgres://{APP}:{password}@127.0.0.1:{port}/{APP}?sslmode=disable")
            }
            Self::Redis => format!("redis://default:{password}@127.0.0.1:{port}/0"),
            Self::Memcached => format!("127.0.0.1:{port}"),
        }
    }

    /// The parts of the address, by the end of their variable's name.
    pub(super) fn parts(self, password: &str, port: u16) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("URL", self.url(password, port)),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
        ];
        match self {
            Self::Postgres => all.extend([
                ("USER", APP.to_owned()),
                ("PASS", password.to_owned()),
                ("NAME", APP.to_owned()),
            ]),
            Self::Redis => all.extend([("PASS", password.to_owned()), ("NAME", "0".to_owned())]),
            Self::Memcached => {}
        }
        all
    }

    /// The command line of its console, as a shell's.
    pub(super) fn console(self, folder: &Path) -> Option<String> {
        let bin = folder.display();
        match self {
            Self::Postgres => Some(format!("exec {bin}/psql -h 127.0.0.1 -U {APP} {APP}")),
            Self::Redis => Some("exec redis-cli".to_owned()),
            Self::Memcached => None,
        }
    }

    /// The command that writes its content, and the one that reads it.
    pub(super) fn dump(self, folder: &Path) -> Option<(String, String)> {
        let bin = folder.display();
        match self {
            Self::Postgres => Some((
                format!(
                    "exec {bin}/pg_dump --clean --if-exists --no-owner -h 127.0.0.1 -U {APP} {APP}"
                ),
                format!("exec {bin}/psql -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -U {APP} {APP}"),
            )),
            _ => None,
        }
    }
}

/// The version in `/usr/lib/postgresql/VERSION/bin`.
fn number(path: &Path) -> u32 {
    let version = path.parent().and_then(Path::file_name);
    let version = version.map(|v| v.to_string_lossy().into_owned());
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}
