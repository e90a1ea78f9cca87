//! Path templates: one type renders and matches, and the two are inverses.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything outside RFC 3986 "unreserved" is encoded in a captured segment, so a value can
/// never end its segment, start a query or be read as a dot segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path of an operation, such as `/1.0/instances/{name}/exec`.
///
/// Grammar of one segment (the text between two slashes):
///
/// * `text`: a literal;
/// * `{name}`: captures the whole segment; a `/` in the value travels as `%2F`;
/// * `pre{name}suf`: captures the middle, as in `{id}.tgz`;
/// * `{name*}`: only as the last segment, captures the rest, slashes included.
///
/// ```
/// use boxrig_wire::PathTemplate;
/// const T: PathTemplate = PathTemplate::new("/apps/{app}/builds/{id}.tgz");
/// assert_eq!(T.render(&["my app", "B1"]).unwrap(), "/apps/my%20app/builds/B1.tgz");
/// assert_eq!(T.matches("/apps/my%20app/builds/B1.tgz").unwrap(), ["my app", "B1"]);
/// assert!(T.matches("/apps/a/b/builds/B1.tgz").is_none());
/// assert!(T.render(&["..", "B1"]).is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathTemplate(&'static str);

/// Why a value cannot be put into a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// The value is empty; it would address the parent collection.
    Empty {
        /// Name of the capture.
        name: String,
    },
    /// The value is `.` or `..`, which HTTP intermediaries resolve even when encoded.
    DotSegment {
        /// Name of the capture.
        name: String,
    },
    /// The number of values is not the number of captures.
    Count {
        /// Captures in the template.
        expected: usize,
        /// Values given.
        given: usize,
    },
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { name } => write!(f, "{name} is empty"),
            Self::DotSegment { name } => {
                write!(f, "{name} is \".\" or \"..\", which cannot be addressed")
            }
            Self::Count { expected, given } => {
                write!(f, "the path takes {expected} values, {given} were given")
            }
        }
    }
}

impl std::error::Error for PathError {}

/// One segment of a template.
#[derive(Clone, Copy)]
enum Segment {
    Literal(&'static str),
    Capture {
        prefix: &'static str,
        name: &'static str,
        suffix: &'static str,
    },
    Tail {
        name: &'static str,
    },
}

impl PathTemplate {
    /// Makes a template.
    ///
    /// # Panics
    ///
    /// At compile time (it is a `const fn` used in constants) when the text is not a template: it
    /// must start with `/` and braces must be paired, one pair a segment.
    pub const fn new(template: &'static str) -> Self {
        let bytes = template.as_bytes();
        assert!(
            !bytes.is_empty() && bytes[0] == b'/',
            "a path template starts with '/'"
        );
        let mut i = 0;
        let mut open = false;
        let mut captures_in_segment = 0;
        let mut tail = false;
        while i < bytes.len() {
            match bytes[i] {
                b'{' => {
                    assert!(!open, "nested brace in a path template");
                    assert!(captures_in_segment == 0, "two captures in one segment");
                    assert!(!tail, "a tail capture must come last");
                    open = true;
                    captures_in_segment += 1;
                }
                b'}' => {
                    assert!(open, "unpaired brace in a path template");
                    if bytes[i - 1] == b'*' {
                        tail = true;
                    }
                    open = false;
                }
                b'/' => {
                    assert!(!open, "'/' inside a capture");
                    assert!(!tail, "a tail capture must come last");
                    captures_in_segment = 0;
                }
                _ => {}
            }
            i += 1;
        }
        assert!(!open, "unpaired brace in a path template");
        Self(template)
    }

    /// The template as written.
    pub const fn as_str(&self) -> &'static str {
        self.0
    }

    fn segments(self) -> impl Iterator<Item = Segment> {
        self.0[1..].split('/').map(|text| {
            let Some((prefix, rest)) = text.split_once('{') else {
                return Segment::Literal(text);
            };
            let (name, suffix) = rest.split_once('}').unwrap_or((rest, ""));
            match name.strip_suffix('*') {
                Some(name) => Segment::Tail { name },
                None => Segment::Capture {
                    prefix,
                    name,
                    suffix,
                },
            }
        })
    }

