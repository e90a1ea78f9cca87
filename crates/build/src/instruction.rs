//! What the instructions say, and the stages they make.

use crate::error::{BuildError, Cause, Result};
use crate::expand::words;
use crate::lines::{Document, Raw, split};

/// A command, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Given to the shell.
    Shell(String),
    /// Run as it is.
    Exec(Vec<String>),
}

/// Files to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// `ADD`: archives are unpacked.
    pub(crate) add: bool,
    /// Another stage or image, instead of the context.
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) sources: Vec<String>,
    pub(crate) target: String,
    /// Sources that are here-documents.
    pub(crate) documents: Vec<Document>,
}

/// An instruction within a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    Run {
        command: Command,
        /// `--network=none`.
        no_network: bool,
        documents: Vec<Document>,
    },
    Copy(Box<Copy>),
    Env(Vec<(String, String)>),
    Arg(Vec<(String, Option<String>)>),
    Label(Vec<(String, String)>),
    Workdir(String),
    User(String),
    Cmd(Command),
    Entrypoint(Command),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Shell(Vec<String>),
    /// `None` takes an inherited one away.
    Healthcheck(Option<String>),
}

/// An instruction with its place and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: u32,
    /// As it was written, in one line.
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

/// A stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) line: u32,
    /// What it starts from, with variables not yet replaced.
    pub(crate) from: String,
    pub(crate) platform: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dockerfile {
    pub(crate) escape: char,
    /// Arguments before the first stage, with their lines.
    pub(crate) args: Vec<(u32, String, Option<String>)>,
    pub(crate) stages: Vec<Stage>,
}

/// Reads a Dockerfile.
pub(crate) fn parse(text: &str) -> Result<Dockerfile> {
    let lines = split(text)?;
    let mut file = Dockerfile {
        escape: lines.escape,
        args: Vec::new(),
        stages: Vec::new(),
    };
    for raw in lines.instructions {
        let line = raw.line;
        file.take(raw).map_err(|e| e.at(line))?;
    }
    if file.stages.is_empty() {
        return Err(BuildError::dockerfile("the Dockerfile has no FROM"));
    }
    Ok(file)
}

impl Dockerfile {
    fn take(&mut self, raw: Raw) -> Result<()> {
        if raw.name == "FROM" {
            let stage = from(&raw)?;
            let known = |s: &Stage| s.name.is_some() && s.name == stage.name;
            if self.stages.iter().any(known) {
                let words = format!(
                    "there are two stages named {}",
                    stage.name.unwrap_or_default()
                );
                return Err(BuildError::dockerfile(words));
            }
            self.stages.push(stage);
            return Ok(());
        }
        let line = raw.line;
        let text = format!("{} {}", raw.name, raw.text);
        let instruction = instruction(raw, self.escape)?;
        match (self.stages.last_mut(), instruction) {
            (Some(stage), instruction) => stage.steps.push(Step {
                line,
                text,
                instruction,
            }),
            (None, Instruction::Arg(args)) => {
                self.args
                    .extend(args.into_iter().map(|(name, value)| (line, name, value)));
            }
            (None, _) => {
                let words = "before the first FROM, only ARG is possible";
                return Err(BuildError::dockerfile(words));
            }
        }
        Ok(())
    }

    /// The stage of a name or number, among the first `before`.
    pub(crate) fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let earlier = &self.stages[..before.min(self.stages.len())];
        let named = earlier.iter().position(|s| {
            s.name
                .as_deref()
                .is_some_and(|n| n.eq_ignore_ascii_case(name))
        });
        named.or_else(|| name.parse().ok().filter(|n| *n < earlier.len()))
    }

    /// The stage to build: the last one, or the one of this name.
    pub(crate) fn target(&self, name: Option<&str>) -> Result<usize> {
        match name {
            None => Ok(self.stages.len() - 1),
            Some(name) => self.stage(name, self.stages.len()).ok_or_else(|| {
                BuildError::new(Cause::Dockerfile, format!("there is no stage {name:?}"))
            }),
        }
    }
}

