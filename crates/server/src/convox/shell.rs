//! Command lines as a shell splits them into words, without running any.

/// Splits a text into words: quotes and backslashes as in a POSIX shell, nothing else is special.
///
/// # Errors
///
/// Names the quote that is not closed, in the words of the rack's library.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("Unterminated single-quoted string".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('$' | '`' | '"' | '\\')) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("Unterminated double-quoted string".into()),
                        },
                        Some(c) => word.push(c),
                        None => return Err("Unterminated double-quoted string".into()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("Unterminated backslash-escape".into()),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Words as one text that [`split`] reads back.
pub(super) fn join(words: &[String]) -> String {
    let plain = |w: &str| {
        !w.is_empty()
            && w.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c))
    };
    let quoted: Vec<String> = words
        .iter()
        .map(|w| match plain(w) {
            true => w.clone(),
            false => format!("'{}'", w.replace('\'', "'\\''")),
        })
        .collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_and_joined() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("  a  b ", &["a", "b"]),
            ("sh -c 'exit 7'", &["sh", "-c", "exit 7"]),
            (r#"a"b c"d"#, &["ab cd"]),
            (r#""\$x\y""#, &[r"$x\y"]),
            (r"a\ b ''", &["a b", ""]),
            ("a && b", &["a", "&&", "b"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for bad in ["'a", "\"a", "a\\"] {
            assert!(split(bad).is_err(), "{bad}");
        }
        let words: Vec<String> = ["", "a b", "it's", "plain", "$x"].map(String::from).into();
        assert_eq!(split(&join(&words)).unwrap(), words);
    }
}
