//! The program in a sealed environment: a home of its own, nothing of the caller's.

#![allow(unreachable_pub, reason = "a module of several tests")]
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home with a background server of its own, which ends with it.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bx").tempdir().unwrap();
        for sub in ["run", "tmp"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let run = dir.path().join("run");
            std::fs::set_permissions(run, PermissionsExt::from_mode(0o700)).unwrap();
        }
        Self(dir)
    }

    /// With the background server on an engine.
    pub fn with_engine(engine: &str) -> Self {
        let home = Self::new();
        home.ok(&["up", "--engine", engine]);
        home
    }

    /// With the background server on the sandbox; `None`, said aloud, where that cannot run.
    pub fn with_sandbox() -> Option<Self> {
        let home = Self::new();
        let out = home.run(&["up", "--engine", "sandbox"]);
        if out.status.success() {
            return Some(home);
        }
        let words = String::from_utf8_lossy(&out.stderr);
        let required = std::env::var("BOXRIG_REQUIRE").is_ok_and(|v| v == "sandbox");
        assert!(!required && out.status.code() == Some(7), "{words}");
        println!("skipped: a command line test that needs the sandbox: {words}");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn config(&self) -> PathBuf {
        self.path().join(".config/boxrig/config.toml")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // A run as another user brings a copy that the user can read.
        let program = std::env::var_os("BOXRIG_TEST_PROGRAM")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_boxrig").into());
        let mut c = Command::new(program);
        c.args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .env("TMPDIR", self.path().join("tmp"))
            .current_dir(self.path())
            .stdin(Stdio::null());
        c
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Its standard output; anything but 0 fails the test.
    pub fn ok(&self, args: &[&str]) -> String {
        output(args, self.run(args))
    }

    /// Its exit code and standard error.
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let out = self.run(args);
        (
            out.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// The address and the key of the background server, for contexts over TCP.
    pub fn env(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["env", "--format", "json"])).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.run(&["reset", "--yes"]);
        let _ = self.run(&["down"]);
    }
}

/// Compares with a file under `tests/golden`; `BOXRIG_BLESS=1` writes it.
pub fn golden(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("BOXRIG_BLESS").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        got == wanted,
        "{name} differs (BOXRIG_BLESS=1 writes it):\n{got}"
    );
}

/// The standard output of a run that must have succeeded.
pub fn output(args: &[&str], out: Output) -> String {
    assert!(
        out.status.success(),
        "boxrig {args:?}: {:?}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}
