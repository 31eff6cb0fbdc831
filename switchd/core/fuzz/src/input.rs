//! Bytes read as a script.

/// Reads from the front of the fuzzer's bytes.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next two bytes, big-endian.
    pub(crate) fn word(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    /// A two-byte length and as many bytes, or what is left of them.
    pub(crate) fn block(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.word()?).min(self.0.len());
        let (block, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(block)
    }
}
