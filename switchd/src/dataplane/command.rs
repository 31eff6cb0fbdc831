//! What the other planes tell the worker, and what it tells them.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use nat_traversal::{Offer, PathConfig, PathEvent, PathId};
use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::ids::{Generation, PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Opener, Sealer};
use switch_core::switch::{Binding, BindingKey, Policy};
use tokio::sync::{mpsc, oneshot};

use super::NetworkConfig;
use super::carriage::{CarriageDrops, QuicMessages, QuicSender};
use crate::desired::StationReport;
use crate::tap::Tap;
use crate::underlay::StreamMessage;
use crate::view::{BindingRow, CaptureFilter, CapturedFrame, DroppedFrame, MacRow};

/// One instruction to the worker; carried out in order.
#[derive(Debug)]
pub enum Command {
    /// The endpoint of a network came up as this TAP, or went away.
    SetEndpoint(Vni, Option<Tap>),
    /// A network is to be served from now on.
    AddNetwork(Box<NetworkConfig>),
    /// No more: its TAP is closed.
    RemoveNetwork(Vni),
    /// A network's policy changed.
    SetPolicy(Vni, Policy, MssClamp),
    /// A peer, by number and name, and the networks of ours that it may take part in.
    AddPeer(PeerId, Arc<str>, Vec<Vni>),
    /// It is no peer any more.
    RemovePeer(PeerId),
    /// From now on datagrams with this receiver index are of this peer.
    AddSession(ReceiverIndex, PeerId, Box<Opener>),
    /// The peer of this session can open what this seals.
    ArmSession(ReceiverIndex, Box<Sealer>),
    /// The peer of this session gives its instances what ECN the underlay's headers have.
    CarryEcn(ReceiverIndex),
    /// Frames for the peer of this session that ride in QUIC datagrams go this way.
    SetQuicSender(ReceiverIndex, QuicSender),
    /// Seal for the peer by this session, or not at all.
    UseSession(PeerId, Option<ReceiverIndex>),
    /// Wipe the session's keys.
    RemoveSession(ReceiverIndex),
    /// A way to the peer that may work. The worker tries it, and decides what carries frames.
    OfferPath(PeerId, Offer),
    /// It is gone.
    WithdrawPath(PeerId, PathId),
    /// Timing and limits of all peers' paths.
    SetPathConfig(PathConfig),
    /// Whether a link to the peer is made when frames for it want one: then they are held for a moment where there is
    /// no session, and reported as [`Report::Wanted`].
    SetOnDemand(PeerId, bool),
    /// The networks that the peer says it is in.
    SetMembership(PeerId, Vec<Vni>),
    /// Ask by every path of every peer: our address may have changed.
    ProbeAll,
    /// Report once a peer's session has sealed this many datagrams.
    SetRekeyDatagrams(u64),
    /// Answer with everything that was learned on this node's bridges.
    LocalStations(oneshot::Sender<Vec<StationReport>>),
    /// Answer with the binding tables.
    Bindings(oneshot::Sender<Vec<BindingRow>>),
    /// Answer with the MAC tables.
    Macs(oneshot::Sender<Vec<MacRow>>),
    /// Answer with the latest drops.
    Drops(oneshot::Sender<Vec<DroppedFrame>>),
    /// Answer, to show that the worker turns.
    Ping(oneshot::Sender<()>),
    /// Copy frames to this channel until it closes.
    Capture(CaptureFilter, mpsc::Sender<CapturedFrame>),
    /// End the worker.
    Stop,
}

/// What there may be a hundred thousand of at once: in bites, so that frames go on in between. A bite is carried out
/// after every [`Command`] that was sent before it.
#[derive(Debug)]
pub enum Bite {
    /// Bindings, at most [`BITE`].
    Bindings(Vec<BindingChange>),
    /// Answer: all bites before this one are done, but for what was refused since the last such answer.
    Done(oneshot::Sender<Refused>),
}

/// Bindings that the switches refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// How many.
    pub count: usize,
    /// Why the first one was.
    pub first: Option<String>,
}

impl Refused {
    /// A sentence, if there were any.
    pub fn problem(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(match self.count {
            1 => format!("a binding is refused: {first}"),
            n => format!("{n} bindings are refused, the first: {first}"),
        })
    }
}

