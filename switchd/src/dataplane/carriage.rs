//! Frames that ride in QUIC datagrams (RFC 9221). The worker cuts them to what the connection takes and gathers the
//! messages; the link plane gives them to QUIC, which encrypts, sends and acknowledges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::{SplitPlan, clamp_mss};
use switch_core::switch::DropReason;
use switch_core::vnet::{Gso, PartialCsum, VnetHdr};
use switch_core::wire::{FRAGMENT_HEADER_LEN, FRAME_HEADER_LEN, FrameHeader, Lane, Origin, encode_fragment};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::outbound::{Outbound, l2_len, write_message};
use super::peers::Peer;

/// A session's way into its QUIC connection, a queue for each lane; cheap to clone.
#[derive(Clone, Debug)]
pub struct QuicSender {
    prompt: mpsc::Sender<Batch>,
    bulk: mpsc::Sender<Batch>,
    limit: Arc<AtomicUsize>,
}

/// The link plane's end of a [`QuicSender`].
#[derive(Debug)]
pub(crate) struct QuicQueue {
    prompt: mpsc::Receiver<Batch>,
    bulk: mpsc::Receiver<Batch>,
    limit: Arc<AtomicUsize>,
}

/// Messages of one lane for one connection, in order.
#[derive(Debug)]
pub(crate) struct Batch {
    since: Instant,
    bytes: Bytes,
    lens: Vec<u16>,
}

/// Messages that a peer's QUIC datagrams held, in order.
#[derive(Debug)]
pub struct QuicMessages {
    /// Who has proved to be their sender.
    pub peer: PeerId,
    /// One message each.
    pub messages: Vec<Bytes>,
}

/// Messages that were not passed on.
#[derive(Debug, Default)]
pub(crate) struct CarriageDrops {
    /// Waited for longer than [`QueuedMessage::MAX_AGE`].
    pub(crate) stale: AtomicU64,
    /// The limit fell after they were cut.
    pub(crate) too_long: AtomicU64,
    /// The connection ended.
    pub(crate) lost: AtomicU64,
    /// A queue was full, to QUIC or to the worker.
    pub(crate) full: AtomicU64,
}

impl CarriageDrops {
    pub(crate) fn add(count: &AtomicU64, messages: usize) {
        count.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// All of them, by reason.
    pub(super) fn counts(&self) -> [(DropReason, u64); 4] {
        [
            (DropReason::Stale, &self.stale),
            (DropReason::Shrunk, &self.too_long),
            (DropReason::LinkDown, &self.lost),
            (DropReason::QueueFull, &self.full),
        ]
        .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }
}

impl QuicSender {
    /// The worker's end and the link plane's, of a connection that takes datagrams of `limit` bytes; 0: of none.
    pub(crate) fn new(limit: usize) -> (QuicSender, QuicQueue) {
        let ((to_prompt, prompt), (to_bulk, bulk)) = (mpsc::channel(PROMPT_QUEUE), mpsc::channel(BULK_QUEUE));
        let limit = Arc::new(AtomicUsize::new(limit));
        (
            QuicSender { prompt: to_prompt, bulk: to_bulk, limit: limit.clone() },
            QuicQueue { prompt, bulk, limit },
        )
    }

    /// The longest message that the connection takes now, on a path that carries UDP payloads of `datagram_max`.
    fn room(&self, datagram_max: usize) -> Option<usize> {
        let limit = self.limit.load(Ordering::Relaxed).min(datagram_max.saturating_sub(OVERHEAD));
        (limit >= LEAST).then_some(limit)
    }

    /// What the link plane said last.
    #[cfg(test)]
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Hands messages over as the worker would.
    #[cfg(test)]
    pub(crate) async fn put(&self, lane: Lane, messages: &[Bytes]) {
        let lens = messages.iter().map(|message| message.len() as u16).collect();
        let batch = Batch { since: Instant::now(), bytes: messages.concat().into(), lens };
        let queue = match lane {
            Lane::Prompt => &self.prompt,
            Lane::Bulk => &self.bulk,
        };
        // The link plane may be gone.
        let _ = queue.send(batch).await;
    }

