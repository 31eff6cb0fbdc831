//! What a disk from another node may say of itself, before any program opens it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::failure::{Failure, Step};

/// Refuses a qcow2 disk whose data lies in another file, which its header could name at will: QEMU runs as root.
/// A backing file is another matter: `qemu-img rebase -u` replaces it unread.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let mut header = [0; HEADER];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).step("read the disk's header")?;
    if is_self_contained(&header) {
        return Ok(());
    }
    Err(Failure::permanent("the disk that came is no qcow2 image that holds its own data: it is not opened"))
}

/// By the layout of docs/interop/qcow2.txt of QEMU: magic, version, and from version 3 on the incompatible features.
fn is_self_contained(header: &[u8; HEADER]) -> bool {
    let version = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let external_data = version >= 3 && header[FEATURES_LAST_BYTE] & EXTERNAL_DATA != 0;
    header.starts_with(b"QFI\xfb") && matches!(version, 2 | 3) && !external_data
}

/// Bytes 72 to 79 are the incompatible features, big endian.
const HEADER: usize = 80;
const FEATURES_LAST_BYTE: usize = 79;
const EXTERNAL_DATA: u8 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_qcow2_with_its_own_data_is_opened() {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        assert!(is_self_contained(&header));
        header[FEATURES_LAST_BYTE] = 0b11;
        assert!(is_self_contained(&header));
        header[FEATURES_LAST_BYTE] = EXTERNAL_DATA;
        assert!(!is_self_contained(&header));
        header[7] = 2; // where these bytes are not features
        assert!(is_self_contained(&header));
        header[7] = 4;
        assert!(!is_self_contained(&header));
        assert!(!is_self_contained(&[0; HEADER]));
    }
}
