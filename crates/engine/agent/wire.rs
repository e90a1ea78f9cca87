//! Reading the agent's binary messages: little-endian integers and counted, NUL-ended byte strings.
//! Used on both sides; every read is checked against the end of the message.

/// The message ended before the field did, or a string was not well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A cursor over one message.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        if n > self.rest.len() {
            return Err(Malformed);
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let low = self.u32()?;
        let high = self.u32()?;
        Ok(u64::from(low) | (u64::from(high) << 32))
    }

    /// Bytes with their count before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    /// A string with its count before it and a NUL after it; the slice includes the NUL, and has no other.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u32()? as usize;
        let text = self.take(n.checked_add(1).ok_or(Malformed)?)?;
        match text.iter().position(|&b| b == 0) {
            Some(nul) if nul == n => Ok(text),
            _ => Err(Malformed),
        }
    }

    /// Nothing is left.
    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }
}