    /// The names of the captures, in order.
    pub fn names(self) -> Vec<&'static str> {
        self.segments()
            .filter_map(|s| match s {
                Segment::Literal(_) => None,
                Segment::Capture { name, .. } | Segment::Tail { name } => Some(name),
            })
            .collect()
    }

    /// Writes the path with `values` in the captures, in order.
    ///
    /// # Errors
    ///
    /// When a value is empty, `.` or `..`, or the number of values is wrong. Any other value
    /// addresses exactly its segment (a tail: exactly its segments).
    pub fn render<S: AsRef<str>>(self, values: &[S]) -> Result<String, PathError> {
        let mut out = String::with_capacity(self.0.len() + 16);
        let mut given = values.iter();
        let expected = self.names().len();
        if expected != values.len() {
            return Err(PathError::Count {
                expected,
                given: values.len(),
            });
        }
        for segment in self.segments() {
            out.push('/');
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Capture {
                    prefix,
                    name,
                    suffix,
                } => {
                    let value = given.next().map_or("", AsRef::as_ref);
                    check(name, value, prefix.is_empty() && suffix.is_empty())?;
                    out.push_str(prefix);
                    out.extend(utf8_percent_encode(value, SEGMENT));
                    out.push_str(suffix);
                }
                Segment::Tail { name } => {
                    let value = given.next().map_or("", AsRef::as_ref);
                    for (i, part) in value.split('/').enumerate() {
                        check(name, part, true)?;
                        if i > 0 {
                            out.push('/');
                        }
                        out.extend(utf8_percent_encode(part, SEGMENT));
                    }
                }
            }
        }
        Ok(out)
    }

    /// The captured values, decoded, when `path` (raw, without query) fits the template.
    ///
    /// A path that decodes to something [`render`](Self::render) would refuse does not match.
    pub fn matches(self, path: &str) -> Option<Vec<String>> {
        let mut rest = path.strip_prefix('/')?.split('/');
        let mut out = Vec::new();
        for segment in self.segments() {
            match segment {
                Segment::Literal(text) => {
                    let part = rest.next()?;
                    // A literal may arrive percent-encoded; it stays the same resource.
                    if part != text && decode(part)? != text {
                        return None;
                    }
                }
                Segment::Capture {
                    prefix,
                    name,
                    suffix,
                } => {
                    let part = rest.next()?;
                    let middle = part.strip_prefix(prefix)?.strip_suffix(suffix)?;
                    let value = decode(middle)?;
                    check(name, &value, prefix.is_empty() && suffix.is_empty()).ok()?;
                    out.push(value.into_owned());
                }
                Segment::Tail { name } => {
                    let mut value = String::new();
                    for (i, part) in rest.by_ref().enumerate() {
                        let part = decode(part)?;
                        // An encoded slash inside a tail would be told apart from a plain one by
                        // nobody further on: refused, so that render and match stay inverses.
                        if part.contains('/') {
                            return None;
                        }
                        check(name, &part, true).ok()?;
                        if i > 0 {
                            value.push('/');
                        }
                        value.push_str(&part);
                    }
                    if value.is_empty() {
                        return None;
                    }
                    out.push(value);
                }
            }
        }
        rest.next().is_none().then_some(out)
    }

    /// How specific each segment is; routers try larger keys first, so that `/a/b` wins over
    /// `/a/{x}`, `{id}.tgz` over `{id}`, and a tail comes last.
    pub fn specificity(self) -> Vec<u8> {
        self.segments()
            .map(|s| match s {
                Segment::Literal(_) => 3,
                Segment::Capture { prefix, suffix, .. }
                    if !prefix.is_empty() || !suffix.is_empty() =>
                {
                    2
                }
                Segment::Capture { .. } => 1,
                Segment::Tail { .. } => 0,
            })
            .collect()
    }
}

impl fmt::Debug for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

