//! Reading the kernel's answers to a netlink request.
//!
//! This file uses `core` alone, on purpose: the guest agent's stage, which is `no_std`, includes it
//! by path and judges the answers with the same code that the tests here cover.
//!
//! The rule (kernel, `net/netlink/af_netlink.c` and `net/netfilter/nfnetlink.c`): every message
//! that failed is answered by an `NLMSG_ERROR` with a negative errno, in order, and a message that
//! carries `NLM_F_ACK` and succeeded by one with errno 0. Our requests set `NLM_F_ACK` on their last
//! message only, so that the request has succeeded exactly when that acknowledgement is the first
//! answer, and has failed when an error comes first.

/// What the answers read so far say about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing decisive yet: receive another datagram.
    More,
    /// The last message was acknowledged and nothing before it failed.
    Done,
    /// The kernel refused the message with this sequence number.
    Failed {
        /// The positive error number, such as 1 for `EPERM`.
        errno: i32,
        /// The sequence number of the message that failed.
        seq: u32,
    },
    /// The datagram does not follow the netlink format.
    Malformed,
}

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes([raw[0], raw[1], raw[2], raw[3]]))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let raw = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes([raw[0], raw[1]]))
}

/// Judges one received datagram for the request whose last message has the sequence number
/// `last_seq`. Messages other than acknowledgements are passed over.
#[must_use]
pub fn outcome(datagram: &[u8], last_seq: u32) -> Outcome {
    let mut at = 0usize;
    while at < datagram.len() {
        let rest = match datagram.get(at..) {
            Some(rest) => rest,
            None => return Outcome::Malformed,
        };
        let (Some(length), Some(kind), Some(seq)) = (word(rest, 0), half(rest, 4), word(rest, 8))
        else {
            return Outcome::Malformed;
        };
        let length = length as usize;
        if length < HEADER || length > rest.len() {
            return Outcome::Malformed;
        }
        if kind == NLMSG_ERROR {
            let Some(code) = word(rest.get(..length).unwrap_or(&[]), HEADER) else {
                return Outcome::Malformed;
            };
            let code = code as i32;
            if code != 0 {
                // The kernel writes a negative errno; `i32::MIN` has no positive twin.
                return match code.checked_neg() {
                    Some(errno) if errno > 0 => Outcome::Failed { errno, seq },
                    _ => Outcome::Malformed,
                };
            }
            if seq == last_seq {
                return Outcome::Done;
            }
        }
        // Messages are padded to four bytes, except that the last one need not be.
        at = match length.checked_add(3) {
            Some(padded) => at.saturating_add(padded & !3),
            None => return Outcome::Malformed,
        };
    }
    Outcome::More
}
