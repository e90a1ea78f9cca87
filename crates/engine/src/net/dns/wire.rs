//! DNS messages (RFC 1035; EDNS from RFC 6891), as much of them as a stub's server needs: one
//! question in, addresses out. Every read is checked; a compressed name in a question is an error,
//! so no loop can be built.

use std::net::IpAddr;

/// Class Internet.
pub(super) const CLASS_IN: u16 = 1;
/// An IPv4 address.
pub(super) const TYPE_A: u16 = 1;
/// An IPv6 address.
pub(super) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;

const HEADER: usize = 12;
const QUERY_OR_REPLY: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
/// A pointer to the question's name, which always starts right after the header.
const NAME_POINTER: [u8; 2] = [0xc0, HEADER as u8];
/// The size of messages that we can take over UDP, as told to those who speak EDNS.
const OUR_PAYLOAD: u16 = 4096;

/// The outcome of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResponseCode {
    /// Answered.
    NoError = 0,
    /// The message was malformed.
    FormatError = 1,
    /// The host's resolver failed.
    ServerFailure = 2,
    /// The name does not exist, or is not to be seen.
    NameError = 3,
    /// The kind of question is not answered here.
    NotImplemented = 4,
    /// Not answered by policy.
    Refused = 5,
}

/// A question, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Chosen by the asker.
    pub id: u16,
    /// What kind of message; 0 is a question.
    pub opcode: u8,
    /// The name without a final dot; `None` when it is the root or holds anything but letters,
    /// digits, hyphens and underscores, which no address question has.
    pub name: Option<String>,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// What the asker can take over UDP, when it speaks EDNS.
    pub udp_payload: Option<u16>,
    recursion_desired: bool,
    /// The question as it came, to be repeated in the answer: askers compare upper and lower case.
    question: Vec<u8>,
}

/// A message that is not a question that could be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Identifier and flags, when the message was a question as far as that goes.
    head: Option<(u16, u8)>,
}

