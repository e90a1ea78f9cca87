//! As much of HTTP/1.1 (RFC 9112) as the `curl` stand-in speaks, without IO.
//!
//! Uses `core` alone; the engine's tests include it too.

/// Why a URL cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadUrl {
    /// Another scheme than `http`.
    Scheme,
    /// A host that is neither `localhost` nor an IPv4 address in digits.
    Host,
    /// Not a URL.
    Malformed,
}

/// The parts of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Url<'a> {
    pub(crate) address: [u8; 4],
    pub(crate) port: u16,
    /// Host and port as written, for the `Host` header.
    pub(crate) authority: &'a [u8],
    /// Path and query; empty means `/`, or a query without a path.
    pub(crate) target: &'a [u8],
}

fn find(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().position(|&b| b == byte)
}

fn split(text: &[u8], at: usize) -> (&[u8], &[u8]) {
    (
        text.get(..at).unwrap_or(text),
        text.get(at..).unwrap_or(&[]),
    )
}

/// Reads a URL; one without a scheme is `http`, as curl guesses.
pub(crate) fn parse_url(text: &[u8]) -> Result<Url<'_>, BadUrl> {
    if text.iter().any(|&b| b <= b' ' || b == 0x7f) {
        return Err(BadUrl::Malformed);
    }
    let rest = match text.windows(3).position(|w| w == b"://") {
        Some(at) => {
            let (scheme, rest) = split(text, at);
            if !scheme.eq_ignore_ascii_case(b"http") {
                return Err(BadUrl::Scheme);
            }
            rest.get(3..).unwrap_or(&[])
        }
        None => text,
    };
    let rest = split(rest, find(rest, b'#').unwrap_or(rest.len())).0;
    let end = rest
        .iter()
        .position(|&b| b == b'/' || b == b'?')
        .unwrap_or(rest.len());
    let (authority, target) = split(rest, end);
    let (host, port) = match find(authority, b':') {
        Some(at) => {
            let (host, port) = split(authority, at);
            (
                host,
                decimal(port.get(1..).unwrap_or(&[])).ok_or(BadUrl::Malformed)?,
            )
        }
        None => (authority, 80),
    };
    let port = u16::try_from(port)
        .ok()
        .filter(|&port| port != 0)
        .ok_or(BadUrl::Malformed)?;
    let address = if host.eq_ignore_ascii_case(b"localhost") {
        [127, 0, 0, 1]
    } else {
        ipv4(host).ok_or(BadUrl::Host)?
    };
    Ok(Url {
        address,
        port,
        authority,
        target,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn ipv4(text: &[u8]) -> Option<[u8; 4]> {
    let mut address = [0; 4];
    let mut parts = text.split(|&b| b == b'.');
    for byte in &mut address {
        let part = parts.next()?;
        // A leading zero means octal to some readers; refuse what is read in two ways.
        if part.len() > 1 && part.first() == Some(&b'0') {
            return None;
        }
        *byte = u8::try_from(decimal(part)?).ok()?;
    }
    parts.next().is_none().then_some(address)
}

/// How the end of an answer's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked(Chunk),
    /// Until the connection ends.
    Close,
}

/// The first part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// Bytes of the head with its empty line.
    pub(crate) length: usize,
}

/// The answer does not follow HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weird;

/// Reads an answer's head from the start of `bytes`; `None` while it is not complete.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Weird> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = bytes.get(..end + 2).ok_or(Weird)?;
    let mut lines = Lines { rest: head };
    let status_line = lines.next().ok_or(Weird)?;
    if !status_line.starts_with(b"HTTP/1.") || status_line.get(8) != Some(&b' ') {
        return Err(Weird);
    }
    let code = status_line.get(9..12).and_then(decimal).ok_or(Weird)?;
    let status = u16::try_from(code)
        .ok()
        .filter(|code| (100..1000).contains(code))
        .ok_or(Weird)?;
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let colon = find(line, b':').ok_or(Weird)?;
        let (name, value) = split(line, colon);
        let value = value.get(1..).unwrap_or(&[]).trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let told = decimal(value).ok_or(Weird)?;
            if length.is_some_and(|earlier| earlier != told) {
                return Err(Weird);
            }
            length = Some(told);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Weird);
            }
            chunked = true;
        }
    }
    let body = match (status, chunked, length) {
        (100..200 | 204 | 304, _, _) => Body::Length(0),
        (_, true, _) => Body::Chunked(Chunk::Size {
            value: 0,
            digits: 0,
        }),
        (_, false, Some(length)) => Body::Length(length),
        (_, false, None) => Body::Close,
    };
    Ok(Some(Head {
        status,
        body,
        length: end + 4,
    }))
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let at = self.rest.windows(2).position(|w| w == b"\r\n")?;
        let (line, rest) = split(self.rest, at);
        self.rest = rest.get(2..).unwrap_or(&[]);
        Some(line)
    }
}