/// One binding's change, as the control plane says.
#[derive(Debug)]
pub enum BindingChange {
    /// It is so.
    Set(Vni, Box<Binding>),
    /// It is no more, unless a newer generation has come.
    Remove(Vni, BindingKey, Generation),
}

/// Whether the MSS option of TCP SYNs is lowered to what the path carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MssClamp(pub bool);

/// What the worker reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// What became of a peer's paths.
    Path(PeerId, PathEvent),
    /// The session in use has sealed as many datagrams as it should.
    RekeyDue(PeerId),
    /// A frame waits for a link with this peer; at most every 100 ms for each.
    Wanted(PeerId),
}

/// A way to the worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: Sender<Command>,
    bites: mpsc::Sender<Bite>,
    streams: mpsc::Sender<StreamMessage>,
    carried: mpsc::Sender<QuicMessages>,
    carriage_drops: Arc<CarriageDrops>,
    wake: Arc<EventFd>,
}

/// The worker's ends of a [`Handle`].
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) commands: Receiver<Command>,
    pub(crate) bites: mpsc::Receiver<Bite>,
    pub(crate) streams: mpsc::Receiver<StreamMessage>,
    pub(crate) carried: mpsc::Receiver<QuicMessages>,
    pub(crate) carriage_drops: Arc<CarriageDrops>,
    pub(crate) wake: Arc<EventFd>,
}

impl Handle {
    /// The handle and the worker's ends of it.
    pub(crate) fn new() -> nix::Result<(Handle, Received)> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (commands, received) = crossbeam_channel::bounded(QUEUE);
        let (bites, received_bites) = mpsc::channel(BITES);
        let (streams, received_streams) = mpsc::channel(STREAM_MESSAGES);
        let (carried, received_carried) = mpsc::channel(CARRIED);
        let carriage_drops = Arc::new(CarriageDrops::default());
        let handle = Handle {
            commands,
            bites,
            streams,
            carried,
            carriage_drops: carriage_drops.clone(),
            wake: wake.clone(),
        };
        let received = Received {
            commands: received,
            bites: received_bites,
            streams: received_streams,
            carried: received_carried,
            carriage_drops,
            wake,
        };
        Ok((handle, received))
    }

    /// Hands a command over; waits if thousands are queued. False if the worker has stopped.
    pub fn send(&self, command: Command) -> bool {
        let sent = match self.commands.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(command)) => {
                self.wake();
                self.commands.send(command).is_ok()
            }
            Err(TrySendError::Disconnected(_)) => false,
        };
        self.wake();
        sent
    }

    /// Waits until the worker has room for a bite; false if it has stopped. To be followed by [`Handle::bite`].
    /// Cancel safe.
    pub async fn bite_room(&self) -> Option<mpsc::Permit<'_, Bite>> {
        self.bites.reserve().await.ok()
    }

    /// Hands a bite over.
    pub fn bite(&self, room: mpsc::Permit<'_, Bite>, bite: Bite) {
        room.send(bite);
        self.wake();
    }

    /// Hands over what a relay sent by a stream: channel data or a Data indication. Waits while the worker has many
    /// of them, so that the stream's own flow control acts. False if the worker has stopped. Cancel safe.
    pub async fn stream_message(&self, message: StreamMessage) -> bool {
        let sent = self.streams.send(message).await.is_ok();
        self.wake();
        sent
    }

    /// Hands over what a peer's QUIC datagrams held; what finds no room is counted as dropped. False if the worker
    /// has stopped.
    pub(crate) fn carried(&self, carried: QuicMessages) -> bool {
        match self.carried.try_send(carried) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(carried)) => {
                CarriageDrops::add(&self.carriage_drops.full, carried.messages.len());
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
        }
        self.wake();
        true
    }

    /// Where the link plane counts what it drops.
    pub(crate) fn carriage_drops(&self) -> &CarriageDrops {
        &self.carriage_drops
    }

    fn wake(&self) {
        // The counter can only be full if the worker is to wake up anyway.
        let _ = self.wake.write(1);
    }
}

const QUEUE: usize = 16_384;
/// Bindings in one bite, which takes the worker a fraction of a millisecond.
pub const BITE: usize = 256;
/// Bites that may wait.
const BITES: usize = 4;
/// Messages from relays' streams that may wait.
const STREAM_MESSAGES: usize = 256;
/// Batches of messages from QUIC that may wait.
const CARRIED: usize = 64;