impl Malformed {
    /// The "format error" answer; `None` when the message does not deserve one.
    #[must_use]
    pub fn reply(&self) -> Option<Vec<u8>> {
        let (id, flags) = self.head?;
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.push((flags & !TRUNCATED) | QUERY_OR_REPLY);
        bytes.push(ResponseCode::FormatError as u8);
        bytes.extend_from_slice(&[0; 8]);
        Some(bytes)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn half(&mut self) -> Option<u16> {
        self.take(2)
            .map(|taken| u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// A name without compression: outer `None` when malformed, inner when it is no host name.
    fn name(&mut self) -> Option<Option<String>> {
        let mut name = String::new();
        let mut plain = true;
        let mut total = 0usize;
        loop {
            let length = usize::from(self.byte()?);
            total += length + 1;
            if length > 63 || total > 255 {
                return None;
            }
            if length == 0 {
                return Some((plain && !name.is_empty()).then_some(name));
            }
            if !name.is_empty() {
                name.push('.');
            }
            for &byte in self.take(length)? {
                plain &= byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                name.push(char::from(byte));
            }
        }
    }
}

/// Reads a question.
///
/// # Errors
/// [`Malformed`], which knows the answer to give, if any.
pub fn parse_query(message: &[u8]) -> Result<Query, Malformed> {
    let mut reader = Reader {
        bytes: message,
        at: 0,
    };
    let head = reader
        .half()
        .zip(reader.byte())
        .filter(|_| message.len() >= HEADER);
    let silent = Malformed { head: None };
    let Some((id, flags)) = head else {
        return Err(silent);
    };
    if flags & QUERY_OR_REPLY != 0 {
        return Err(silent);
    }
    read_query(&mut reader, id, flags).ok_or(Malformed {
        head: Some((id, flags)),
    })
}

fn read_query(reader: &mut Reader<'_>, id: u16, flags: u8) -> Option<Query> {
    reader.byte()?;
    let (questions, answers, authorities, additional) = (
        reader.half()?,
        reader.half()?,
        reader.half()?,
        reader.half()?,
    );
    if questions != 1 || answers != 0 || authorities != 0 {
        return None;
    }
    let name = reader.name()?;
    let (kind, class) = (reader.half()?, reader.half()?);
    let question = reader.bytes.get(HEADER..reader.at)?.to_vec();
    let mut udp_payload = None;
    for _ in 0..additional {
        reader.name()?;
        let (kind, class) = (reader.half()?, reader.half()?);
        reader.take(4)?;
        let length = reader.half()?;
        reader.take(usize::from(length))?;
        if kind == TYPE_OPT && udp_payload.replace(class).is_some() {
            return None;
        }
    }
    Some(Query {
        id,
        opcode: (flags >> 3) & 0xf,
        name,
        kind,
        class,
        udp_payload,
        recursion_desired: flags & RECURSION_DESIRED != 0,
        question,
    })
}

/// Writes the answer to `query`: `addresses` that all have the type asked for, each good for
/// `time_to_live` seconds. What does not fit into `limit` bytes is left out, and the answer says so.
#[must_use]
pub fn reply(
    query: &Query,
    code: ResponseCode,
    addresses: &[IpAddr],
    time_to_live: u32,
    limit: usize,
) -> Vec<u8> {
    let option_bytes = if query.udp_payload.is_some() { 11 } else { 0 };
    let mut records = Vec::new();
    let mut count = 0u16;
    let mut truncated = false;
    for address in addresses {
        let (kind, data) = match address {
            IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
        };
        let size = HEADER + query.question.len() + records.len() + 12 + data.len() + option_bytes;
        if size > limit {
            truncated = true;
            break;
        }
        records.extend_from_slice(&NAME_POINTER);
        records.extend_from_slice(&kind.to_be_bytes());
        records.extend_from_slice(&CLASS_IN.to_be_bytes());
        records.extend_from_slice(&time_to_live.to_be_bytes());
        records.extend_from_slice(&(data.len() as u16).to_be_bytes());
        records.extend_from_slice(&data);
        count += 1;
    }
    let mut flags = QUERY_OR_REPLY | (query.opcode << 3);
    if query.recursion_desired {
        flags |= RECURSION_DESIRED;
    }
    if truncated {
        flags |= TRUNCATED;
    }
    let mut bytes = query.id.to_be_bytes().to_vec();
    bytes.push(flags);
    bytes.push(RECURSION_AVAILABLE | code as u8);
    bytes.extend_from_slice(&1u16.to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&0u16.to_be_bytes());
    bytes.extend_from_slice(&u16::from(option_bytes > 0).to_be_bytes());
    bytes.extend_from_slice(&query.question);
    bytes.extend_from_slice(&records);
    if option_bytes > 0 {
        // Root name, type, payload size, extended code and version and flags, no data.
        bytes.push(0);
        bytes.extend_from_slice(&TYPE_OPT.to_be_bytes());
        bytes.extend_from_slice(&OUR_PAYLOAD.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn question(id: u16, name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())]);
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        if let Some(payload) = payload {
            bytes.extend_from_slice(&[0, 0, 41]);
            bytes.extend_from_slice(&payload.to_be_bytes());
            bytes.extend_from_slice(&[0; 6]);
        }
        bytes
    }

    #[derive(Debug)]
    pub(crate) struct Reply {
        pub(crate) id: u16,
        pub(crate) code: u8,
        pub(crate) truncated: bool,
        pub(crate) addresses: Vec<IpAddr>,
    }

    /// An independent reader of answers; panics on anything out of order.
    pub(crate) fn parse_reply(bytes: &[u8]) -> Reply {
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert!(bytes[2] & 0x80 != 0 && bytes[3] & 0x80 != 0);
        let mut at = 12;
        if half(4) == 1 {
            while bytes[at] != 0 {
                at += usize::from(bytes[at]) + 1;
            }
            at += 5;
        }
        let mut addresses = Vec::new();
        for _ in 0..half(6) {
            assert_eq!(half(at), 0xc00c);
            let data = &bytes[at + 12..at + 12 + usize::from(half(at + 10))];
            addresses.push(match half(at + 2) {
                1 => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()),
                28 => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()),
                other => panic!("type {other}"),
            });
            at += 12 + data.len();
        }
        for _ in 0..half(10) {
            assert_eq!(&bytes[at..at + 3], &[0, 0, 41]);
            at += 11;
        }
        assert_eq!(at, bytes.len());
        Reply {
            id: half(0),
            code: bytes[3] & 0xf,
            truncated: bytes[2] & 2 != 0,
            addresses,
        }
    }

