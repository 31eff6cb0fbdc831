//! The worker's loop: waits for work, takes commands, moves batches both ways, minds the timers.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use switch_core::ids::Vni;
use switch_core::lanes::Lanes;
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::vnet::VNET_HDR_LEN;
use switch_core::wire::Lane;
use tokio::sync::mpsc;

use super::capture::Captures;
use super::carriage::{CarriageOut, QuicMessages};
use super::carry_out::{carry_out, take_bite};
use super::command::{Bite, Command, Received, Refused, Report};
use super::core::Core;
use super::drops::DropLog;
use super::inbound::Inbound;
use super::network::Network;
use super::networks::Networks;
use super::paths::PathWork;
use super::peers::Peers;
use super::snapshot::{DropCounts, Snapshot};
use super::transmitter::Transmitter;
use super::views;
use crate::desired::StationReport;
use crate::tap::{READ_MAX, is_gone};
use crate::underlay::{QuicDatagram, StreamMessage, StunDatagram, Underlay};

/// The worker's ends of its channels.
pub(super) struct Ends {
    pub(super) received: Received,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) stations: mpsc::Sender<StationReport>,
    pub(super) quic: mpsc::Sender<QuicDatagram>,
    pub(super) stun: mpsc::Sender<StunDatagram>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The data plane's thread.
pub(super) struct Worker {
    node: Arc<str>,
    underlay: Arc<Underlay>,
    epoll: Epoll,
    commands: Receiver<Command>,
    bites: mpsc::Receiver<Bite>,
    streams: mpsc::Receiver<StreamMessage>,
    carried: mpsc::Receiver<QuicMessages>,
    refused: Refused,
    wake: Arc<EventFd>,
    core: Core,
    networks: Networks,
    inbound: Inbound,
    stations: mpsc::Sender<StationReport>,
    /// Buffers for local frames that are not in use.
    free: Vec<Vec<u8>>,
    /// TAPs of networks where local frames wait, and those that have their turn.
    backlog: Vec<u64>,
    due: Vec<u64>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    published: Instant,
    /// Something was counted since.
    unpublished: bool,
    stopping: bool,
}