    fn is(&self, other: &QuicSender) -> bool {
        Arc::ptr_eq(&self.limit, &other.limit)
    }
}

impl QuicQueue {
    /// The next batch and its lane, the prompt one where it has any; `None` when the session is gone. Before each
    /// message of a bulk batch, and of no other, what [`QuicQueue::prompt`] has is to be sent: a flow that turned from
    /// prompt to bulk has messages in both.
    pub(crate) async fn next(&mut self) -> Option<(Lane, Batch)> {
        tokio::select! {
            biased;
            Some(batch) = self.prompt.recv() => Some((Lane::Prompt, batch)),
            Some(batch) = self.bulk.recv() => Some((Lane::Bulk, batch)),
            else => None,
        }
    }

    /// A batch of the prompt lane that waits.
    pub(crate) fn prompt(&mut self) -> Option<Batch> {
        self.prompt.try_recv().ok()
    }

    /// What the connection takes from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// A message of a batch.
#[derive(Debug)]
pub(crate) struct QueuedMessage {
    pub(crate) bytes: Bytes,
    since: Instant,
}

impl QueuedMessage {
    /// What has waited for longer than this is not worth sending: a TCP of the instances has sent it again. It must be
    /// well under the silence after which a bulk flow is prompt again (`switch_core::lanes`), or the flow's frames
    /// would overtake each other.
    const MAX_AGE: Duration = Duration::from_millis(50);

    pub(crate) fn is_stale(&self) -> bool {
        self.since.elapsed() > QueuedMessage::MAX_AGE
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.lens.len()
    }

    /// Its messages, which share their memory.
    pub(crate) fn messages(self) -> impl Iterator<Item = QueuedMessage> {
        let Batch { since, mut bytes, lens } = self;
        lens.into_iter().map(move |len| QueuedMessage { bytes: bytes.split_to(usize::from(len)), since })
    }
}

/// Gathers messages of each lane for one connection at a time, so that order holds.
#[derive(Debug)]
pub(super) struct CarriageOut {
    to: Option<QuicSender>,
    prompt: Gathered,
    bulk: Gathered,
    /// What found no room, or was lost behind this.
    pub(super) drops: Arc<CarriageDrops>,
}

/// What is to be one batch.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    lens: Vec<u16>,
}

impl CarriageOut {
    pub(super) fn new(drops: Arc<CarriageDrops>) -> CarriageOut {
        CarriageOut { to: None, prompt: Gathered::default(), bulk: Gathered::default(), drops }
    }

    /// Takes a frame or super-frame for a peer; it leaves with the next flush.
    pub(super) fn send(
        &mut self,
        sender: Option<&QuicSender>,
        peer: &mut Peer,
        outbound: Outbound,
        vnet: &VnetHdr,
        frame: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let sender = sender.ok_or(DropReason::NoCarriage)?;
        let max = sender.room(peer.datagram_max()).ok_or(DropReason::NoCarriage)?;
        let max_frame = max - FRAME_HEADER_LEN;
        if outbound.mss_clamp {
            clamp_mss(frame, (max_frame - l2_len(frame)) as u16, vnet.csum.is_some());
        }
        let gathered = self.begin(sender, outbound.lane, frame.len());
        let mut cutter = Cutter { gathered, peer, vni: outbound.vni, max, scratch };
        match vnet.gso {
            Gso::None => cutter.frame(Origin::Whole, vnet.csum, frame),
            gso => {
                let origin = if gso == Gso::UdpL4 { Origin::UdpSegment } else { Origin::TcpSegment };
                let plan = SplitPlan::new(frame, vnet, max_frame).map_err(|_| DropReason::BadGso)?;
                cutter.segments(origin, &plan, frame)
            }
        }
    }

    /// Hands over what is gathered, the prompt lane's first: a flow may have turned from prompt to bulk.
    pub(super) fn flush(&mut self) {
        // A connection is not kept for what may never follow.
        let Some(to) = self.to.take() else { return };
        let CarriageOut { prompt, bulk, drops, .. } = self;
        for (queue, gathered) in [(&to.prompt, prompt), (&to.bulk, bulk)] {
            let Some(batch) = gathered.take() else { continue };
            let (count, batch) = match queue.try_send(batch) {
                Ok(()) => continue,
                Err(TrySendError::Full(batch)) => (&drops.full, batch),
                Err(TrySendError::Closed(batch)) => (&drops.lost, batch),
            };
            CarriageDrops::add(count, batch.len());
        }
    }