fn check(name: &str, value: &str, whole: bool) -> Result<(), PathError> {
    if value.is_empty() {
        return Err(PathError::Empty {
            name: name.to_owned(),
        });
    }
    if whole && (value == "." || value == "..") {
        return Err(PathError::DotSegment {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

/// The values of an operation's path, in the order of its captures: a tuple of strings or of
/// types that are strings in the path (`()`, `(String,)`, `(String, u64)`, …).
pub trait PathValues: Sized + Send {
    /// The values as text.
    fn to_values(&self) -> Vec<String>;
    /// Reads the values back; `None` when one is not of its type.
    fn from_values(values: Vec<String>) -> Option<Self>;
}

impl PathValues for () {
    fn to_values(&self) -> Vec<String> {
        Vec::new()
    }
    fn from_values(values: Vec<String>) -> Option<Self> {
        values.is_empty().then_some(())
    }
}

macro_rules! tuple_values {
    ($($t:ident . $i:tt),+) => {
        impl<$($t),+> PathValues for ($($t,)+)
        where
            $($t: fmt::Display + std::str::FromStr + Send,)+
        {
            fn to_values(&self) -> Vec<String> {
                vec![$(self.$i.to_string()),+]
            }
            fn from_values(values: Vec<String>) -> Option<Self> {
                let mut values = values.into_iter();
                let out = ($(values.next()?.parse::<$t>().ok()?,)+);
                values.next().is_none().then_some(out)
            }
        }
    };
}
tuple_values!(A.0);
tuple_values!(A.0, B.1);
tuple_values!(A.0, B.1, C.2);
tuple_values!(A.0, B.1, C.2, D.3);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: PathTemplate = PathTemplate::new("/1.0/instances/{name}/files");
    const SUFFIX: PathTemplate = PathTemplate::new("/apps/{app}/builds/{id}.tgz");
    const TAIL: PathTemplate = PathTemplate::new("/apps/{app}/objects/{key*}");

    #[test]
    fn literals_and_captures() {
        assert_eq!(
            PLAIN.matches("/1.0/instances/a%2Fb/files"),
            Some(vec!["a/b".into()])
        );
        assert_eq!(PLAIN.matches("/1.0/instances//files"), None);
        assert_eq!(PLAIN.matches("/1.0/instances/%2e%2e/files"), None);
        assert_eq!(PLAIN.matches("/1.0/instances/a/files/"), None);
        assert_eq!(PLAIN.matches("1.0/instances/a/files"), None);
        assert_eq!(
            TAIL.matches("/apps/a/objects/x/y%20z"),
            Some(vec!["a".into(), "x/y z".into()])
        );
        assert_eq!(TAIL.matches("/apps/a/objects/x/../y"), None);
        assert_eq!(TAIL.matches("/apps/a/objects/"), None);
        assert_eq!(SUFFIX.names(), ["app", "id"]);
    }

    #[test]
    fn root_path() {
        const ROOT: PathTemplate = PathTemplate::new("/");
        assert_eq!(ROOT.render::<&str>(&[]).unwrap(), "/");
        assert_eq!(ROOT.matches("/"), Some(vec![]));
        assert_eq!(ROOT.matches("/x"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn render_and_match_are_inverses(a in any::<String>(), b in any::<String>()) {
            for t in [SUFFIX, TAIL] {
                match t.render(&[&a, &b]) {
                    Ok(path) => {
                        prop_assert!(path.is_ascii());
                        prop_assert!(!path.contains(['?', '#', ' ']));
                        prop_assert_eq!(t.matches(&path), Some(vec![a.clone(), b.clone()]));
                    }
                    Err(PathError::Empty { .. }) => {
                        prop_assert!(a.is_empty() || b.is_empty() || b.split('/').any(str::is_empty));
                    }
                    Err(PathError::DotSegment { .. }) => {
                        prop_assert!([&*a].into_iter().chain(b.split('/')).any(|s| s == "." || s == ".."));
                    }
                    Err(e) => prop_assert!(false, "{e}"),
                }
            }
        }

        #[test]
        fn a_name_addresses_exactly_one_segment(name in "[/.?#%\\\\ a-c\u{0}\u{2f}é]{0,8}") {
            if let Ok(path) = PLAIN.render(&[&name]) {
                prop_assert_eq!(path.matches('/').count(), 4);
                prop_assert_eq!(PLAIN.matches(&path), Some(vec![name]));
            }
        }

        #[test]
        fn matching_never_panics(path in "\\PC*") {
            let _ = PLAIN.matches(&path);
            let _ = SUFFIX.matches(&path);
            let _ = TAIL.matches(&path);
        }
    }
}
