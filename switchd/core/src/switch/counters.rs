//! Plain counters, owned by the switch and read by the shell.

use super::verdict::{DropReason, Verdict};

/// What a switch counted since its start. Frames are counted once each, super-frames as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Frames from the bridge.
    pub local_frames: u64,
    /// Frames from peers.
    pub remote_frames: u64,
    /// Frames given to the bridge by verdict; made and released ones not included.
    pub bridged: u64,
    /// Frames forwarded to one peer by verdict.
    pub forwarded: u64,
    /// Frames flooded by verdict, counted once however many peers there are.
    pub flooded: u64,
    /// Requests that the switch answered itself.
    pub answered: u64,
    /// Frames held for an unresolved destination.
    pub held: u64,
    /// Held frames sent on.
    pub released: u64,
    /// Of the flooded frames: unicast to a MAC that no table knows.
    pub unknown_unicast: u64,
    /// Frames for an instance that moved to this bridge, sent back to the bridge.
    pub hairpinned: u64,
    /// ARP (RFC 826).
    pub arp: NeighbourCounters,
    /// IPv6 neighbour discovery (RFC 4861).
    pub nd: NeighbourCounters,
    /// Reverse ARP announcements of a move.
    pub rarp: u64,
    /// Stations learned.
    pub learned: u64,
    /// Stations that changed their place.
    pub moves: u64,
    /// IPs that changed their station.
    pub ip_moves: u64,
    /// Stations held where they were because they moved too often.
    pub flaps: u64,
    /// Stations and IPs forgotten by age.
    pub expired: u64,
    /// Stations evicted, or not learned, because the table was full.
    pub mac_table_full: u64,
    /// IPs evicted, or not learned, because the table or their station's list was full.
    pub ip_table_full: u64,
    /// Events that nobody fetched in time.
    pub events_lost: u64,
    drops: [u64; DropReason::ALL.len()],
}

/// The paper's four cases (section IV-B) and what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NeighbourCounters {
    /// Case 1: requests and probes from the bridge.
    pub local_requests: u64,
    /// Case 2: replies and announcements from the bridge.
    pub local_replies: u64,
    /// Case 3: requests and probes from peers.
    pub remote_requests: u64,
    /// Case 4: replies and announcements from peers.
    pub remote_replies: u64,
    /// Outcome: local requests answered from a remote binding.
    pub local_answered: u64,
    /// Outcome: remote requests answered from a local binding.
    pub remote_answered: u64,
    /// Outcome: local requests forwarded to the peers because the target is unknown.
    pub asked: u64,
    /// Outcome: remote requests put on the bridge because the target is not known to be local.
    pub bridged: u64,
    /// Outcome: local requests whose target is on the bridge.
    pub same_bridge: u64,
    /// Outcome: unicast polls passed to the owner.
    pub polls: u64,
    /// Outcome: replies that returned to their asker only.
    pub returned: u64,
    /// Gratuitous and unsolicited announcements.
    pub gratuitous: u64,
    /// Probes and duplicate address detection.
    pub probes: u64,
    /// Requests that the switch made for held frames.
    pub own_requests: u64,
    /// Corrections sent to caches of the bridge's instances.
    pub corrections: u64,
}

impl Counters {
    pub(super) fn new() -> Counters {
        Counters {
            local_frames: 0,
            remote_frames: 0,
            bridged: 0,
            forwarded: 0,
            flooded: 0,
            answered: 0,
            held: 0,
            released: 0,
            unknown_unicast: 0,
            hairpinned: 0,
            arp: NeighbourCounters::default(),
            nd: NeighbourCounters::default(),
            rarp: 0,
            learned: 0,
            moves: 0,
            ip_moves: 0,
            flaps: 0,
            expired: 0,
            mac_table_full: 0,
            ip_table_full: 0,
            events_lost: 0,
            drops: [0; DropReason::ALL.len()],
        }
    }

    /// Frames dropped by the switch for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    pub(super) fn count_drop(&mut self, reason: DropReason) {
        self.drops[reason.index()] += 1;
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Bridge => self.bridged += 1,
            Verdict::Peer(_) => self.forwarded += 1,
            Verdict::Flood => self.flooded += 1,
            Verdict::Answered => self.answered += 1,
            Verdict::Held => self.held += 1,
            Verdict::Drop(reason) => self.count_drop(reason),
        }
    }
}
