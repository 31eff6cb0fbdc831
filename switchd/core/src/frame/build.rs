//! Ethernet headers for frames that the switch makes itself.

use super::{Tags, ethertype};
use crate::ids::Mac;

/// An Ethernet II header with its VLAN tags (priority 0), outermost first: of two, the outer is 802.1ad's.
pub fn header(dst: Mac, src: Mac, tags: Tags, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(dst.0);
    frame.extend(src.0);
    for (i, vid) in tags.vids().iter().enumerate() {
        let tpid = if i + 1 < tags.vids().len() { ethertype::QINQ } else { ethertype::VLAN };
        frame.extend(tpid.to_be_bytes());
        frame.extend(vid.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// The header of an answer to `frame`: its tags with their types and priorities, other addresses.
pub fn header_like(frame: &[u8], l3: usize, dst: Mac, src: Mac) -> Vec<u8> {
    let mut answer = Vec::with_capacity(128);
    answer.extend(dst.0);
    answer.extend(src.0);
    answer.extend(frame.get(12..l3).unwrap_or_default());
    answer
}