    /// What follows is of this lane and for this connection, about so many bytes.
    fn begin(&mut self, to: &QuicSender, lane: Lane, len: usize) -> &mut Gathered {
        let known = self.to.as_ref().is_some_and(|known| known.is(to));
        if !known || self.gathered(lane).bytes.len() + len > BATCH_BYTES {
            self.flush();
        }
        self.to.get_or_insert_with(|| to.clone());
        let gathered = self.gathered(lane);
        if gathered.bytes.is_empty() {
            gathered.bytes.reserve(len + len / 8);
        }
        gathered
    }

    fn gathered(&mut self, lane: Lane) -> &mut Gathered {
        match lane {
            Lane::Prompt => &mut self.prompt,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

impl Gathered {
    /// One message of `len` bytes that `fill` writes.
    fn put(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        fill(&mut self.bytes[start..]);
        self.lens.push(len as u16);
    }

    fn take(&mut self) -> Option<Batch> {
        let Gathered { bytes, lens } = std::mem::take(self);
        (!lens.is_empty()).then(|| Batch { since: Instant::now(), bytes: bytes.into(), lens })
    }
}

/// One peer's sending side, borrowed for one frame.
struct Cutter<'a> {
    gathered: &'a mut Gathered,
    peer: &'a mut Peer,
    vni: Vni,
    /// The longest message.
    max: usize,
    scratch: &'a mut Vec<u8>,
}

impl Cutter<'_> {
    fn frame(&mut self, origin: Origin, csum: Option<PartialCsum>, frame: &[u8]) -> Result<(), DropReason> {
        let header = FrameHeader { vni: self.vni, origin, csum }.encode();
        if FRAME_HEADER_LEN + frame.len() > self.max {
            self.scratch.clear();
            self.scratch.extend_from_slice(&header);
            self.scratch.extend_from_slice(frame);
            return self.fragments();
        }
        self.put(FRAME_HEADER_LEN + frame.len(), |message| {
            let (head, body) = message.split_at_mut(FRAME_HEADER_LEN);
            head.copy_from_slice(&header);
            body.copy_from_slice(frame);
        });
        Ok(())
    }

    fn segments(&mut self, origin: Origin, plan: &SplitPlan, frame: &[u8]) -> Result<(), DropReason> {
        let header = FrameHeader { vni: self.vni, origin, csum: Some(plan.csum()) }.encode();
        for i in 0..plan.count() {
            let len = FRAME_HEADER_LEN + plan.segment_len(i);
            if len > self.max {
                self.scratch.resize(len, 0);
                write_message(&header, plan, i, frame, self.scratch);
                self.fragments()?;
                continue;
            }
            self.put(len, |message| write_message(&header, plan, i, frame, message));
        }
        Ok(())
    }

    /// Cuts the message in `scratch`.
    fn fragments(&mut self) -> Result<(), DropReason> {
        let message = std::mem::take(self.scratch);
        let result = match self.peer.fragmenter.cut(&message, self.max - FRAGMENT_HEADER_LEN) {
            Ok(pieces) => {
                for (info, data) in pieces {
                    let header = encode_fragment(self.vni, &info);
                    self.put(FRAGMENT_HEADER_LEN + data.len(), |message| {
                        let (head, body) = message.split_at_mut(FRAGMENT_HEADER_LEN);
                        head.copy_from_slice(&header);
                        body.copy_from_slice(data);
                    });
                }
                Ok(())
            }
            Err(_) => Err(DropReason::TooBig),
        };
        *self.scratch = message;
        result
    }

    fn put(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        self.gathered.put(len, fill);
        self.peer.counters.quic_to_peer += 1;
        self.peer.counters.quic_bytes_to_peer += len as u64;
    }
}

/// Bulk batches that may wait for QUIC, a megabyte at most; what comes then is dropped.
const BULK_QUEUE: usize = 16;
/// Prompt batches. Each turn of the worker makes one, mostly of a message or two.
const PROMPT_QUEUE: usize = 256;
/// A batch ends with the frame that would make it longer.
const BATCH_BYTES: usize = 64 << 10;
/// What QUIC may add to a message (RFC 9000, 17.3.1; RFC 9221, 4): first byte, connection id, packet number and tag,
/// and as much for the frame's type and length as quinn reckons.
const OVERHEAD: usize = 1 + 8 + 4 + 16 + 9;
/// A connection that takes no more than this takes no frames: every path carries 1200 bytes, so its peer says so.
const LEAST: usize = 1000;

#[cfg(test)]
mod tests;
