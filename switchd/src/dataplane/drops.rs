//! The latest dropped frames, for `switchctl why-dropped`: a bounded ring that a flood cannot make expensive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use switch_core::frame::arp::Arp;
use switch_core::frame::l3::L3;
use switch_core::frame::{Eth, ethertype};
use switch_core::ids::PeerId;
use switch_core::switch::DropReason;

use crate::view::{Direction, DroppedFrame};

/// Where a frame was seen, for the drop log and captures.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) network: &'a Arc<str>,
    pub(super) direction: Direction,
    pub(super) peer: Option<PeerId>,
}

/// The ring.
#[derive(Debug)]
pub(super) struct DropLog {
    entries: VecDeque<Entry>,
    /// Entries of the current second, by reason.
    second: u64,
    taken: [u16; DropReason::ALL.len()],
}

#[derive(Debug)]
struct Entry {
    when: SystemTime,
    network: Option<Arc<str>>,
    direction: Direction,
    peer: Option<PeerId>,
    reason: DropReason,
    head: [u8; HEAD],
    head_len: usize,
    len: u32,
}

impl Default for DropLog {
    fn default() -> DropLog {
        DropLog { entries: VecDeque::with_capacity(ENTRIES), second: 0, taken: [0; DropReason::ALL.len()] }
    }
}

impl DropLog {
    /// Remembers one; at most [`PER_SECOND`] a second of each reason, so that one reason does not hide others.
    pub(super) fn push(&mut self, start: Instant, seen: Option<Seen<'_>>, reason: DropReason, frame: &[u8]) {
        let second = start.elapsed().as_secs();
        if second != self.second {
            (self.second, self.taken) = (second, [0; DropReason::ALL.len()]);
        }
        let taken = &mut self.taken[reason.index()];
        if *taken >= PER_SECOND {
            return;
        }
        *taken += 1;
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
        }
        let mut head = [0; HEAD];
        let head_len = frame.len().min(HEAD);
        head[..head_len].copy_from_slice(&frame[..head_len]);
        self.entries.push_back(Entry {
            when: SystemTime::now(),
            network: seen.map(|seen| seen.network.clone()),
            direction: seen.map_or(Direction::Remote, |seen| seen.direction),
            peer: seen.and_then(|seen| seen.peer),
            reason,
            head,
            head_len,
            len: frame.len() as u32,
        });
    }

    /// All, oldest first.
    pub(super) fn view(&self, name: impl Fn(PeerId) -> Option<Arc<str>>) -> Vec<DroppedFrame> {
        let row = |entry: &Entry| {
            let head = &entry.head[..entry.head_len];
            // Datagrams dropped before they were opened show no frame.
            let eth = entry.network.as_ref().and_then(|_| Eth::parse(head).ok());
            DroppedFrame {
                when: entry.when,
                network: entry.network.as_deref().map(str::to_owned),
                direction: entry.direction,
                reason: entry.reason.label().to_owned(),
                src: eth.map(|eth| eth.src.to_string()),
                dst: eth.map(|eth| eth.dst.to_string()),
                ethertype: eth.map(|eth| eth.ethertype),
                summary: eth.map_or_else(|| "datagram".to_owned(), |eth| summary(head, &eth)),
                peer: entry.peer.and_then(&name).map(|name| name.to_string()),
                length: entry.len,
            }
        };
        self.entries.iter().map(row).collect()
    }
}

fn summary(head: &[u8], eth: &Eth) -> String {
    match eth.ethertype {
        ethertype::ARP => match Arp::parse(head, eth.l3) {
            Ok(arp) if arp.op == 1 => format!("ARP who-has {} tell {}", arp.tpa, arp.spa),
            Ok(arp) => format!("ARP {} is-at {}", arp.spa, arp.sha),
            Err(_) => "malformed ARP".to_owned(),
        },
        ethertype::IPV4 | ethertype::IPV6 => match L3::parse(head, eth) {
            Ok(Some(ip)) => format!("{} > {} {}", ip.src, ip.dst, protocol(ip.protocol)),
            _ => "malformed IP".to_owned(),
        },
        length @ 0..1536 => format!("802.3 frame of {length} bytes"),
        other => format!("EtherType {other:#06x}"),
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

const ENTRIES: usize = 512;
const HEAD: usize = 86;
/// Per reason.
const PER_SECOND: u16 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn arp() -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
        frame
    }

    #[test]
    fn a_flood_of_one_reason_hides_no_other() {
        let (mut log, start) = (DropLog::default(), Instant::now());
        let network: Arc<str> = "blue".into();
        let seen = Some(Seen { network: &network, direction: Direction::Local, peer: Some(PeerId(1)) });
        for _ in 0..10_000 {
            log.push(start, None, DropReason::BadTag, &[0x80; 40]);
        }
        log.push(start, seen, DropReason::FloodLimited, &arp());
        let rows = log.view(|_| Some("node-b".into()));
        assert!(rows.len() <= 2 * usize::from(PER_SECOND) + 1, "{}", rows.len());
        let last = rows.last().unwrap();
        assert_eq!((last.reason.as_str(), last.length), ("flood_limited", 42));
        assert_eq!(last.summary, "ARP who-has 10.0.0.9 tell 10.0.0.1");
        assert_eq!((last.src.as_deref(), last.peer.as_deref()), (Some("02:00:00:00:00:01"), Some("node-b")));
    }

    #[test]
    fn what_is_cut_short_is_still_described() {
        let (mut log, start) = (DropLog::default(), Instant::now());
        let network: Arc<str> = "blue".into();
        for len in 0..arp().len() {
            let seen = Seen { network: &network, direction: Direction::Remote, peer: None };
            log.push(start, Some(seen), DropReason::BadFrame, &arp()[..len]);
        }
        assert!(log.view(|_| None).iter().all(|row| !row.summary.is_empty()));
    }
}