/// The flags at the beginning, and the rest.
fn flags(text: &str) -> (Vec<(&str, Option<&str>)>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let end = flag
            .find(|c: char| c.is_ascii_whitespace())
            .unwrap_or(flag.len());
        let (name, value) = match flag[..end].split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&flag[..end], None),
        };
        found.push((name, value));
        rest = flag[end..].trim_start();
    }
    (found, rest)
}

fn unknown_flag(instruction: &str, flag: &str) -> BuildError {
    BuildError::dockerfile(format!(
        "{instruction} --{flag}: this builder does not know it"
    ))
}

fn needs(name: &str, what: &str) -> BuildError {
    BuildError::dockerfile(format!("{name} needs {what}"))
}

fn from(raw: &Raw) -> Result<Stage> {
    let (flags, rest) = flags(&raw.text);
    let mut platform = None;
    for (flag, value) in flags {
        match (flag, value) {
            ("platform", Some(value)) => platform = Some(value.to_owned()),
            (flag, _) => return Err(unknown_flag("FROM", flag)),
        }
    }
    let parts: Vec<&str> = rest.split_ascii_whitespace().collect();
    let (from, name) = match parts[..] {
        [from] => (from, None),
        [from, word, name] if word.eq_ignore_ascii_case("as") => (from, Some(name)),
        _ => {
            return Err(needs(
                "FROM",
                "an image, and AS with a name if it is to have one",
            ));
        }
    };
    if let Some(name) = name {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if !first || !name.bytes().all(good) {
            let words =
                format!("{name:?} is no name of a stage: a letter, then letters, digits and -_.");
            return Err(BuildError::dockerfile(words));
        }
    }
    Ok(Stage {
        line: raw.line,
        from: from.to_owned(),
        platform,
        name: name.map(str::to_ascii_lowercase),
        steps: Vec::new(),
    })
}

fn instruction(raw: Raw, escape: char) -> Result<Instruction> {
    let name = raw.name.as_str();
    let text = raw.text.as_str();
    if text.is_empty() {
        return Err(needs(name, "something after it"));
    }
    Ok(match name {
        "RUN" => run(text, raw.documents)?,
        "COPY" | "ADD" => Instruction::Copy(Box::new(copy(name, text, raw.documents)?)),
        "ENV" => Instruction::Env(pairs(name, text, escape)?),
        "LABEL" => Instruction::Label(pairs(name, text, escape)?),
        "MAINTAINER" => Instruction::Label(vec![(
            "maintainer".into(),
            format!("\"{}\"", text.replace('"', "")),
        )]),
        "ARG" => {
            let words = words(text, escape)?;
            let split = |word: String| match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let args: Vec<_> = words.into_iter().map(split).collect();
            for (arg, _) in &args {
                variable_name(name, arg)?;
            }
            Instruction::Arg(args)
        }
        "WORKDIR" => Instruction::Workdir(text.to_owned()),
        "USER" => Instruction::User(text.to_owned()),
        "CMD" => Instruction::Cmd(command(text)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(text)),
        "EXPOSE" => Instruction::Expose(words(text, escape)?),
        "VOLUME" => Instruction::Volume(match exec_form(text) {
            Some(list) => list,
            None => words(text, escape)?,
        }),
        "STOPSIGNAL" => Instruction::StopSignal(text.to_owned()),
        "SHELL" => match exec_form(text) {
            Some(shell) if !shell.is_empty() => Instruction::Shell(shell),
            _ => return Err(needs(name, "a list such as [\"/bin/sh\", \"-c\"]")),
        },
        "HEALTHCHECK" if text.eq_ignore_ascii_case("none") => Instruction::Healthcheck(None),
        "HEALTHCHECK" => Instruction::Healthcheck(Some(text.to_owned())),
        "ONBUILD" => {
            let words = "ONBUILD is not done by this builder: write the instruction where it is meant to run";
            return Err(BuildError::dockerfile(words));
        }
        other => {
            let words = format!("{other:?} is no instruction");
            return Err(BuildError::dockerfile(words));
        }
    })
}

