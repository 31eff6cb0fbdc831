//! Reassembly in bounded memory.

use std::time::Duration;

use crate::fragment::FragmentInfo;
use crate::frame::ecn::Ecn;
use crate::ids::PeerId;
use crate::time::Time;

/// What a [`Reassembler`] may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReassemblyLimits {
    /// Bytes of unfinished messages, each counted with its whole announced length.
    pub max_bytes: usize,
    /// Unfinished messages.
    pub max_messages: usize,
    /// How long a message may take from its first fragment's arrival to its last's.
    pub timeout: Duration,
}

impl Default for ReassemblyLimits {
    /// 4 MiB, 256 messages, 1 s.
    fn default() -> ReassemblyLimits {
        ReassemblyLimits { max_bytes: 4 << 20, max_messages: 256, timeout: Duration::from_secs(1) }
    }
}

/// Puts fragments together, in any order of arrival.
///
/// When it is full, the peer that holds the most gives up its oldest message, so that a flooding peer only harms
/// itself. Buffers are reused; those kept for that hold at most `max_messages` times 10 KiB beyond `max_bytes`.
///
/// Inputs: [`handle`](Reassembler::handle), [`handle_timeout`](Reassembler::handle_timeout),
/// [`forget`](Reassembler::forget). Output: [`poll_timeout`](Reassembler::poll_timeout).
pub struct Reassembler {
    limits: ReassemblyLimits,
    /// In no order.
    messages: Vec<Message>,
    /// Where the last fragment went, and most likely the next one goes.
    last: usize,
    /// What each peer with unfinished messages holds.
    usage: Vec<Usage>,
    bytes: usize,
    begun: u64,
    spare: Vec<Buffer>,
    complete: Vec<u8>,
    evicted: u64,
}

impl Reassembler {
    /// Holds nothing yet.
    pub fn new(limits: ReassemblyLimits) -> Reassembler {
        Reassembler {
            limits,
            messages: Vec::new(),
            last: 0,
            usage: Vec::new(),
            bytes: 0,
            begun: 0,
            spare: Vec::new(),
            complete: Vec::new(),
            evicted: 0,
        }
    }

