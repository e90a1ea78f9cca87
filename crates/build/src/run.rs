//! RUN: a command in an instance, and its output.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use boxrig_engine::{ExecSpec, ExitStatus, ImageConfig, InstanceId, Kind};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::build::{Stream, Work};
use crate::error::{BuildError, Cause, Result};
use crate::instruction::Command;
use crate::lines::Document;

/// Longest line of a command's output that is passed on in one piece, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// How long the output of a command that has ended is silent before it counts as over.
const QUIET: Duration = Duration::from_millis(200);

impl Work<'_> {
    /// Runs a command to its end.
    pub(crate) async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<()> {
        let failed = |words: String| BuildError::new(Cause::Command, words);
        let exec = self.engine.exec(id, spec.clone()).await;
        let mut exec = exec.map_err(|e| match e.kind() {
            Kind::CommandNotFound | Kind::CannotExecute | Kind::Invalid => failed(e.to_string()),
            _ => e.into(),
        })?;
        drop(exec.stdin.take());
        let stderr = exec.stderr.take();
        // What a command left in the background keeps the streams open; it ends with the instance, and is not waited for.
        let ended = AtomicBool::new(false);
        let errors = async {
            if let Some(stderr) = stderr {
                self.pass_on(Stream::Err, stderr, &ended).await;
            }
        };
        let output = self.pass_on(Stream::Out, &mut exec.stdout, &ended);
        let wait = async {
            let status = exec.control.wait().await;
            ended.store(true, Ordering::Release);
            status
        };
        let (status, (), ()) = tokio::join!(wait, output, errors);
        let status = status?;
        match status {
            ExitStatus::Code(0) => Ok(()),
            ExitStatus::Code(code) => {
                Err(failed(format!("the command ended with exit code {code}")))
            }
            ExitStatus::Signal(signal) => {
                Err(failed(format!("the command was ended by signal {signal}")))
            }
        }
    }

    /// A command's output, line by line; very long lines in pieces.
    async fn pass_on(&self, stream: Stream, source: impl AsyncRead + Unpin, ended: &AtomicBool) {
        let mut source = BufReader::with_capacity(64 * 1024, source);
        let mut line = Vec::new();
        loop {
            let over = ended.load(Ordering::Acquire);
            let bytes = match tokio::time::timeout(QUIET, source.fill_buf()).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(_)) => break,
                // Ended before this silence began.
                Err(_) if over => break,
                Err(_) => continue,
            };
            if bytes.is_empty() {
                break;
            }
            let room = MAX_LINE - line.len();
            let newline = bytes.iter().position(|b| *b == b'\n');
            let take = newline.map_or(bytes.len(), |n| n + 1).min(room);
            line.extend_from_slice(&bytes[..take]);
            source.consume(take);
            let ended = line.last() == Some(&b'\n');
            if ended || line.len() == MAX_LINE {
                self.say(stream, text_of(&line)).await;
                line.clear();
            }
        }
        if !line.is_empty() {
            self.say(stream, text_of(&line)).await;
        }
    }
}

fn text_of(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

/// A text as the image's shell gets it.
pub(crate) fn shell(config: &ImageConfig, text: &str) -> Vec<String> {
    let mut argv = match &config.shell {
        Some(shell) => shell.clone(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned()],
    };
    argv.push(text.to_owned());
    argv
}

/// A command as it is kept.
pub(crate) fn argv(config: &ImageConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(argv) => argv.clone(),
        Command::Shell(text) => shell(config, text),
    }
}

/// A RUN's text with its here-documents, as the shell reads it. One that is nothing but a document is the script itself.
pub(crate) fn script(text: &str, documents: &[Document]) -> Result<String> {
    if let [only] = documents
        && text.trim() == only.announced
    {
        if only.content.starts_with("#!") {
            let words =
                "a here-document with an interpreter of its own: COPY it as a file and RUN that";
            return Err(BuildError::dockerfile(words));
        }
        return Ok(only.content.clone());
    }
    let mut out = text.to_owned();
    for document in documents {
        out.push('\n');
        out.push_str(&document.raw);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruction::Instruction;

    #[test]
    fn scripts_of_here_documents() {
        let file = crate::instruction::parse(
            "FROM x\nRUN <<EOF\na\nb\nEOF\nRUN cat <<EOF | sh\nc\nEOF\nRUN <<EOF\n#!/x\nEOF",
        )
        .unwrap();
        let scripts: Vec<_> = file.stages[0]
            .steps
            .iter()
            .map(|step| match &step.instruction {
                Instruction::Run {
                    command: Command::Shell(text),
                    documents,
                    ..
                } => script(text, documents),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(scripts[0].as_deref(), Ok("a\nb\n"));
        assert_eq!(scripts[1].as_deref(), Ok("cat <<EOF | sh\nc\nEOF\n"));
        assert!(scripts[2].is_err());
    }
}