fn run(text: &str, documents: Vec<Document>) -> Result<Instruction> {
    let (flags, rest) = flags(text);
    let mut no_network = false;
    for (flag, value) in flags {
        match (flag, value) {
            ("network", Some("none")) => no_network = true,
            ("network", Some("default")) => {}
            ("network", _) => {
                let words = "RUN --network: none and default are possible";
                return Err(BuildError::dockerfile(words));
            }
            ("mount", _) => {
                let words = "RUN --mount is not done by this builder: COPY the files, or fetch them in the RUN";
                return Err(BuildError::dockerfile(words));
            }
            (flag, _) => return Err(unknown_flag("RUN", flag)),
        }
    }
    if rest.is_empty() {
        return Err(needs("RUN", "a command"));
    }
    let command = command(rest);
    if command == Command::Exec(Vec::new()) {
        return Err(needs("RUN", "a command"));
    }
    Ok(Instruction::Run {
        command,
        no_network,
        documents,
    })
}

fn copy(name: &str, text: &str, documents: Vec<Document>) -> Result<Copy> {
    let (flags, rest) = flags(text);
    let mut copy = Copy {
        add: name == "ADD",
        from: None,
        chown: None,
        chmod: None,
        sources: Vec::new(),
        target: String::new(),
        documents,
    };
    for (flag, value) in flags {
        let value = value.map(str::to_owned);
        match (flag, value) {
            ("from", Some(value)) if !copy.add => copy.from = Some(value),
            ("chown", Some(value)) => copy.chown = Some(value),
            ("chmod", Some(value)) => copy.chmod = Some(value),
            // A layer of its own is what every COPY makes here.
            ("link", None) => {}
            (flag, _) => return Err(unknown_flag(name, flag)),
        }
    }
    let mut parts = match exec_form(rest) {
        Some(list) => list,
        None => rest.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    copy.target = parts.pop().unwrap_or_default();
    copy.sources = parts
        .into_iter()
        .filter(|part| !copy.documents.iter().any(|d| d.announced == *part))
        .collect();
    if copy.target.is_empty() || (copy.sources.is_empty() && copy.documents.is_empty()) {
        return Err(needs(name, "at least one source and a target"));
    }
    if copy.from.is_some() && !copy.documents.is_empty() {
        let words = "COPY --from copies files of a stage, not here-documents";
        return Err(BuildError::dockerfile(words));
    }
    if let Some(url) = copy
        .sources
        .iter()
        .find(|s| s.contains("://") || s.starts_with("git@"))
    {
        let words = format!(
            "{name} {url}: nothing is fetched by this builder; put the file into the context, or fetch it in a RUN"
        );
        return Err(BuildError::dockerfile(words));
    }
    Ok(copy)
}

/// A list in JSON's form, when the text is one.
fn exec_form(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn command(text: &str) -> Command {
    match exec_form(text) {
        Some(argv) => Command::Exec(argv),
        None => Command::Shell(text.to_owned()),
    }
}

fn variable_name(instruction: &str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    if !first || !name.chars().all(good) {
        let words = format!(
            "{instruction} {name:?}: names are letters, digits and _, and begin with no digit"
        );
        return Err(BuildError::dockerfile(words));
    }
    Ok(())
}

/// `name=value …`, or the old form `name the rest`.
fn pairs(name: &str, text: &str, escape: char) -> Result<Vec<(String, String)>> {
    let words = words(text, escape)?;
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        let Some((key, value)) = text.split_once(|c: char| c.is_ascii_whitespace()) else {
            return Err(needs(name, "name=value"));
        };
        return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
    }
    let pairs: Vec<_> = words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(needs(name, &format!("name=value, and {word:?} is not"))),
        })
        .collect::<Result<_>>()?;
    if name == "ENV" {
        for (key, _) in &pairs {
            if key.contains('\0') {
                return Err(needs(name, "names without NUL"));
            }
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Instruction> {
        let file = parse(&format!("FROM x\n{text}"))?;
        Ok(file.stages[0].steps[0].instruction.clone())
    }

    #[test]
    fn stages_and_arguments() {
        let text =
            "ARG A=1 B\nFROM --platform=linux/amd64 x AS Build\nRUN make\nfrom build as two\nCMD a";
        let file = parse(text).unwrap();
        assert_eq!(file.args.len(), 2);
        assert_eq!(file.stages[0].name.as_deref(), Some("build"));
        assert_eq!(file.stages[1].from, "build");
        assert_eq!(file.stage("BUILD", 1), Some(0));
        assert_eq!(file.stage("build", 0), None);
        assert_eq!(file.stage("1", 2), Some(1));
        assert_eq!(file.target(None).unwrap(), 1);
        assert_eq!(file.target(Some("build")).unwrap(), 0);
        assert!(file.target(Some("three")).is_err());
    }

    #[test]
    fn both_forms_of_commands() {
        let exec = Command::Exec(vec!["a".into(), "b c".into()]);
        assert_eq!(one("CMD [\"a\", \"b c\"]").unwrap(), Instruction::Cmd(exec));
        let shell = Command::Shell("[ -e x ] && y".into());
        assert_eq!(
            one("ENTRYPOINT [ -e x ] && y").unwrap(),
            Instruction::Entrypoint(shell)
        );
    }

    #[test]
    fn copies() {
        let Instruction::Copy(copy) =
            one("COPY --from=b --chown=1:2 --chmod=755 a b* /c/").unwrap()
        else {
            panic!("a copy");
        };
        assert_eq!(copy.from.as_deref(), Some("b"));
        assert_eq!(copy.chown.as_deref(), Some("1:2"));
        assert_eq!(copy.chmod.as_deref(), Some("755"));
        assert_eq!(copy.sources, ["a", "b*"]);
        assert_eq!(copy.target, "/c/");
        let Instruction::Copy(copy) = one("ADD [\"a b\", \"c\"]").unwrap() else {
            panic!("a copy");
        };
        assert!(copy.add);
        assert_eq!(copy.sources, ["a b"]);
    }

    #[test]
    fn pairs_in_both_forms() {
        let env = |text| match one(text).unwrap() {
            Instruction::Env(pairs) => pairs,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            env("ENV a=1 b='x y'"),
            [("a".into(), "1".into()), ("b".into(), "'x y'".into())]
        );
        assert_eq!(env("ENV a 1 2"), [("a".into(), "1 2".into())]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_line() {
        let cases = [
            ("ONBUILD RUN x", "ONBUILD"),
            ("ADD https://example.com/x /x", "fetched"),
            ("RUN --mount=type=cache,target=/x y", "--mount"),
            ("RUN --network=host y", "--network"),
            ("RUN []", "command"),
            ("COPY a", "source"),
            ("COPY --exclude=x a b", "--exclude"),
            ("ADD --from=x a b", "--from"),
            ("SHELL sh", "list"),
            ("ENV a", "name=value"),
            ("ENV a=1 b", "name=value"),
            ("ARG 1a=2", "names"),
            ("NOTHING x", "no instruction"),
            ("RUN", "something"),
            ("FROM a b", "FROM"),
            ("FROM x AS 1a", "name of a stage"),
        ];
        for (text, word) in cases {
            let error = one(text).unwrap_err();
            assert_eq!(
                (error.line, error.cause),
                (Some(2), Cause::Dockerfile),
                "{text}"
            );
            assert!(error.message.contains(word), "{text}: {error}");
        }
        assert!(parse("").unwrap_err().message.contains("FROM"));
        assert_eq!(parse("RUN x\nFROM y").unwrap_err().line, Some(1));
        assert!(parse("FROM a AS x\nFROM b AS X").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            lines in proptest::collection::vec("(FROM|RUN|COPY|ENV|ARG|CMD|LABEL|ADD) [a-z=\\[\\]\" $<-]{0,16}", 0..8)
        ) {
            let _ = parse(&lines.join("\n"));
        }
    }
}
