//! A Dockerfile as instructions: comments, continued lines and here-documents are dealt with here.

use crate::error::{BuildError, Result};

/// Longest Dockerfile, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Most instructions of one.
const MAX_INSTRUCTIONS: usize = 2_000;

/// One instruction with its text in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    /// The line it begins at.
    pub(crate) line: u32,
    /// Its name in upper case.
    pub(crate) name: String,
    /// What follows the name.
    pub(crate) text: String,
    /// Here-documents, in the order they are announced.
    pub(crate) documents: Vec<Document>,
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// The word that ends it.
    pub(crate) name: String,
    /// Its content.
    pub(crate) content: String,
    /// Whether variables in it are replaced (the word was not quoted).
    pub(crate) expand: bool,
    /// As it was announced, for the shell: `<<-"EOF"`.
    pub(crate) announced: String,
    /// The whole of it with its last line, for the shell.
    pub(crate) raw: String,
}

/// A Dockerfile's instructions and its escape character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) escape: char,
    pub(crate) instructions: Vec<Raw>,
}

/// Splits a Dockerfile.
pub(crate) fn split(text: &str) -> Result<Lines> {
    if text.len() > MAX_BYTES {
        let words = format!("the Dockerfile is larger than {MAX_BYTES} bytes");
        return Err(BuildError::dockerfile(words));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let escape = directives(&lines)?;
    let mut out = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if is_blank(lines[at]) || is_comment(lines[at]) {
            at += 1;
            continue;
        }
        let first = at;
        let text = whole(&lines, &mut at, escape);
        let text = text.trim();
        let line = u32::try_from(first + 1).unwrap_or(u32::MAX);
        let (name, rest) = text
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((text, ""));
        let mut raw = Raw {
            line,
            name: name.to_ascii_uppercase(),
            text: rest.trim().to_owned(),
            documents: Vec::new(),
        };
        if matches!(raw.name.as_str(), "RUN" | "COPY" | "ADD") {
            raw.documents = documents(&raw.text, &lines, &mut at).map_err(|e| e.at(line))?;
        }
        out.push(raw);
        if out.len() > MAX_INSTRUCTIONS {
            let words = format!("more than {MAX_INSTRUCTIONS} instructions");
            return Err(BuildError::dockerfile(words).at(line));
        }
    }
    Ok(Lines {
        escape,
        instructions: out,
    })
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The directives at the top: comments of the form `# name=value` before anything else.
fn directives(lines: &[&str]) -> Result<char> {
    let mut escape = None;
    for (index, line) in lines.iter().enumerate() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        let name = name.trim().to_ascii_lowercase();
        if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            break;
        }
        let at = u32::try_from(index + 1).unwrap_or(u32::MAX);
        if name == "escape" {
            if escape.is_some() {
                return Err(BuildError::dockerfile("a second escape directive").at(at));
            }
            escape = match value.trim() {
                "\\" => Some('\\'),
                "`" => Some('`'),
                other => {
                    let words = format!("escape={other:?}: \\ and ` are possible");
                    return Err(BuildError::dockerfile(words).at(at));
                }
            };
        }
    }
    Ok(escape.unwrap_or('\\'))
}

/// One instruction's lines as one; `at` ends behind them.
fn whole(lines: &[&str], at: &mut usize, escape: char) -> String {
    let mut text = String::new();
    while let Some(line) = lines.get(*at) {
        *at += 1;
        // Comments and empty lines in the middle belong to nobody.
        if !text.is_empty() && (is_comment(line) || is_blank(line)) {
            continue;
        }
        match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(part) => text.push_str(part),
            None => {
                text.push_str(line);
                break;
            }
        }
    }
    text
}

/// The here-documents that `text` announces, read from the lines that follow.
fn documents(text: &str, lines: &[&str], at: &mut usize) -> Result<Vec<Document>> {
    let mut found = Vec::new();
    for word in text.split_ascii_whitespace() {
        // `3<<EOF` is the shell's; `<<<` is no here-document.
        let start = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let Some(rest) = start.strip_prefix("<<").filter(|r| !r.starts_with('<')) else {
            continue;
        };
        let (strip, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let quoted = ['"', '\''].iter().find_map(|q| {
            let inner = rest.strip_prefix(*q)?.strip_suffix(*q)?;
            Some(inner)
        });
        let name = quoted.unwrap_or(rest);
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-';
        if name.is_empty() || !name.bytes().all(good) {
            continue;
        }
        let (mut content, mut raw) = (String::new(), String::new());
        let mut ended = false;
        while let Some(line) = lines.get(*at) {
            *at += 1;
            raw.push_str(line);
            raw.push('\n');
            let shown = if strip {
                line.trim_start_matches('\t')
            } else {
                line
            };
            if shown == name {
                ended = true;
                break;
            }
            content.push_str(shown);
            content.push('\n');
        }
        if !ended {
            let words = format!("the here-document {name} has no end");
            return Err(BuildError::dockerfile(words));
        }
        found.push(Document {
            name: name.to_owned(),
            content,
            expand: quoted.is_none(),
            announced: word.to_owned(),
            raw,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instructions(text: &str) -> Vec<(u32, String, String)> {
        let lines = split(text).unwrap();
        let all = lines.instructions.into_iter();
        all.map(|raw| (raw.line, raw.name, raw.text)).collect()
    }

    #[test]
    fn lines_are_continued_and_comments_left_out() {
        let text = "# a comment\n\nfrom base\nRUN one \\\n  # inside\n\n  && two\\  \n && three\n  # last\nCMD x";
        assert_eq!(
            instructions(text),
            [
                (3, "FROM".into(), "base".into()),
                (4, "RUN".into(), "one   && two && three".into()),
                (10, "CMD".into(), "x".into()),
            ]
        );
    }

    #[test]
    fn the_escape_character_can_be_another() {
        let text = "# escape=`\n# syntax=docker/dockerfile:1\nRUN a `\n b\nCOPY c:\\ \\x\\";
        let lines = split(text).unwrap();
        assert_eq!(lines.escape, '`');
        assert_eq!(lines.instructions[0].text, "a  b");
        assert_eq!(lines.instructions[1].text, "c:\\ \\x\\");
        // Only at the top.
        assert_eq!(split("FROM a\n# escape=`\n").unwrap().escape, '\\');
        assert_eq!(split("# escape=x\nFROM a").unwrap_err().line, Some(1));
    }

    #[test]
    fn here_documents() {
        let text = "COPY <<one <<-\"two\" /x/\na $b\none\n\t\tc\n\ttwo\nRUN cat <<<word\nRUN <<EOF\nno end";
        let error = split(text).unwrap_err();
        assert_eq!(error.line, Some(7));
        let text = text.replace("no end", "x\nEOF");
        let lines = split(&text).unwrap();
        let documents = &lines.instructions[0].documents;
        assert_eq!(documents[0].content, "a $b\n");
        assert!(documents[0].expand && !documents[1].expand);
        assert_eq!(documents[1].content, "c\n");
        assert!(lines.instructions[1].documents.is_empty());
        assert_eq!(lines.instructions[2].documents[0].content, "x\n");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = split(&text);
        }
        #[test]
        fn any_lines_are_read_or_refused(
            lines in proptest::collection::vec("(RUN|COPY|#|FROM)?[ <a\\\\-]{0,12}", 0..12)
        ) {
            let _ = split(&lines.join("\n"));
        }
    }
}
