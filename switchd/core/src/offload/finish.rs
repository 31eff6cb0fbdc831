//! Partial checksums completed in software, for a device that cannot.

use crate::frame::checksum::Sum;
use crate::vnet::PartialCsum;

/// Completes the partial checksum of a whole frame, as `skb_checksum_help` does.
///
/// A result of zero is stored as 0xffff: UDP reads zero as "none", and to the others the two are the same.
pub fn finish_checksum(frame: &mut [u8], csum: PartialCsum) -> Result<(), ChecksumError> {
    let outside = ChecksumError { csum, len: frame.len() };
    let covered = frame.get_mut(usize::from(csum.start)..).ok_or(outside)?;
    let offset = usize::from(csum.offset);
    if offset + 2 > covered.len() {
        return Err(outside);
    }
    let sum = match Sum::default().bytes(covered).finish() {
        0 => 0xffff,
        sum => sum,
    };
    covered[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// The partial checksum's place is outside of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("partial checksum at {}+{} outside of a frame of {len} bytes", csum.start, csum.offset)]
pub struct ChecksumError {
    /// The place.
    pub csum: PartialCsum,
    /// The frame's length.
    pub len: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_becomes_all_ones() {
        let mut frame = [0xff, 0xfe, 0, 1, 0, 0];
        finish_checksum(&mut frame, PartialCsum { start: 0, offset: 4 }).unwrap();
        assert_eq!(frame[4..], [0xff, 0xff]);
    }

    #[test]
    fn a_place_outside_is_refused() {
        for (start, offset) in [(0, 9), (9, 0), (10, 0), (11, 0), (u16::MAX, u16::MAX)] {
            assert!(
                finish_checksum(&mut [0; 10], PartialCsum { start, offset }).is_err(),
                "{start}+{offset}"
            );
        }
        assert!(finish_checksum(&mut [0; 10], PartialCsum { start: 0, offset: 8 }).is_ok());
    }
}