impl Worker {
    pub(super) fn new(
        underlay: Arc<Underlay>,
        node: Arc<str>,
        hash_seed: [u64; 4],
        ends: Ends,
    ) -> nix::Result<Worker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ends.received.wake, EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_WAKE))?;
        for socket in underlay.sockets() {
            epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_UNDERLAY))?;
        }
        let start = Instant::now();
        let core = Core {
            start,
            peers: Peers::new(hash_seed),
            lanes: Lanes::new(hash_seed),
            transmitter: Transmitter::new(underlay.clone()),
            carriage: CarriageOut::new(ends.received.carriage_drops),
            captures: Captures::default(),
            drop_log: DropLog::default(),
            datagram_drops: DropCounts::default(),
            reports: ends.reports,
            rekey_datagrams: u64::MAX,
            paths: PathWork::default(),
            bulk: false,
            unheld: Vec::new(),
            removed: Vec::new(),
            scratch: Vec::new(),
        };
        Ok(Worker {
            node,
            underlay,
            epoll,
            commands: ends.received.commands,
            bites: ends.received.bites,
            streams: ends.received.streams,
            carried: ends.received.carried,
            refused: Refused::default(),
            wake: ends.received.wake,
            core,
            inbound: Inbound::new(ends.quic, ends.stun),
            networks: Networks::default(),
            stations: ends.stations,
            free: Vec::new(),
            backlog: Vec::new(),
            due: Vec::new(),
            snapshot: ends.snapshot,
            published: start,
            unpublished: true,
            stopping: false,
        })
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 16];
        let mut worked = None::<Instant>;
        loop {
            let busy = worked.is_some_and(|at| at.elapsed() < BUSY_POLL);
            let timeout = if busy { EpollTimeout::ZERO } else { self.timeout() };
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(0) if busy && !self.has_work() => {
                    std::thread::yield_now();
                    continue;
                }
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                Err(e) => return tracing::error!(error = %e, "the worker cannot wait for work and stops"),
            };
            let left = self.has_work();
            let tokens: [u64; 16] = std::array::from_fn(|i| events[i].data());
            let tokens = &tokens[..ready];
            if tokens.contains(&TOKEN_WAKE) {
                let _ = self.wake.read();
            }
            self.take_commands();
            if tokens.contains(&TOKEN_UNDERLAY) || !self.streams.is_empty() {
                self.receive();
            }
            if !self.carried.is_empty() {
                self.inbound.take_carried(&mut self.carried, &mut self.core, &mut self.networks);
            }
            self.read_taps(tokens);
            self.core.transmitter.flush();
            self.core.carriage.flush();
            self.core.mind_too_long();
            if self.stopping {
                return;
            }
            if ready > 0 || left {
                self.unpublished = true;
                let bulk = std::mem::take(&mut self.core.bulk);
                if bulk {
                    // Whoever waits for this CPU gets it now, and not at the end of this thread's time slice: what
                    // was just carried may be for him.
                    std::thread::yield_now();
                }
                worked = (!bulk).then(Instant::now);
            }
            self.mind_timers();
        }
    }

    fn receive(&mut self) {
        let Worker { underlay, core, networks, inbound, commands, streams, epoll, node, stopping, .. } = self;
        inbound.begin_turn();
        for _ in 0..RECEIVE_BUDGET {
            // A session may be in use by its peer before this loop took the command that adds it.
            let mut late = |core: &mut Core, networks: &mut Networks| {
                while let Ok(command) = commands.try_recv() {
                    *stopping |= matches!(command, Command::Stop);
                    carry_out(command, core, networks, epoll, node);
                }
            };
            inbound.take_streams(underlay, streams, core, networks, &mut late);
            match inbound.receive(underlay, core, networks, &mut late) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    // Errors of earlier sends surface here; the socket itself stays good.
                    tracing::debug!(error = %e, "receiving from the underlay");
                    break;
                }
            }
        }
    }

    fn read_taps(&mut self, ready: &[u64]) {
        std::mem::swap(&mut self.backlog, &mut self.due);
        for token in ready.iter().filter(|token| **token >= TOKEN_TAPS) {
            if !self.due.contains(token) {
                self.due.push(*token);
            }
        }
        for i in 0..self.due.len() {
            self.read_tap(self.due[i]);
        }
        self.due.clear();
        self.free.truncate(WAITING_MAX);
    }

    /// Takes a turn at a TAP: all that waits there is read, frames of the prompt lane are carried at once, and of the
    /// others a part of those that wait; then what has come meanwhile is read.
    fn read_tap(&mut self, token: u64) {
        let Worker { networks, core, free, backlog, .. } = self;
        let Some(network) = tap_of(token).and_then(|vni| networks.get_mut(vni)) else { return };
        let (mut reads, mut carried) = (LOCAL_BUDGET, 0);
        loop {
            let empty = drain_tap(network, core, free, &mut reads);
            let until = carried + LOCAL_SLICE;
            core.bulk |= !network.waiting.is_empty();
            while carried < until
                && let Some((mut buf, len)) = network.waiting.pop_front()
            {
                network.local_frame(core, &mut buf[..len], Lane::Bulk, core.now());
                free.push(buf);
                carried += len;
            }
            if carried >= LOCAL_TURN || (network.waiting.is_empty() && (empty || reads == 0)) {
                break;
            }
        }
        if !network.waiting.is_empty() {
            backlog.push(token);
        }
    }

    /// Takes a bounded number of commands, then one bite, so that frames wait for neither.
    fn take_commands(&mut self) {
        for _ in 0..COMMAND_BUDGET {
            match self.commands.try_recv() {
                Ok(command) => self.carry_out(command),
                Err(_) => return self.take_bite(),
            }
        }
    }

    fn take_bite(&mut self) {
        let Ok(bite) = self.bites.try_recv() else { return };
        // Commands that were sent before the bite come before it.
        while let Ok(command) = self.commands.try_recv() {
            self.carry_out(command);
        }
        take_bite(bite, &mut self.core, &mut self.networks, &mut self.refused);
        self.unpublished = true;
    }

    fn carry_out(&mut self, command: Command) {
        self.stopping |= matches!(command, Command::Stop);
        carry_out(command, &mut self.core, &mut self.networks, &self.epoll, &self.node);
    }

    fn has_work(&self) -> bool {
        !(self.commands.is_empty()
            && self.bites.is_empty()
            && self.streams.is_empty()
            && self.carried.is_empty()
            && self.backlog.is_empty())
    }

    fn timeout(&self) -> EpollTimeout {
        if self.has_work() {
            return EpollTimeout::ZERO;
        }
        let now = self.core.now();
        let mut wait = if self.unpublished { PUBLISH.saturating_sub(self.published.elapsed()) } else { IDLE };
        let due = self.networks.iter().flat_map(|network| {
            [network.switch.poll_timeout(), network.stations.poll_timeout()].into_iter().flatten()
        });
        if let Some(at) = due.chain(self.inbound.reassembler.poll_timeout()).min() {
            wait = wait.min(at.since(now));
        }
        if let Some(at) = self.core.path_timeout() {
            wait = wait.min(at.saturating_duration_since(Instant::now()));
        }
        let ms = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        EpollTimeout::from(ms)
    }

    fn mind_timers(&mut self) {
        let now = self.core.now();
        for network in self.networks.iter_mut() {
            if network.switch.poll_timeout().is_some_and(|at| at <= now) {
                network.switch.handle_timeout(now);
                network.drain(&mut self.core);
                self.unpublished = true;
            }
            if network.stations.poll_timeout().is_some_and(|at| at <= now) {
                network.report_stations(&self.stations, now);
            }
        }
        self.expire_fragments(now);
        self.forget_removed();
        self.core.mind_paths(Instant::now());
        self.drop_unheld();
        self.core.transmitter.flush();
        self.core.carriage.flush();
        if self.unpublished && self.published.elapsed() >= PUBLISH {
            self.core.captures.sweep();
            self.snapshot.store(Arc::new(views::snapshot(&self.core, &self.networks, &self.inbound)));
            self.published = Instant::now();
            self.unpublished = false;
        }
    }

    /// Counts the frames that waited for a link in vain.
    fn drop_unheld(&mut self) {
        for (peer, reason, held) in std::mem::take(&mut self.core.unheld) {
            if let Some(network) = self.networks.get_mut(held.outbound.vni) {
                network.drop_unsent(&mut self.core, peer, reason, &held.frame);
            }
            self.unpublished = true;
        }
    }

    /// Counts what removed peers left unfinished.
    fn forget_removed(&mut self) {
        for peer in self.core.removed.drain(..) {
            let unfinished = self.inbound.reassembler.forget(peer);
            self.core.datagram_drops.count(DropReason::LinkDown, unfinished as u64);
            self.unpublished = true;
        }
    }

    fn expire_fragments(&mut self, now: Time) {
        if self.inbound.reassembler.poll_timeout().is_some_and(|at| at <= now) {
            let expired = self.inbound.reassembler.handle_timeout(now);
            self.core.datagram_drops.count(DropReason::ReassemblyTimeout, expired as u64);
            self.unpublished = true;
        }
    }
}