    /// Takes a fragment from `peer`, that came under this outer ECN. `Some` is the whole message, valid until the next
    /// call, and what its fragments' outer ECN comes to.
    ///
    /// A fragment that contradicts its message drops the message.
    pub fn handle(
        &mut self,
        peer: PeerId,
        info: FragmentInfo,
        data: &[u8],
        outer: Ecn,
        now: Time,
    ) -> Result<Option<(&mut [u8], Ecn)>, ReassemblyDrop> {
        if data.is_empty() {
            return Err(ReassemblyDrop::Empty);
        }
        let at = match self.find(peer, info.id) {
            Some(at) => at,
            None => {
                check_range(info, data)?;
                self.begin(peer, info, outer, now)?
            }
        };
        self.last = at;
        let message = &mut self.messages[at];
        message.outer = message.outer.with_fragment(outer);
        match message.add(info, data) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let message = self.remove(at);
                let used = std::mem::replace(&mut self.complete, message.buffer.bytes);
                self.recycle(Buffer { bytes: used, have: message.buffer.have });
                Ok(Some((&mut self.complete, message.outer)))
            }
            Err(reason) => {
                let message = self.remove(at);
                self.recycle(message.buffer);
                Err(reason)
            }
        }
    }

    /// Gives up what took too long; returns how many messages.
    pub fn handle_timeout(&mut self, now: Time) -> usize {
        self.drop_where(|message| message.deadline <= now)
    }

    /// When [`Reassembler::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.messages.iter().map(|message| message.deadline).min()
    }

    /// Drops what a peer has unfinished, because its link is gone; returns how many messages.
    pub fn forget(&mut self, peer: PeerId) -> usize {
        self.drop_where(|message| message.peer == peer)
    }

    /// Messages that were given up for want of room, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Unfinished messages.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of unfinished messages, as the limit counts them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, peer: PeerId, id: u32) -> Option<usize> {
        let is_it = |message: &Message| message.id == id && message.peer == peer;
        if self.messages.get(self.last).is_some_and(is_it) {
            return Some(self.last);
        }
        self.messages.iter().position(is_it)
    }

    /// Makes room for a new message and begins it.
    fn begin(
        &mut self,
        peer: PeerId,
        info: FragmentInfo,
        outer: Ecn,
        now: Time,
    ) -> Result<usize, ReassemblyDrop> {
        let total = usize::from(info.total);
        if total > self.limits.max_bytes || self.limits.max_messages == 0 {
            return Err(ReassemblyDrop::TooLong);
        }
        while self.messages.len() >= self.limits.max_messages {
            self.evict(peer, |usage| usage.messages, 1)?;
        }
        while self.bytes + total > self.limits.max_bytes {
            self.evict(peer, |usage| usage.bytes, total)?;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.have.clear();
        buffer.bytes.clear();
        buffer.bytes.reserve_exact(total);
        buffer.bytes.resize(total, 0);
        self.bytes += total;
        match self.usage.iter_mut().find(|usage| usage.peer == peer) {
            Some(usage) => {
                usage.bytes += total;
                usage.messages += 1;
            }
            None => self.usage.push(Usage { peer, bytes: total, messages: 1 }),
        }
        let deadline = now + self.limits.timeout;
        self.messages.push(Message { peer, id: info.id, begun: self.begun, deadline, outer, buffer });
        self.begun += 1;
        Ok(self.messages.len() - 1)
    }

    /// Drops the oldest message of the peer that holds the most of `what`, the newcomer's share counted with the
    /// `more` it asks for; of equals, the newcomer's. A newcomer that has nothing to give up is refused.
    fn evict(
        &mut self,
        newcomer: PeerId,
        what: impl Fn(&Usage) -> usize,
        more: usize,
    ) -> Result<(), ReassemblyDrop> {
        let mut heaviest = (newcomer, more);
        for usage in &self.usage {
            if usage.peer == newcomer {
                heaviest.1 += what(usage);
            }
        }
        for usage in &self.usage {
            if what(usage) > heaviest.1 {
                heaviest = (usage.peer, what(usage));
            }
        }
        let of_heaviest = |(_, message): &(usize, &Message)| message.peer == heaviest.0;
        let oldest = |(_, message): &(usize, &Message)| message.begun;
        let at = self.messages.iter().enumerate().filter(of_heaviest).min_by_key(oldest);
        let (at, _) = at.ok_or(ReassemblyDrop::Full)?;
        let message = self.remove(at);
        self.recycle(message.buffer);
        self.evicted += 1;
        Ok(())
    }

    fn drop_where(&mut self, mut gone: impl FnMut(&Message) -> bool) -> usize {
        let before = self.messages.len();
        let mut at = 0;
        while at < self.messages.len() {
            if gone(&self.messages[at]) {
                let message = self.remove(at);
                self.recycle(message.buffer);
            } else {
                at += 1;
            }
        }
        before - self.messages.len()
    }

    fn remove(&mut self, at: usize) -> Message {
        let message = self.messages.swap_remove(at);
        let total = message.buffer.bytes.len();
        self.bytes -= total;
        if let Some(i) = self.usage.iter().position(|usage| usage.peer == message.peer) {
            self.usage[i].bytes -= total;
            self.usage[i].messages -= 1;
            if self.usage[i].messages == 0 {
                self.usage.swap_remove(i);
            }
        }
        message
    }

    fn recycle(&mut self, buffer: Buffer) {
        let kept = self.spare.len() + self.messages.len();
        if buffer.bytes.capacity() <= MAX_SPARE && kept < self.limits.max_messages {
            self.spare.push(buffer);
        }
    }
}

/// An unfinished message.
struct Message {
    peer: PeerId,
    id: u32,
    /// Orders messages by their beginning.
    begun: u64,
    deadline: Time,
    outer: Ecn,
    buffer: Buffer,
}

