//! Pure parts here; what needs a kernel device runs in a network namespace of the test's own thread.

use super::*;

#[test]
fn names() {
    for good in ["sw100", "a", "sw-blue_1.2", "fifteen-bytes-x"] {
        assert!(is_valid_name(good), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a:b", "sw%d", "a b", "a\tb", "a\0b", "sixteen-bytes-xx"] {
        assert!(!is_valid_name(bad), "{bad:?}");
        assert!(matches!(Tap::open(bad, true), Err(TapError::Name { .. })), "{bad:?}");
    }
}

#[test]
fn offloads_display_and_dependencies() {
    assert_eq!(Offloads::ALL.to_string(), "csum tso4 tso6 ecn uso");
    assert_eq!(Offloads::NO_USO.to_string(), "csum tso4 tso6 ecn");
    assert_eq!(Offloads::NONE.to_string(), "none");
    assert_eq!(Offloads { csum: false, ..Offloads::ALL }.normalised(), Offloads::NONE);
    let no_tso = Offloads { tso4: false, tso6: false, ..Offloads::ALL };
    assert_eq!(no_tso.normalised(), Offloads { uso: true, ..Offloads::CSUM_ONLY });
    assert_eq!(Offloads::ALL.flags(), 0x6f);
}

#[test]
fn gone_is_not_down() {
    assert!(is_gone(&io::Error::from_raw_os_error(libc::EBADFD)));
    assert!(!is_gone(&io::Error::from_raw_os_error(libc::EIO)));
    assert!(is_down(&io::Error::from_raw_os_error(libc::EIO)));
    assert!(!is_down(&io::Error::from_raw_os_error(libc::EAGAIN)));
}
