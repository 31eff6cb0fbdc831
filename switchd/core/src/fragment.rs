//! Messages that do not fit the path, cut into fragments and put together again.
//!
//! A message is one sealed datagram's plaintext behind its header: a frame with its checksum fields. Its fragments
//! carry a [`FragmentInfo`]. They are sealed like everything else, so that each is authentic and none is a replay;
//! what reassembly still has to bear is loss, reordering and a peer that misbehaves.

mod reassembly;

pub use reassembly::{Reassembler, ReassemblyDrop, ReassemblyLimits};

/// Where a fragment belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentInfo {
    /// The message: unique among those that its sender has under way.
    pub id: u32,
    /// First byte of the fragment in the message.
    pub offset: u16,
    /// Bytes of the whole message.
    pub total: u16,
}

/// Cuts messages for one peer.
#[derive(Clone, Debug, Default)]
pub struct Fragmenter {
    next_id: u32,
}

impl Fragmenter {
    /// Begins with message `first_id`.
    pub fn new(first_id: u32) -> Fragmenter {
        Fragmenter { next_id: first_id }
    }

    /// Cuts `message` into pieces of at most `max` bytes, of one size but for the last, which may be shorter.
    pub fn cut<'a>(&mut self, message: &'a [u8], max: usize) -> Result<Fragments<'a>, FragmentError> {
        let total =
            u16::try_from(message.len()).map_err(|_| FragmentError::TooLong { len: message.len() })?;
        if message.is_empty() {
            return Err(FragmentError::Empty);
        }
        if max == 0 {
            return Err(FragmentError::NoRoom);
        }
        let count = message.len().div_ceil(max);
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        Ok(Fragments { pieces: message.chunks(message.len().div_ceil(count)), id, offset: 0, total })
    }
}

/// The fragments of one message, in order.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    pieces: std::slice::Chunks<'a, u8>,
    id: u32,
    offset: u16,
    total: u16,
}

impl<'a> Iterator for Fragments<'a> {
    type Item = (FragmentInfo, &'a [u8]);

    fn next(&mut self) -> Option<(FragmentInfo, &'a [u8])> {
        let piece = self.pieces.next()?;
        let info = FragmentInfo { id: self.id, offset: self.offset, total: self.total };
        self.offset = self.offset.wrapping_add(piece.len() as u16);
        Some((info, piece))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pieces.size_hint()
    }
}

impl ExactSizeIterator for Fragments<'_> {}

/// Why a message could not be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FragmentError {
    /// Nothing to send.
    #[error("empty message")]
    Empty,
    /// More than the 16-bit length can say.
    #[error("message of {len} bytes: at most 65535 can be fragmented")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Fragments of zero bytes were asked for.
    #[error("no room for a fragment's data on the path")]
    NoRoom,
}

#[cfg(test)]
mod tests;
