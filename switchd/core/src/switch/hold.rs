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
    /// Frames held of each sender.
    senders: HashMap<(Tags, Mac), usize, RandomState>,
    limits: Limits,
    frames: usize,
    bytes: usize,
}

/// What is held for one IP.
#[derive(Debug, Default)]
struct Target {
    frames: VecDeque<HeldFrame>,
    bytes: usize,
}

/// A held frame.
#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) vnet: VnetHdr,
    pub(super) frame: Vec<u8>,
    pub(super) sender: Sender,
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
        Hold {
            table: HashMap::with_hasher(hash.clone()),
            senders: HashMap::with_hasher(hash.clone()),
            limits,
            frames: 0,
            bytes: 0,
        }
    }

    /// Whether a frame of `len` bytes of `sender` for the target fits.
    pub(super) fn has_room(&self, tags: Tags, target: IpAddr, sender: Mac, len: usize) -> bool {
        self.frames < self.limits.hold_frames
            && self.bytes + len <= self.limits.hold_bytes
            && self.senders.get(&(tags, sender)).is_none_or(|held| *held < self.limits.hold_per_sender)
            && self
                .table
                .get(&(tags, target))
                .is_none_or(|t| t.frames.len() < self.limits.hold_per_target && t.bytes <= TARGET_BYTES)
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
        *self.senders.entry((tags, sender.mac)).or_default() += 1;
        let held = HeldFrame { vnet, frame: frame.to_vec(), sender, since: now };
        let target = self.table.entry((tags, target)).or_default();
        target.bytes += frame.len();
        target.frames.push_back(held);
        target.frames.len() == 1
    }

    /// Takes everything held for an IP, oldest first.
    pub(super) fn take(&mut self, tags: Tags, target: IpAddr) -> VecDeque<HeldFrame> {
        if self.table.is_empty() {
            return VecDeque::new();
        }
        let Target { frames, bytes } = self.table.remove(&(tags, target)).unwrap_or_default();
        self.frames -= frames.len();
        self.bytes -= bytes;
        for held in &frames {
            forget(&mut self.senders, tags, held.sender.mac);
        }
        frames
    }

    /// Drops what waited too long, and says how many frames and what is still to be asked for.
    pub(super) fn expire(&mut self, now: Time) -> (usize, Vec<(Tags, IpAddr, Sender)>) {
        let mut frames = 0;
        let age = self.limits.hold_time;
        self.table.retain(|(tags, _), target| {
            while let Some(held) = target.frames.pop_front_if(|f| now.since(f.since) >= age) {
                frames += 1;
                target.bytes -= held.frame.len();
                self.bytes -= held.frame.len();
                forget(&mut self.senders, *tags, held.sender.mac);
            }
            !target.frames.is_empty()
        });
        self.frames -= frames;
        (frames, self.waiting().collect())
    }

    /// What frames are held for, and of whom the oldest one is.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Tags, IpAddr, Sender)> {
        self.table.iter().filter_map(|((tags, ip), t)| Some((*tags, *ip, t.frames.front()?.sender)))
    }

    /// Drops what is held of senders that left this bridge, and says how many frames that were.
    pub(super) fn drop_departed(&mut self, is_gone: impl Fn(Tags, Mac) -> bool) -> usize {
        let gone: Vec<_> = self.senders.keys().copied().filter(|(tags, mac)| is_gone(*tags, *mac)).collect();
        if gone.is_empty() {
            return 0;
        }
        let before = self.frames;
        self.table.retain(|(tags, _), target| {
            target.frames.retain(|held| {
                let stays = !gone.contains(&(*tags, held.sender.mac));
                if !stays {
                    self.frames -= 1;
                    self.bytes -= held.frame.len();
                    target.bytes -= held.frame.len();
                }
                stays
            });
            !target.frames.is_empty()
        });
        for sender in gone {
            self.senders.remove(&sender);
        }
        before - self.frames
    }

    /// Frames and bytes held.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.frames, self.bytes)
    }
}

/// Counts one held frame of a sender less.
fn forget(senders: &mut HashMap<(Tags, Mac), usize, RandomState>, tags: Tags, sender: Mac) {
    if let Some(held) = senders.get_mut(&(tags, sender)) {
        *held -= 1;
        if *held == 0 {
            senders.remove(&(tags, sender));
        }
    }
}

/// Beyond this a target gets no further frame: a few super-frames are enough for a connection to go on with.
const TARGET_BYTES: usize = 64 << 10;