/// What is kept of a message for the next one.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// The ranges that arrived, as (first byte, one past the last), ascending, apart from one another.
    have: Vec<(u16, u16)>,
}

impl Message {
    /// Adds a fragment; true if the message is whole.
    fn add(&mut self, info: FragmentInfo, data: &[u8]) -> Result<bool, ReassemblyDrop> {
        let total = self.buffer.bytes.len();
        if usize::from(info.total) != total {
            return Err(ReassemblyDrop::Contradiction);
        }
        check_range(info, data)?;
        let (start, end) = (info.offset, info.offset + data.len() as u16);
        let have = &mut self.buffer.have;
        let at = have.partition_point(|range| range.1 <= start);
        if have.get(at).is_some_and(|range| range.0 < end) {
            return Err(ReassemblyDrop::Overlap);
        }
        let joins_before = at > 0 && have[at - 1].1 == start;
        let joins_after = have.get(at).is_some_and(|range| range.0 == end);
        match (joins_before, joins_after) {
            (true, true) => {
                have[at - 1].1 = have[at].1;
                have.remove(at);
            }
            (true, false) => have[at - 1].1 = end,
            (false, true) => have[at].0 = start,
            (false, false) if have.len() == MAX_GAPS => return Err(ReassemblyDrop::Scattered),
            (false, false) => have.insert(at, (start, end)),
        }
        self.buffer.bytes[usize::from(start)..usize::from(end)].copy_from_slice(data);
        Ok(have[..] == [(0, info.total)])
    }
}

fn check_range(info: FragmentInfo, data: &[u8]) -> Result<(), ReassemblyDrop> {
    if usize::from(info.offset) + data.len() > usize::from(info.total) {
        return Err(ReassemblyDrop::OutOfRange);
    }
    Ok(())
}

struct Usage {
    peer: PeerId,
    bytes: usize,
    messages: usize,
}

/// Why a fragment was dropped, and its message with it if that had begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReassemblyDrop {
    /// No data.
    #[error("fragment without data")]
    Empty,
    /// Reaches beyond its message.
    #[error("fragment reaches beyond the end of its message")]
    OutOfRange,
    /// Announces another length than the fragments before it.
    #[error("fragment contradicts its message's length")]
    Contradiction,
    /// Bytes that had arrived came again.
    #[error("fragment overlaps another one")]
    Overlap,
    /// Lies in more parts than an honest sender's message, reordered, ever does.
    #[error("message scattered over too many parts")]
    Scattered,
    /// No room, and the other peers hold less than it asks for.
    #[error("reassembly is full")]
    Full,
    /// Longer than all the memory there is for messages.
    #[error("message longer than the reassembly limit")]
    TooLong,
}

impl ReassemblyDrop {
    /// All of them, for tables by reason.
    pub const ALL: &'static [ReassemblyDrop] = &[
        ReassemblyDrop::Empty,
        ReassemblyDrop::OutOfRange,
        ReassemblyDrop::Contradiction,
        ReassemblyDrop::Overlap,
        ReassemblyDrop::Scattered,
        ReassemblyDrop::Full,
        ReassemblyDrop::TooLong,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            ReassemblyDrop::Empty => "fragment_empty",
            ReassemblyDrop::OutOfRange => "fragment_out_of_range",
            ReassemblyDrop::Contradiction => "fragment_contradiction",
            ReassemblyDrop::Overlap => "fragment_overlap",
            ReassemblyDrop::Scattered => "fragment_scattered",
            ReassemblyDrop::Full => "reassembly_full",
            ReassemblyDrop::TooLong => "fragment_too_long",
        }
    }
}

/// A message of 65,535 bytes on a path of 1,280 has under 60 fragments: at most 30 ranges apart from one another.
const MAX_GAPS: usize = 64;

/// Larger buffers than a frame at the largest MTU of guests needs are not kept.
const MAX_SPARE: usize = 10 << 10;
