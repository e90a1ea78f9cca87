//! Secrets by reference: never on a command line, never in the configuration.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use boxrig_wire::{Error, Kind, Result, Secret, Untrusted};

/// Where a secret is: `env:VAR`, `cmd:COMMAND`, `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretRef {
    /// An environment variable.
    Env(String),
    /// The first line that a command prints.
    Command(String),
    /// The first line of a file that others cannot read.
    File(PathBuf),
}

impl SecretRef {
    /// Reads a reference. A text that is no reference is taken for the secret itself and refused without being repeated.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(Kind::Invalid, format!("--secret-from: {why}")).with_hint(
                "env:VARIABLE, cmd:COMMAND or file:PATH; the secret itself is never given here",
            )
        };
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Self::Env(name.to_owned()))
            }
            Some(("cmd", line)) if !line.trim().is_empty() => Ok(Self::Command(line.to_owned())),
            Some(("file", path)) if Path::new(path).is_absolute() => Ok(Self::File(path.into())),
            Some(("file", _)) => Err(invalid("the path of the file is not absolute")),
            Some(("keyring", _)) => Err(Error::new(
                Kind::Unsupported,
                "this build reads no keyring",
            )
            .with_hint("cmd:secret-tool lookup service boxrig  (Linux)\ncmd:security find-generic-password -w -s boxrig  (macOS)")),
            _ => Err(invalid("it is not a reference to a secret")),
        }
    }

    /// Gets the secret.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`], naming the reference and never the secret.
    pub(crate) fn read(&self) -> Result<Secret> {
        let failed = |why: String| Error::new(Kind::Unauthenticated, why);
        let text = match self {
            Self::Env(name) => std::env::var(name)
                .map_err(|_| failed(format!("the variable {} is not set", Untrusted::new(name))))?,
            Self::Command(line) => run(line)?,
            Self::File(path) => {
                private(path)?;
                std::fs::read_to_string(path)
                    .map_err(|e| failed(format!("{}: {e}", shown(path))))?
            }
        };
        let line = text.lines().next().unwrap_or("").trim_end();
        if line.is_empty() {
            return Err(failed(format!(
                "{} gives nothing",
                Untrusted::new(self.to_string())
            )));
        }
        Ok(Secret::new(line))
    }
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Command(line) => write!(f, "cmd:{line}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

fn shown(path: &Path) -> String {
    Untrusted::new(path.display().to_string()).to_string()
}

fn run(line: &str) -> Result<String> {
    let failed = |why: String| {
        Error::new(
            Kind::Unauthenticated,
            format!("the command for the secret {why}"),
        )
    };
    let mut command = if cfg!(windows) {
        let mut c = Command::new("cmd");
        c.args(["/C", line]);
        c
    } else {
        let mut c = Command::new("sh");
        c.args(["-c", line]);
        c
    };
    let output = command
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(format!("cannot be run: {e}")))?;
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| failed("printed something that is not text".into()))
}

/// Refuses a file that others can read.
///
/// # Errors
///
/// [`Kind::Denied`] for such a one, [`Kind::Unauthenticated`] for one that is not there.
pub(crate) fn private(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path)
            .map_err(|e| Error::new(Kind::Unauthenticated, format!("{}: {e}", shown(path))))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(
                Kind::Denied,
                format!("others can read or write {}", shown(path)),
            )
            .with_hint(format!("chmod 600 {}", shown(path))));
        }
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_itself_is_refused_and_not_repeated() {
        for text in ["hlm_canary", "canary:x", "env:", "cmd: ", "file:canary"] {
            let e = SecretRef::parse(text).unwrap_err();
            assert!(!format!("{e} {e:?}").contains("canary"), "{e:?}");
        }
        assert_eq!(
            SecretRef::parse("keyring:x").unwrap_err().kind(),
            Kind::Unsupported
        );
    }

    #[test]
    fn references_give_the_first_line() {
        let cmd = SecretRef::parse("cmd:printf 'one\\ntwo\\n'").unwrap();
        assert_eq!(cmd.read().unwrap().expose(), "one");
        assert_eq!(
            SecretRef::parse("cmd:exit 3")
                .unwrap()
                .read()
                .unwrap_err()
                .kind(),
            Kind::Unauthenticated
        );
        assert!(SecretRef::parse("cmd:true").unwrap().read().is_err());
        let unset = SecretRef::parse("env:BOXRIG_TEST_NOT_SET").unwrap();
        assert!(
            unset
                .read()
                .unwrap_err()
                .to_string()
                .contains("BOXRIG_TEST_NOT_SET")
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "canary\n").unwrap();
        let reference = SecretRef::parse(&format!("file:{}", file.path().display())).unwrap();
        assert_eq!(reference.read().unwrap().expose(), "canary");
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o640)).unwrap();
        let e = reference.read().unwrap_err();
        assert_eq!(e.kind(), Kind::Denied);
        assert!(!e.to_string().contains("canary"));
    }
}
