//! What the other planes tell the worker, and what it tells them.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::ids::{Generation, PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Opener, Sealer};
use switch_core::switch::{Binding, Policy};
use tokio::sync::{mpsc, oneshot};

use crate::tap::Tap;
use crate::view::{BindingRow, CaptureFilter, CapturedFrame, DroppedFrame, MacRow};

/// One instruction to the worker; carried out in order.
#[derive(Debug)]
pub enum Command {
    /// The endpoint of a network came up as this TAP, or went away.
    SetEndpoint(Vni, Option<Tap>),
    /// A reload changed a network's policy.
    SetPolicy(Vni, Policy, MssClamp),
    /// A reload set a static binding.
    SetBinding(Vni, Box<Binding>),
    /// A reload removed a static binding.
    RemoveBinding(Vni, switch_core::switch::BindingKey, Generation),
    /// A peer, by number and name, and the networks of ours that it may take part in.
    AddPeer(PeerId, Arc<str>, Vec<Vni>),
    /// It is no peer any more.
    RemovePeer(PeerId),
    /// From now on datagrams with this receiver index are of this peer.
    AddSession(ReceiverIndex, PeerId, Box<Opener>),
    /// The peer of this session can open what this seals.
    ArmSession(ReceiverIndex, Box<Sealer>),
    /// Seal for the peer by this session, or not at all.
    UseSession(PeerId, Option<ReceiverIndex>),
    /// Wipe the session's keys.
    RemoveSession(ReceiverIndex),
    /// Where the peer's datagrams go.
    SetAddress(PeerId, SocketAddr),
    /// The largest UDP payload that the path to the peer carries.
    SetDatagramMax(PeerId, usize),
    /// The networks that the peer says it is in.
    SetMembership(PeerId, Vec<Vni>),
    /// The peer was seen at this address: move it there once it has answered from there.
    Challenge(PeerId, SocketAddr),
    /// Send a sign of life to every peer: our address may have changed.
    ProbeAll,
    /// Report once a peer's session has sealed this many datagrams.
    SetRekeyDatagrams(u64),
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

/// Whether the MSS option of TCP SYNs is lowered to what the path carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MssClamp(pub bool);

/// What the worker reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The peer answered a probe at another address than it had, and is reached there from now on.
    Moved(PeerId, SocketAddr),
    /// The session in use has sealed as many datagrams as it should.
    RekeyDue(PeerId),
    /// The kernel refused a datagram to this peer as too long for the path.
    TooLong(PeerId),
}

/// A way to the worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
}

impl Handle {
    /// The handle and the worker's ends of it.
    pub(crate) fn new() -> nix::Result<(Handle, Receiver<Command>, Arc<EventFd>)> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (commands, received) = crossbeam_channel::bounded(QUEUE);
        Ok((Handle { commands, wake: wake.clone() }, received, wake))
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

    fn wake(&self) {
        // The counter can only be full if the worker is to wake up anyway.
        let _ = self.wake.write(1);
    }
}

const QUEUE: usize = 16_384;
