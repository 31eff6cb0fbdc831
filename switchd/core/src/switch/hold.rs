//! Frames to the endpoint whose IP nobody is known to have: held a moment while the switch asks for it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use ahash::RandomState;

use super::config::Limits;
use crate::frame::Tags;
use crate::ids::Mac;
use crate::time::Time;
use crate::vnet::VnetHdr;

#[derive(Debug)]
pub(super) struct Hold {
    table: HashMap<(Tags, IpAddr), Target, RandomState>,
    limits: Limits,
    frames: usize,
    bytes: usize,
}

/// What is held for one IP.
#[derive(Debug)]
struct Target {
    frames: VecDeque<HeldFrame>,
    /// Who asks, if the switch has to ask again.
    sender: Sender,
}

/// A held frame.
#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) vnet: VnetHdr,
    pub(super) frame: Vec<u8>,
    since: Time,
}

/// The instance in whose name the switch asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sender {
    pub(super) mac: Mac,
    /// An IP of its own, of the target's family.
    pub(super) ip: Option<IpAddr>,
}

impl Hold {
    pub(super) fn new(limits: Limits, hash: &RandomState) -> Hold {
        Hold { table: HashMap::with_hasher(hash.clone()), limits, frames: 0, bytes: 0 }
    }

    /// Whether a frame of `len` bytes for the target fits.
    pub(super) fn has_room(&self, tags: Tags, target: IpAddr, len: usize) -> bool {
        self.frames < self.limits.hold_frames
            && self.bytes + len <= self.limits.hold_bytes
            && self.table.get(&(tags, target)).is_none_or(|t| t.frames.len() < self.limits.hold_per_target)
    }

    /// Keeps a copy; `true` if it is the first for its target. The caller has asked for room.
    pub(super) fn push(
        &mut self,
        (tags, target): (Tags, IpAddr),
        sender: Sender,
        vnet: VnetHdr,
        frame: &[u8],
        now: Time,
    ) -> bool {
        self.frames += 1;
        self.bytes += frame.len();
        let held = HeldFrame { vnet, frame: frame.to_vec(), since: now };
        let target =
            self.table.entry((tags, target)).or_insert_with(|| Target { frames: VecDeque::new(), sender });
        target.frames.push_back(held);
        target.frames.len() == 1
    }

    /// Takes everything held for an IP, oldest first.
    pub(super) fn take(&mut self, tags: Tags, target: IpAddr) -> VecDeque<HeldFrame> {
        if self.table.is_empty() {
            return VecDeque::new();
        }
        let frames = self.table.remove(&(tags, target)).map(|t| t.frames).unwrap_or_default();
        self.frames -= frames.len();
        self.bytes -= frames.iter().map(|f| f.frame.len()).sum::<usize>();
        frames
    }

    /// Drops what waited too long, and says how many frames and what is still to be asked for.
    pub(super) fn expire(&mut self, now: Time) -> (usize, Vec<(Tags, IpAddr, Sender)>) {
        let (mut frames, mut bytes) = (0, 0);
        let age = self.limits.hold_time;
        self.table.retain(|_, target| {
            while let Some(held) = target.frames.pop_front_if(|f| now.since(f.since) >= age) {
                frames += 1;
                bytes += held.frame.len();
            }
            !target.frames.is_empty()
        });
        self.frames -= frames;
        self.bytes -= bytes;
        (frames, self.table.iter().map(|((tags, ip), t)| (*tags, *ip, t.sender)).collect())
    }

    /// Frames and bytes held.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.frames, self.bytes)
    }
}