    #[test]
    fn questions_are_read() {
        let query = parse_query(&question(0x1234, "WWW.example.com", 28, Some(1232))).unwrap();
        assert_eq!(query.id, 0x1234);
        assert_eq!(query.name.as_deref(), Some("WWW.example.com"));
        assert_eq!((query.kind, query.class, query.opcode), (28, 1, 0));
        assert_eq!(query.udp_payload, Some(1232));
        assert_eq!(parse_query(&question(1, "", 2, None)).unwrap().name, None);
        assert_eq!(
            parse_query(&question(1, "a b.c", 1, None)).unwrap().name,
            None
        );
    }

    #[test]
    fn what_is_malformed_is_told_or_ignored() {
        let good = question(1, "example.com", 1, None);
        assert_eq!(parse_query(&[]).unwrap_err().reply(), None);
        assert_eq!(parse_query(&good[..11]).unwrap_err().reply(), None);
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(parse_query(&answer).unwrap_err().reply(), None);
        for cut in 12..good.len() {
            let told = parse_query(&good[..cut]).unwrap_err().reply().unwrap();
            assert_eq!((told.len(), told[3]), (12, 1));
        }
        // A compressed name, a label of 64, a name of 256, two questions, two OPT records.
        let mut pointer = good.clone();
        pointer[12] = 0xc0;
        let long_label = question(1, &"a".repeat(64), 1, None);
        let long_name = question(1, &["a".repeat(63).as_str(); 4].join("."), 1, None);
        let mut two = good.clone();
        two[5] = 2;
        let mut twice = question(1, "example.com", 1, Some(512));
        let option = twice[twice.len() - 11..].to_vec();
        twice.extend_from_slice(&option);
        twice[11] = 2;
        for bad in [pointer, long_label, long_name, two, twice] {
            assert!(parse_query(&bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            match parse_query(&bytes) {
                Ok(query) => {
                    let answer = reply(&query, ResponseCode::NoError, &[IpAddr::from([1, 2, 3, 4])], 1, 4096);
                    let read = parse_reply(&answer);
                    prop_assert_eq!(read.id, query.id);
                }
                Err(malformed) => { let _ = malformed.reply(); }
            }
        }

        // Random bytes seldom pass the header: change single bytes of good questions as well.
        #[test]
        fn damaged_questions_are_judged(at in 0usize..44, value: u8, cut in 0usize..44) {
            let mut bytes = question(3, "some.example.com", 1, Some(1400));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(20)));
            if let Ok(query) = parse_query(&bytes) {
                parse_reply(&reply(&query, ResponseCode::NoError, &[], 1, 512));
            }
        }

        #[test]
        fn answers_fit_and_say_when_they_do_not(count in 0usize..60, limit in 100usize..2000, edns: bool) {
            let query = parse_query(&question(3, "some.example.com", 28, edns.then_some(1400))).unwrap();
            let addresses: Vec<IpAddr> =
                (0..count).map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16])).collect();
            let bytes = reply(&query, ResponseCode::NoError, &addresses, 30, limit);
            prop_assert!(bytes.len() <= limit);
            let read = parse_reply(&bytes);
            prop_assert_eq!(read.truncated, read.addresses.len() < count);
            prop_assert_eq!(&addresses[..read.addresses.len()], &read.addresses[..]);
        }
    }
}
