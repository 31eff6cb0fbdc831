//! The pure parts, and the device by itself; with a bridge it is tested as an endpoint.

use switch_core::ids::Mac;
use switch_core::vnet::{Gso, PartialCsum, VnetHdr};

use super::*;
use crate::netlink::Netlink;
use crate::netlink::tests::{in_netns, wait_for};

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

#[test]
fn a_device_opens_once_and_says_what_it_cannot() {
    in_netns(async || {
        let mut tap = Tap::open("t0", true).unwrap();
        println!("offloads: {}", tap.offloads());
        let second = Tap::open("t0", true).unwrap_err();
        assert!(
            matches!(&second, TapError::Create { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
        );
        let error = tap.read(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let error = tap.write_vectored(&[IoSlice::new(&[0; 64])]).unwrap_err();
        assert!(is_down(&error), "{error}");
        tap.set_offloads(Offloads { csum: false, ..Offloads::ALL }).unwrap();
        assert_eq!(tap.offloads(), Offloads::NONE);
        let plain = Tap::open("t1", false).unwrap();
        assert_eq!(plain.offloads(), Offloads::NONE);
        drop(tap);
        Tap::open("t0", false).unwrap();
    });
}

/// What one TAP is given as a super-frame, the other gets as one, through a bridge; or as segments with whole
/// checksums, if it has its offloads off.
#[test]
fn super_frames_pass_whole_or_are_cut_by_the_kernel() {
    in_netns(async || {
        let netlink = Netlink::open().unwrap();
        let bridge = netlink.ensure_bridge("br-t", true, 1500).await.unwrap().unwrap().link.index;
        let (from, mut to) = (Tap::open("t0", true).unwrap(), Tap::open("t1", true).unwrap());
        if !from.offloads().tso4 {
            eprintln!("skipped: no TSO on this kernel's TAP");
            return;
        }
        for tap in [&from, &to] {
            netlink.no_ipv6_autoconf(tap.index()).await.unwrap();
            netlink.attach(tap.index(), bridge).await.unwrap();
            netlink.set_up(tap.index(), true).await.unwrap();
        }
        let (hdr, frame) = super_frame(4000);
        let mut buf = vec![0; READ_MAX];
        // Frames of the bridge's own come in between.
        let mut next = async |to: &Tap| {
            wait_for("a TCP frame", std::time::Duration::from_secs(5), async || {
                while let Ok(n) = to.read(&mut buf) {
                    let (hdr, frame) = buf[..n].split_at(VNET_HDR_LEN);
                    if frame.get(23) == Some(&6) && frame[12..14] == [8, 0] {
                        return Some((VnetHdr::parse(hdr).unwrap(), frame.to_vec()));
                    }
                }
                None
            })
            .await
        };

        let sent = from.write_vectored(&[IoSlice::new(&hdr.encode()), IoSlice::new(&frame)]).unwrap();
        assert_eq!(sent, VNET_HDR_LEN + frame.len());
        let (got_hdr, got) = next(&to).await;
        assert_eq!((got_hdr.gso, got_hdr.gso_size, got_hdr.csum), (hdr.gso, hdr.gso_size, hdr.csum));
        assert_eq!(got, frame);

        to.set_offloads(Offloads::NONE).unwrap();
        from.write_vectored(&[IoSlice::new(&hdr.encode()), IoSlice::new(&frame)]).unwrap();
        let mut payload = Vec::new();
        for _ in 0..4 {
            let (hdr, segment) = next(&to).await;
            assert_eq!((hdr.gso, hdr.csum), (Gso::None, None));
            payload.extend_from_slice(&segment[54..]);
        }
        assert_eq!(payload, frame[54..]);
    });
}

/// TCP over IPv4 to a broadcast address, segments of 1000 bytes, its checksum partial.
fn super_frame(payload: u16) -> (VnetHdr, Vec<u8>) {
    let from = Mac([2, 0, 0, 0, 0, 1]);
    let len = 40 + payload;
    let mut frame = [&Mac::BROADCAST.0[..], &from.0, &[8, 0]].concat();
    let mut ip = [0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = !folded(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = [&ip[12..20], &[0, 6], &(20 + payload).to_be_bytes()].concat();
    let mut tcp = [0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    tcp[16..18].copy_from_slice(&folded(&pseudo).to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&tcp);
    frame.extend((0..payload).map(|n| n.to_le_bytes()[0]));
    let csum = Some(PartialCsum { start: 34, offset: 16 });
    let gso = Gso::TcpV4 { ecn: false };
    (VnetHdr { csum, data_valid: false, gso, hdr_len: 54, gso_size: 1000 }, frame)
}

fn folded(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    ((sum & 0xffff) + (sum >> 16)) as u16
}
