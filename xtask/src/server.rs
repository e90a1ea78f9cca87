//! A `boxrig serve` of our own for a suite: started, read from its environment file, ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, root, shell};

/// Long enough for a first start on a busy machine; a healthy one takes well under a second.
const READY: Duration = Duration::from_secs(30);
/// What the server promises from SIGTERM to its end.
const END: Duration = Duration::from_secs(5);

/// Who runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs this task.
    Same,
    /// This user and group id, without further groups; needs root.
    Id(u32),
}

impl User {
    /// A command that runs `program` as this user.
    pub(crate) fn command(self, program: &Path) -> Command {
        match self {
            Self::Same => Command::new(program),
            Self::Id(id) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={id}"))
                    .arg(format!("--regid={id}"))
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        }
    }

    /// Gives a path to this user.
    pub(crate) fn own(self, path: &Path) -> Result<()> {
        if let Self::Id(id) = self {
            shell::run(
                Command::new("chown")
                    .arg("-R")
                    .arg(format!("{id}:{id}"))
                    .arg(path),
            )?;
        }
        Ok(())
    }
}

/// The program to test: `BOXRIG_BIN`, or one built now next to this task's own program.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("BOXRIG_BIN") {
        return Ok(fs::canonicalize(given)?);
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("this program is in no folder")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--package=boxrig", "--bin=boxrig"])
        .current_dir(root());
    if folder.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    Ok(folder.join("boxrig"))
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    /// What its environment file says.
    pub(crate) env: BTreeMap<String, String>,
}

impl Server {
    /// Starts `program serve` with its data and environment file under `folder`, which `user`
    /// must be able to write, and waits until it is ready.
    pub(crate) fn start(
        program: &Path,
        folder: &Path,
        user: User,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let (file, log) = (folder.join("server.env"), folder.join("server.log"));
        let _ = fs::remove_file(&file);
        let output = fs::File::create(&log)?;
        let mut command = user.command(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.join("data"))
            .arg("--env-file")
            .arg(&file)
            .args(arguments)
            .envs(environment.iter().copied())
            .env("HOME", folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .map_err(|e| format!("{}: {e}", shell::shown(&command)))?;
        let mut server = Self {
            child,
            log,
            env: BTreeMap::new(),
        };
        let end = Instant::now() + READY;
        while !file.exists() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("boxrig serve: {status}\n{}", server.log()).into());
            }
            if Instant::now() > end {
                return Err(format!("boxrig serve: not ready\n{}", server.log()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        server.env = dotenv(&fs::read_to_string(&file)?)?;
        Ok(server)
    }

    /// The server's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A variable of the environment file.
    pub(crate) fn var(&self, name: &str) -> Result<&str> {
        let value = self.env.get(name).map(String::as_str);
        value.ok_or_else(|| format!("the environment file has no {name}").into())
    }

    /// What the server printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends the server as an administrator would, within the promised time.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.terminate();
        let end = Instant::now() + END;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("boxrig serve ended with {status}\n{}", self.log()).into())
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("boxrig serve did not end within {END:?} of SIGTERM").into())
    }

    fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; waiting for it tells.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.terminate();
        let end = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Reads `NAME=value` lines; a value may stand in single or double quotes.
fn dotenv(text: &str) -> Result<BTreeMap<String, String>> {
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| format!("no '=': {line:?}"))?;
            let bare = ['\'', '"']
                .iter()
                .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
            Ok((name.to_owned(), bare.unwrap_or(value).to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn dotenv() {
        let read = super::dotenv("# c\nA=1\n\nB=\"two words\"\nC='x=y'\nD=\n").unwrap();
        let read: Vec<(&str, &str)> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            read,
            [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", "")]
        );
        assert!(super::dotenv("no sign").is_err());
    }
}
