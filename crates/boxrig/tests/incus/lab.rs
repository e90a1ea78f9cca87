//! The program on a real daemon, and the official client as the witness.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::support::{self, Home};

/// A daemon with a context `lab` for it; what a test made is removed with it.
pub(crate) struct Lab {
    pub(crate) home: Home,
    pub(crate) socket: String,
    /// The function that tests, as `api/exercised.tsv` names it.
    test: &'static str,
    way: &'static str,
    cleanup: std::cell::RefCell<Vec<Vec<String>>>,
}

/// Where the daemon listens for the network, and who may come that way.
pub(crate) struct Network {
    /// `127.0.0.1:8443`.
    pub(crate) host: String,
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) server_cert: String,
}

impl Network {
    pub(crate) fn of_daemon() -> Option<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let url = var("BOXRIG_INCUS_HTTPS")?;
        Some(Self {
            host: url.trim_start_matches("https://").to_owned(),
            cert: var("BOXRIG_INCUS_CERT")?,
            key: var("BOXRIG_INCUS_KEY")?,
            server_cert: var("BOXRIG_INCUS_SERVER_CERT")?,
        })
    }
}

impl Lab {
    /// `None`, said aloud, where no daemon is named (`BOXRIG_INCUS_SOCKET`).
    pub(crate) fn open(test: &'static str) -> Option<Self> {
        Self::by(test, "cli")
    }

    pub(crate) fn by(test: &'static str, way: &'static str) -> Option<Self> {
        let Some(socket) = std::env::var("BOXRIG_INCUS_SOCKET")
            .ok()
            .filter(|s| !s.is_empty())
        else {
            let required = std::env::var("BOXRIG_REQUIRE").is_ok_and(|v| v == "incus");
            assert!(!required, "BOXRIG_INCUS_SOCKET names no daemon");
            println!("skipped: {test}: BOXRIG_INCUS_SOCKET names no Incus daemon");
            return None;
        };
        let home = Home::new();
        let url = format!("incus+unix://{socket}");
        home.ok(&["ctx", "add", "lab", &url, "--image", "busybox"]);
        home.ok(&["ctx", "use", "lab"]);
        Some(Self {
            home,
            socket,
            test,
            way,
            cleanup: std::cell::RefCell::default(),
        })
    }

    /// A name that no other test has.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("op-{what}-{}", std::process::id())
    }

    /// The official client.
    pub(crate) fn official(&self, args: &[&str]) -> Output {
        Command::new("incus")
            .args(args)
            .env("INCUS_SOCKET", &self.socket)
            .env("INCUS_CONF", self.home.path().join("official"))
            .env_remove("INCUS_REMOTE")
            .env_remove("INCUS_PROJECT")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    /// What the official client gets at a path; `None` when it gets nothing.
    pub(crate) fn see(&self, path: &str) -> Option<Value> {
        let out = self.official(&["query", path]);
        out.status
            .success()
            .then(|| serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
    }

    /// What the official client prints.
    pub(crate) fn says(&self, args: &[&str]) -> String {
        let out = self.official(args);
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "incus {args:?}: {words}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// What a command in a guest says. The official client loses what short commands say now and then: asked again until it says something.
    pub(crate) fn heard(&self, args: &[&str]) -> String {
        let tries = (0..20).map(|_| self.says(args));
        tries
            .into_iter()
            .find(|said| !said.is_empty())
            .unwrap_or_default()
    }

    /// Removes something when the test ends, however it does.
    pub(crate) fn later(&self, args: &[&str]) {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        self.cleanup.borrow_mut().push(args);
    }

    /// The native operation with this id, printed as JSON.
    pub(crate) fn native(&self, id: &str, args: &[&str]) -> Value {
        let command = id.replace('_', "-");
        let mut all = vec!["incus", &command, "-o", "json"];
        all.extend(args);
        // A daemon that stops a bridge looks at every interface of the machine, and fails when another test's has just gone; its
        // DHCP server may still hold the address then. Only what the daemon itself could not do to a network is tried again, and said.
        let raced = |words: &str| id.starts_with("network") && words.starts_with("error: failed");
        let mut out = self.home.run(&all);
        for _ in 0..20 {
            let words = String::from_utf8_lossy(&out.stderr);
            if out.status.success() || !raced(&words) {
                break;
            }
            println!("{id} is tried again: {words}");
            std::thread::sleep(std::time::Duration::from_millis(50));
            out = self.home.run(&all);
        }
        let out = support::output(&all, out);
        if out.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{id}: {e}: {out}"))
    }

    /// Notes that the official client has shown the effect of an operation.
    pub(crate) fn confirmed(&self, id: &str) {
        let Some(file) = std::env::var_os("BOXRIG_RECORD") else {
            return;
        };
        let (test, way) = (self.test, self.way);
        let line = format!("incus\t{id}\tconfirmed\tcrates/boxrig/tests/incus/{test}\t{way}\n");
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
    }

    /// A certificate that nobody knows yet, and its key.
    pub(crate) fn certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let dir = self.home.path();
        let (cert, key) = (
            dir.join(format!("{name}.crt")),
            dir.join(format!("{name}.key")),
        );
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=op", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .unwrap();
        assert!(made.status.success());
        (cert, key)
    }

    /// A stopped instance with the smallest image, made by the official client.
    pub(crate) fn instance(&self, what: &str, start: bool) -> String {
        let name = self.name(what);
        self.later(&["delete", "--force", &name]);
        self.says(&["init", "busybox", &name]);
        if start {
            self.says(&["start", &name]);
        }
        name
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for args in self.cleanup.borrow().iter().rev() {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            // Most of it is gone already when the test went well.
            self.official(&args);
        }
    }
}
