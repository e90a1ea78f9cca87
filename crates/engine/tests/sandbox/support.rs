//! What the tests share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boxrig_engine::{
    Engine, Error, Exec, ExecSpec, ExitStatus, InstanceId, InstanceSpec, Options, Result, Selection,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

/// An engine with a data folder of its own.
pub(crate) struct Rig {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) dir: TempDir,
}

/// Opens an engine; `None`, with a printed reason, where the sandbox cannot run.
pub(crate) async fn rig() -> Option<Rig> {
    let dir = tempfile::Builder::new()
        .prefix("boxrig-test-")
        .tempdir()
        .unwrap();
    match open(dir.path()).await {
        Ok(engine) => Some(Rig { engine, dir }),
        Err(error) => {
            let required =
                std::env::var("BOXRIG_REQUIRE").is_ok_and(|what| what.contains("sandbox"));
            assert!(!required, "the sandbox is required: {error}");
            println!("skipped: {error}");
            None
        }
    }
}

pub(crate) async fn open(dir: &Path) -> Result<Arc<dyn Engine>> {
    boxrig_engine::open(Selection::Sandbox, dir, Options::default()).await
}

pub(crate) fn id(name: &str) -> InstanceId {
    InstanceId::new(name).unwrap()
}

/// What a command gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Rig {
    /// Creates an idle instance of the built-in image.
    pub(crate) async fn instance(&self, name: &str) -> InstanceId {
        let id = id(name);
        self.engine
            .create(InstanceSpec::new(id.clone()))
            .await
            .unwrap();
        id
    }

    /// Runs a shell script and collects its output.
    pub(crate) async fn sh(&self, id: &InstanceId, script: &str) -> Output {
        self.run(id, ExecSpec::new(["/bin/sh", "-c", script]))
            .await
            .unwrap()
    }

    /// Waits until a script says this, for ten seconds at most.
    pub(crate) async fn until(&self, id: &InstanceId, script: &str, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let said = self.sh(id, script).await.stdout;
            if said.trim_end() == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{script}: {said:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a shell script that must succeed, and gives its output.
    pub(crate) async fn ok(&self, id: &InstanceId, script: &str) -> String {
        let output = self.sh(id, script).await;
        assert!(output.status.success(), "{script}: {output:?}");
        output.stdout.trim_end().to_owned()
    }

    pub(crate) async fn run(&self, id: &InstanceId, spec: ExecSpec) -> Result<Output, Error> {
        collect(self.engine.exec(id, spec).await?).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The engine's own deletes are tested; here whatever a failed test left must not stay on the machine.
        let instances = self.dir.path().join("instances");
        let Ok(entries) = std::fs::read_dir(instances) else {
            return;
        };
        for entry in entries.flatten() {
            let record =
                std::fs::read_to_string(entry.path().join("instance.json")).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_str(&record).unwrap_or_default();
            if let Some(pid) = record["run"]["pid"].as_i64() {
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Reads everything and waits.
pub(crate) async fn collect(mut exec: Exec) -> Result<Output, Error> {
    drop(exec.stdin.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut err = exec.stderr.take();
    let read_err = async {
        if let Some(err) = &mut err {
            err.read_to_end(&mut stderr).await.unwrap();
        }
    };
    let (out, ()) = tokio::join!(exec.stdout.read_to_end(&mut stdout), read_err);
    out.unwrap();
    Ok(Output {
        status: exec.wait().await?,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}
