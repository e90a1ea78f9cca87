//! Gzip made of pieces that are compressed apart: several at a time, and stored as they are where compression gains
//! nothing. The pieces end on byte boundaries, so together they are one ordinary gzip member.

use std::cell::RefCell;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// How archives are compressed on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Not at all.
    None,
    /// Fast where it gains something, not at all where it does not. The default.
    Fast,
    /// A level of gzip's, 1 to 9.
    Of(u8),
}

/// A piece, compressed.
pub struct Piece {
    /// Its bytes, compressed.
    pub bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses pieces; put together by [`Member`].
pub fn compress(input: &[u8], level: Level) -> Piece {
    let mut crc = Crc::new();
    crc.update(input);
    let stored = match level {
        Level::None => true,
        Level::Fast => !gains(input),
        Level::Of(_) => false,
    };
    let bytes = if stored {
        store(input)
    } else {
        let level = match level {
            Level::Of(n) => u32::from(n.clamp(1, 9)),
            Level::None | Level::Fast => 1,
        };
        deflate(input, level).unwrap_or_else(|| store(input))
    };
    Piece { bytes, crc }
}

/// Whether compressing gains at least 3 %, as two samples say.
fn gains(input: &[u8]) -> bool {
    const SAMPLE: usize = 8 * 1024;
    if input.len() <= SAMPLE {
        return true;
    }
    [0, input.len() / 2].into_iter().any(|at| {
        let sample = &input[at..(at + SAMPLE).min(input.len())];
        deflate(sample, 1).is_some_and(|out| out.len() * 100 < sample.len() * 97)
    })
}

thread_local! {
    /// The compressor of a thread and its level: making one costs more memory than a piece has.
    static STATE: RefCell<Option<(u32, Compress)>> = const { RefCell::new(None) };
}

/// Deflate blocks of `input` that end on a byte boundary and are not the last.
fn deflate(input: &[u8], level: u32) -> Option<Vec<u8>> {
    STATE.with_borrow_mut(|state| {
        let state = match state {
            Some((of, state)) if *of == level => {
                state.reset();
                state
            }
            other => {
                let fresh = Compress::new(Compression::new(level), false);
                &mut other.insert((level, fresh)).1
            }
        };
        flush(state, input)
    })
}

fn flush(state: &mut Compress, input: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(input.len() / 2 + 1024);
    loop {
        let done = usize::try_from(state.total_in()).ok()?;
        let before = out.capacity();
        match state.compress_vec(&input[done..], &mut out, FlushCompress::Sync) {
            Ok(Status::Ok | Status::BufError | Status::StreamEnd) => {}
            Err(_) => return None,
        }
        // Room left over says that the flush is complete.
        if state.total_in() == input.len() as u64 && out.len() < before {
            return Some(out);
        }
        out.reserve(out.capacity().max(1024));
    }
}

/// Stored blocks: 5 bytes for each 64 KiB.
fn store(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len() + input.len() / 65535 * 5 + 5);
    for block in input.chunks(65535) {
        let len = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    out
}

/// The gzip member around the pieces.
pub struct Member {
    crc: Crc,
}

impl Default for Member {
    fn default() -> Self {
        Self::new()
    }
}

impl Member {
    /// What comes first: deflate, no time, unknown system.
    pub const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

    /// A member without pieces.
    pub fn new() -> Self {
        Self { crc: Crc::new() }
    }
    /// Takes note of a piece and gives its bytes.
    pub fn add(&mut self, piece: Piece) -> Vec<u8> {
        self.crc.combine(&piece.crc);
        piece.bytes
    }
    /// What comes last: an empty final block, checksum, length.
    pub fn trailer(&self) -> [u8; 10] {
        let mut out = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out[2..6].copy_from_slice(&self.crc.sum().to_le_bytes());
        out[6..].copy_from_slice(&self.crc.amount().to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use std::io::Read;

    fn round(pieces: &[Vec<u8>], level: Level) -> Vec<u8> {
        let mut member = Member::new();
        let mut gz = Member::HEADER.to_vec();
        for piece in pieces {
            gz.extend(member.add(compress(piece, level)));
        }
        gz.extend(member.trailer());
        let mut out = Vec::new();
        let mut reader = GzDecoder::new(&gz[..]);
        reader.read_to_end(&mut out).unwrap();
        assert!(
            reader.into_inner().is_empty(),
            "one member, nothing after it"
        );
        out
    }

    #[test]
    fn incompressible_input_is_stored() {
        let mut x = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x = x
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (x >> 56) as u8
        })
        .take(200_000)
        .collect();
        let piece = compress(&noise, Level::Fast);
        assert!(piece.bytes.len() < noise.len() + 64 && piece.bytes[0] == 0);
        assert!(compress(&vec![7; 200_000], Level::Fast).bytes.len() < 4000);
        assert_eq!(round(std::slice::from_ref(&noise), Level::Fast), noise);
    }

    #[test]
    fn an_empty_archive_is_one_member() {
        assert_eq!(round(&[], Level::Fast), b"");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn pieces_make_one_member(
            pieces in proptest::collection::vec((0usize..70_000, any::<u8>(), any::<u64>()), 0..4),
            level in prop_oneof![Just(Level::None), Just(Level::Fast), Just(Level::Of(6))],
        ) {
            // Runs, noise, and both.
            let fill = |(len, byte, seed): (usize, u8, u64)| -> Vec<u8> {
                let mut x = seed;
                (0..len)
                    .map(|i| {
                        x = x.wrapping_mul(6364136223846793005).wrapping_add(1);
                        if seed % 3 == 0 || (seed % 3 == 1 && i % 9000 < 4000) { byte } else { (x >> 56) as u8 }
                    })
                    .collect()
            };
            let pieces: Vec<Vec<u8>> = pieces.into_iter().map(fill).collect();
            prop_assert_eq!(round(&pieces, level), pieces.concat());
        }
    }
}