/// Reads what waits in the TAP, as far as there is room; whether nothing more waits there.
fn drain_tap(network: &mut Network, core: &mut Core, free: &mut Vec<Vec<u8>>, reads: &mut usize) -> bool {
    while *reads > 0 && network.waiting.len() < WAITING_MAX {
        let Some(tap) = &network.tap else { return true };
        let mut buf = free.pop().unwrap_or_else(|| vec![0; READ_MAX]);
        let len = match tap.read(&mut buf) {
            Ok(len) => len,
            Err(e) => {
                free.push(buf);
                if e.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(network = %network.name, error = %e, "reading the TAP");
                    if is_gone(&e) {
                        network.tap = None; // the endpoint's keeper opens another
                    }
                }
                return true;
            }
        };
        *reads -= 1;
        let now = core.now();
        match core.lanes.lane(network.vni, buf.get(VNET_HDR_LEN..len).unwrap_or_default(), now) {
            Lane::Prompt => {
                network.local_frame(core, &mut buf[..len], Lane::Prompt, now);
                free.push(buf);
            }
            Lane::Bulk => network.waiting.push_back((buf, len)),
        }
    }
    false
}

/// The epoll token of a network's TAP.
pub(super) fn tap_token(vni: Vni) -> u64 {
    TOKEN_TAPS + u64::from(vni.get())
}

fn tap_of(token: u64) -> Option<Vni> {
    u32::try_from(token - TOKEN_TAPS).ok().and_then(|vni| Vni::new(vni).ok())
}

/// After work, the worker looks for more for this long before it sleeps: an answer that comes at once then costs
/// no wake-up, which is most of a short round trip's time. Not after bulk: a CPU that is not idle takes no work from
/// the other ones, and then that is what bulk waits for.
const BUSY_POLL: Duration = Duration::from_micros(50);
const TOKEN_WAKE: u64 = 0;
const TOKEN_UNDERLAY: u64 = 1;
/// And the VNI: tokens of events that wait outlive a network.
const TOKEN_TAPS: u64 = 2;
/// Commands before frames get their turn.
const COMMAND_BUDGET: usize = 256;
/// Before the other side gets its turn: of each, one call for the bulk lane and some for the prompt one.
const RECEIVE_BUDGET: usize = 2;
/// Frames that are read from one TAP before the other side gets its turn.
const LOCAL_BUDGET: usize = 128;
/// Bytes of bulk flows that are carried before the other side gets its turn, and before the TAP is looked at again.
const LOCAL_TURN: usize = 256 << 10;
const LOCAL_SLICE: usize = 32 << 10;
/// Local frames of a network that may wait for their turn outside of the TAP: 4 MiB.
const WAITING_MAX: usize = 64;
/// How old the published counters may be.
const PUBLISH: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(10);
