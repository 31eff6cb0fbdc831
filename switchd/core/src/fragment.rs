//! Frames that do not fit the path.

/// Where a fragment belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentInfo {
    /// The message it is part of; unique among a peer's recent ones.
    pub id: u32,
    /// First byte of the message that it holds.
    pub offset: u16,
    /// Bytes of the whole message.
    pub total: u16,
}
