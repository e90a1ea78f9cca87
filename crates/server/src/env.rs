//! The environment that lets vendors' programs find the server.

use std::fmt::Write;

use boxrig_wire::Secret;
use serde::{Deserialize, Serialize};

/// Variables in their order. Values are secrets: some are, and `Debug` shows none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Env(Vec<(String, Secret)>);

/// How variables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvFormat {
    /// `export K='v'`.
    Sh,
    /// `set -gx K 'v'`.
    Fish,
    /// `K=v`, quoted where needed.
    Dotenv,
    /// One object.
    Json,
}

impl std::str::FromStr for EnvFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sh" => Ok(Self::Sh),
            "fish" => Ok(Self::Fish),
            "dotenv" => Ok(Self::Dotenv),
            "json" => Ok(Self::Json),
            other => Err(format!("format {other:?}: sh, fish, dotenv or json")),
        }
    }
}

impl Env {
    /// Adds a variable.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Secret>) {
        self.0.push((name.into(), value.into()));
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        Some(value.expose())
    }

    /// All variables, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.expose()))
    }

    /// The text for a shell or a file, with a line break at its end.
    pub fn render(&self, format: EnvFormat) -> String {
        if format == EnvFormat::Json {
            let object: serde_json::Map<String, serde_json::Value> =
                self.iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
            return format!("{:#}\n", serde_json::Value::Object(object));
        }
        let mut out = String::new();
        for (name, value) in self.iter() {
            // Writing to a string cannot fail.
            let _ = match format {
                EnvFormat::Sh => writeln!(out, "export {name}='{}'", value.replace('\'', r"'\''")),
                EnvFormat::Fish => {
                    let value = value.replace('\\', r"\\").replace('\'', r"\'");
                    writeln!(out, "set -gx {name} '{value}'")
                }
                EnvFormat::Dotenv | EnvFormat::Json => {
                    writeln!(out, "{name}={}", dotenv_value(value))
                }
            };
        }
        out
    }
}

/// Plain where every reader of such files agrees on it, else in double quotes.
fn dotenv_value(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' | '`' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        let mut env = Env::default();
        env.push("URL", "http://127.0.0.1:1");
        env.push("KEY", "it's $a \"key\"");
        env
    }

    #[test]
    fn every_format_quotes() {
        assert_eq!(
            env().render(EnvFormat::Dotenv),
            "URL=http://127.0.0.1:1\nKEY=\"it's \\$a \\\"key\\\"\"\n"
        );
        assert_eq!(
            env().render(EnvFormat::Fish),
            "set -gx URL 'http://127.0.0.1:1'\nset -gx KEY 'it\\'s $a \"key\"'\n"
        );
        let json: serde_json::Value = serde_json::from_str(&env().render(EnvFormat::Json)).unwrap();
        assert_eq!(json["KEY"], "it's $a \"key\"");
        assert!(!format!("{:?}", env()).contains("key\""));
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_sh_and_dotenv() {
        for format in [EnvFormat::Sh, EnvFormat::Dotenv] {
            let script = format!("{}\nprintf %s \"$KEY\"", env().render(format));
            let out = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(out.stdout, b"it's $a \"key\"", "{format:?}");
        }
    }
}
