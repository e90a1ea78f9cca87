//! Names and documentation in Rust's form.

/// `instance_exec_post` → `InstanceExecPost`; letters after a digit or dash start a word.
pub(crate) fn camel(text: &str) -> String {
    let mut out = String::new();
    let mut upper = true;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            if upper {
                out.extend(c.to_uppercase());
            } else {
                out.push(c);
            }
            upper = false;
        } else {
            upper = true;
        }
    }
    out
}

/// `wait-for-websocket`, `poolName`, `X-Incus-uid` → a field name.
pub(crate) fn snake(text: &str) -> String {
    let mut out = String::new();
    let mut last = '_';
    for c in text.chars() {
        match c {
            c if c.is_ascii_uppercase() => {
                if last.is_ascii_lowercase() || last.is_ascii_digit() {
                    out.push('_');
                }
                out.push(c.to_ascii_lowercase());
            }
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ => {
                if !out.ends_with('_') {
                    out.push('_');
                }
            }
        }
        last = c;
    }
    match out.as_str() {
        "type" | "match" | "pub" | "move" | "use" | "ref" | "where" | "in" | "override"
        | "virtual" | "abstract" | "macro" => format!("r#{out}"),
        _ => out,
    }
}

/// Text as doc comments.
pub(crate) fn docs(text: &str, indent: &str) -> String {
    let text = text.trim();
    let mut out = String::new();
    let mut in_list = false;
    for line in text.lines() {
        let line = line.trim_end();
        // Links and brackets of the source are prose, not rustdoc's.
        let mut line = line
            .replace('[', "\\[")
            .replace(']', "\\]")
            .replace('<', "\\<")
            .replace('>', "\\>");
        if line.contains("http://") || line.contains("https://") {
            line = line
                .split(' ')
                .map(|w| {
                    if w.starts_with("http") {
                        format!("`{w}`")
                    } else {
                        w.to_owned()
                    }
                })
                .collect::<Vec<_>>()
                .join(" ");
        }
        in_list |= line.trim_start().starts_with("- ");
        let line = line.trim_start();
        // A list's paragraphs are set apart, or the next prose line reads as part of the list.
        if in_list && !line.starts_with("- ") && !line.is_empty() {
            in_list = false;
            out.push_str(&format!("{indent}///\n"));
        }
        let space = if line.is_empty() { "" } else { " " };
        out.push_str(&format!("{indent}///{space}{line}\n"));
    }
    out
}