/// Where a chunked body stands (RFC 9112, 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// In the number of a chunk's size line.
    Size { value: u64, digits: u8 },
    /// In the rest of that line.
    Extension { value: u64 },
    /// In the content.
    Data { left: u64 },
    /// At the line end after the content.
    DataEnd,
    /// In a trailer line; `empty` while nothing of it has come.
    Trailer { empty: bool },
    /// After the last byte.
    Done,
}

/// What a piece of the answer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of the piece that are dealt with.
    pub(crate) consumed: usize,
    /// How many of them, at their end, are content.
    pub(crate) content: usize,
}

impl Body {
    /// Whether nothing more can come.
    pub(crate) fn done(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunk::Done))
    }

    /// Whether the end of the connection is a proper end now.
    pub(crate) fn may_end(&self) -> bool {
        self.done() || *self == Body::Close
    }

    /// Deals with the beginning of `piece`, up to the end of one run of content. Call again with the rest.
    pub(crate) fn step(&mut self, piece: &[u8]) -> Result<Step, Weird> {
        match self {
            Body::Close => Ok(Step {
                consumed: piece.len(),
                content: piece.len(),
            }),
            Body::Length(left) => {
                let n = take(piece.len(), *left);
                *left -= n as u64;
                Ok(Step {
                    consumed: n,
                    content: n,
                })
            }
            Body::Chunked(chunk) => chunk.step(piece),
        }
    }
}

fn take(have: usize, left: u64) -> usize {
    usize::try_from(left).map_or(have, |left| left.min(have))
}

impl Chunk {
    fn step(&mut self, piece: &[u8]) -> Result<Step, Weird> {
        for (at, &byte) in piece.iter().enumerate() {
            *self = match *self {
                Chunk::Size { value, digits } => match (byte as char).to_digit(16) {
                    // Sixteen digits fill the number; leading zeros are not worth more.
                    Some(_) if digits == 16 => return Err(Weird),
                    Some(digit) => {
                        let value = (value << 4) | u64::from(digit);
                        Chunk::Size {
                            value,
                            digits: digits + 1,
                        }
                    }
                    None if digits == 0 => return Err(Weird),
                    None if byte == b'\n' => Self::content_of(value),
                    None => Chunk::Extension { value },
                },
                Chunk::Extension { value } if byte == b'\n' => Self::content_of(value),
                Chunk::Extension { value } => Chunk::Extension { value },
                Chunk::Data { left } => {
                    let content = take(piece.len() - at, left);
                    let left = left - content as u64;
                    *self = if left == 0 {
                        Chunk::DataEnd
                    } else {
                        Chunk::Data { left }
                    };
                    return Ok(Step {
                        consumed: at + content,
                        content,
                    });
                }
                Chunk::DataEnd => match byte {
                    b'\r' => Chunk::DataEnd,
                    b'\n' => Chunk::Size {
                        value: 0,
                        digits: 0,
                    },
                    _ => return Err(Weird),
                },
                Chunk::Trailer { empty } => match byte {
                    b'\r' => Chunk::Trailer { empty },
                    b'\n' if empty => Chunk::Done,
                    b'\n' => Chunk::Trailer { empty: true },
                    _ => Chunk::Trailer { empty: false },
                },
                Chunk::Done => {
                    return Ok(Step {
                        consumed: at,
                        content: 0,
                    });
                }
            };
        }
        Ok(Step {
            consumed: piece.len(),
            content: 0,
        })
    }

    fn content_of(size: u64) -> Self {
        match size {
            0 => Chunk::Trailer { empty: true },
            left => Chunk::Data { left },
        }
    }
}
