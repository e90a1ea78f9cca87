//! Building netlink messages: headers, attributes, nesting. No IO.

/// `NETLINK_ROUTE`: links, addresses, routes.
pub const ROUTE: i32 = 0;
/// `NETLINK_NETFILTER`: nf_tables.
pub const NETFILTER: i32 = 12;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;

/// One netlink request, to be sent as a single datagram on a socket of family `protocol` inside the
/// instance's network namespace. Read the answers with [`super::ack::outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What this request does, for the message when it fails.
    pub what: &'static str,
    /// The netlink family: [`ROUTE`] or [`NETFILTER`].
    pub protocol: i32,
    /// The datagram.
    pub bytes: Vec<u8>,
    /// The sequence number of the message whose acknowledgement ends the request.
    pub last_seq: u32,
    /// Whether the instance may start although this request failed. Set for the IPv6 parts: a
    /// kernel without IPv6 refuses them, and an instance without them reaches nothing by IPv6.
    pub optional: bool,
}

/// Writes messages one after the other into a buffer.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    seq: u32,
}

/// A place to fill in a length later: an open message or an open nested attribute.
#[derive(Debug)]
#[must_use]
pub(super) struct Mark(usize);

impl Writer {
    /// Starts a message and returns the mark to close it with.
    pub(super) fn message(&mut self, kind: u16, flags: u16) -> Mark {
        let at = self.bytes.len();
        self.seq += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.seq.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        Mark(at)
    }

    /// Ends a message: fills its length in.
    pub(super) fn end_message(&mut self, mark: Mark) {
        let length = (self.bytes.len() - mark.0) as u32;
        self.bytes[mark.0..mark.0 + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    /// Appends the fixed part of a message.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Appends one attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Appends an attribute holding text, with the NUL that the kernel wants.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Appends an attribute holding a big-endian number, as nf_tables wants them.
    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Opens an attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16) -> Mark {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Mark(at)
    }

    /// Closes what [`Writer::nest`] opened.
    pub(super) fn end_nest(&mut self, mark: Mark) {
        let length = (self.bytes.len() - mark.0) as u16;
        self.bytes[mark.0..mark.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// The sequence number of the newest message.
    pub(super) fn seq(&self) -> u32 {
        self.seq
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ack::{Outcome, outcome};
    use super::*;
    use proptest::prelude::*;

    fn ack(errno: i32, seq: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&36u32.to_ne_bytes());
        bytes.extend_from_slice(&2u16.to_ne_bytes());
        bytes.extend_from_slice(&0u16.to_ne_bytes());
        bytes.extend_from_slice(&seq.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&errno.to_ne_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes
    }

    #[test]
    fn lengths_and_padding() {
        let mut writer = Writer::default();
        let message = writer.message(16, ACK);
        writer.raw(&[1; 16]);
        let nest = writer.nest(4);
        writer.text(1, "abcd");
        writer.end_nest(nest);
        writer.end_message(message);
        let bytes = writer.finish();
        // 16 header + 16 fixed + 4 nest + (4 + 5 padded to 12)
        assert_eq!(bytes.len(), 48);
        assert_eq!(&bytes[0..4], &48u32.to_ne_bytes());
        assert_eq!(&bytes[32..34], &16u16.to_ne_bytes());
        assert_eq!(&bytes[34..36], &(4u16 | 0x8000).to_ne_bytes());
        assert_eq!(&bytes[36..38], &9u16.to_ne_bytes());
        assert_eq!(&bytes[40..45], b"abcd\0");
    }

    #[test]
    fn acknowledgements() {
        assert_eq!(outcome(&ack(0, 7), 7), Outcome::Done);
        assert_eq!(outcome(&ack(0, 6), 7), Outcome::More);
        assert_eq!(outcome(&[], 7), Outcome::More);
        assert_eq!(
            outcome(&ack(-1, 3), 7),
            Outcome::Failed { errno: 1, seq: 3 }
        );
        let mut both = ack(-17, 2);
        both.extend_from_slice(&ack(0, 7));
        assert_eq!(outcome(&both, 7), Outcome::Failed { errno: 17, seq: 2 });
        assert_eq!(outcome(&ack(1, 7), 7), Outcome::Malformed);
        assert_eq!(outcome(&ack(i32::MIN, 7), 7), Outcome::Malformed);
        assert_eq!(outcome(&ack(0, 7)[..15], 7), Outcome::Malformed);
        assert_eq!(outcome(&ack(0, 7)[..35], 7), Outcome::Malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), seq: u32) {
            let _ = outcome(&bytes, seq);
        }

        // Random lengths rarely form a header; this one builds chains of plausible messages, with
        // one decisive answer in them, and cuts the end off.
        #[test]
        fn chains_are_judged_by_the_first_decisive_answer(
            before in 0usize..5, errno in 0i32..134, cut in 0usize..4,
        ) {
            let mut bytes = Vec::new();
            for seq in 0..before {
                bytes.extend_from_slice(&ack(0, seq as u32 + 1));
            }
            bytes.extend_from_slice(&ack(-errno, 100));
            let expected = if errno == 0 {
                Outcome::Done
            } else {
                Outcome::Failed { errno, seq: 100 }
            };
            prop_assert_eq!(outcome(&bytes, 100), expected);
            if cut > 0 {
                bytes.truncate(bytes.len() - cut);
                prop_assert_eq!(outcome(&bytes, 100), Outcome::Malformed);
            }
        }
    }
}
