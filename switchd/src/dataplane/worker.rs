//! The worker's loop: waits for work, takes commands, moves batches both ways, minds the timers.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use switch_core::ids::PeerId;
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::wire::Probe;
use tokio::sync::mpsc;

use super::capture::Captures;
use super::command::{Command, MssClamp, Report};
use super::core::Core;
use super::drops::DropLog;
use super::inbound::Inbound;
use super::network::Network;
use super::peers::{MIN_DATAGRAM_MAX, Peers};
use super::snapshot::{DropCounts, Snapshot};
use super::transmitter::Transmitter;
use super::{NetworkConfig, views};
use crate::tap::{READ_MAX, Tap, is_gone};
use crate::underlay::{QuicDatagram, Underlay};

/// The worker's ends of its channels.
pub(super) struct Ends {
    pub(super) commands: Receiver<Command>,
    pub(super) wake: Arc<EventFd>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) quic: mpsc::Sender<QuicDatagram>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The data plane's thread.
pub(super) struct Worker {
    node: Arc<str>,
    underlay: Arc<Underlay>,
    epoll: Epoll,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    core: Core,
    networks: Vec<Network>,
    inbound: Inbound,
    local_buf: Vec<u8>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    published: Instant,
    /// Something was counted since.
    unpublished: bool,
    stopping: bool,
    too_long_reported: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        underlay: Arc<Underlay>,
        node: Arc<str>,
        networks: Vec<NetworkConfig>,
        hash_seed: [u64; 4],
        ends: Ends,
    ) -> nix::Result<Worker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ends.wake, EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_WAKE))?;
        epoll.add(underlay.socket().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_UNDERLAY))?;
        let start = Instant::now();
        let core = Core {
            start,
            peers: Peers::new(hash_seed),
            transmitter: Transmitter::new(underlay.clone()),
            captures: Captures::default(),
            drop_log: DropLog::default(),
            datagram_drops: DropCounts::default(),
            reports: ends.reports,
            rekey_datagrams: u64::MAX,
            scratch: Vec::new(),
        };
        Ok(Worker {
            node,
            underlay,
            epoll,
            commands: ends.commands,
            wake: ends.wake,
            core,
            inbound: Inbound::new(ends.quic, networks.len()),
            networks: networks.into_iter().map(Network::new).collect(),
            local_buf: vec![0; READ_MAX],
            snapshot: ends.snapshot,
            published: start,
            unpublished: true,
            stopping: false,
            too_long_reported: None,
        })
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 16];
        let mut worked = self.core.start;
        loop {
            let busy = worked.elapsed() < BUSY_POLL;
            let timeout = if busy { EpollTimeout::ZERO } else { self.timeout() };
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(0) if busy => {
                    std::thread::yield_now();
                    continue;
                }
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                Err(e) => return tracing::error!(error = %e, "the worker cannot wait for work and stops"),
            };
            let tokens: [u64; 16] = std::array::from_fn(|i| events[i].data());
            let tokens = &tokens[..ready];
            if tokens.contains(&TOKEN_WAKE) {
                let _ = self.wake.read();
            }
            self.take_commands();
            if tokens.contains(&TOKEN_UNDERLAY) {
                self.receive();
            }
            for token in tokens.iter().filter(|token| **token >= TOKEN_TAPS) {
                self.read_tap((token - TOKEN_TAPS) as usize);
            }
            self.core.transmitter.flush();
            self.report_too_long();
            if self.stopping {
                return;
            }
            if ready > 0 {
                self.unpublished = true;
                worked = Instant::now();
            }
            self.mind_timers();
        }
    }

    fn receive(&mut self) {
        let Worker { underlay, core, networks, inbound, commands, epoll, node, stopping, .. } = self;
        for _ in 0..RECEIVE_BUDGET {
            // A session may be in use by its peer before this loop took the command that adds it.
            let mut late = |core: &mut Core, networks: &mut [Network]| {
                while let Ok(command) = commands.try_recv() {
                    *stopping |= matches!(command, Command::Stop);
                    carry_out(command, core, networks, epoll, node);
                }
            };
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

    fn read_tap(&mut self, i: usize) {
        let Worker { networks, core, local_buf, .. } = self;
        let Some(network) = networks.get_mut(i) else { return };
        for _ in 0..LOCAL_BUDGET {
            let Some(tap) = &network.tap else { return };
            let len = match tap.read(local_buf) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    tracing::debug!(network = %network.name, error = %e, "reading the TAP");
                    if is_gone(&e) {
                        network.tap = None; // the endpoint's keeper opens another
                    }
                    return;
                }
            };
            let now = core.now();
            network.local_frame(core, &mut local_buf[..len], now);
        }
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.stopping |= matches!(command, Command::Stop);
            if let Command::RemovePeer(peer) = command {
                self.inbound.reassembler.forget(peer);
            }
            carry_out(command, &mut self.core, &mut self.networks, &self.epoll, &self.node);
        }
    }

    fn report_too_long(&mut self) {
        let Some(address) = self.core.transmitter.too_long.take() else { return };
        let shrunk = self.core.peers.iter().find(|(_, peer)| peer.address == Some(address)).map(|(id, _)| id);
        if let Some(id) = shrunk {
            // Until the path is measured again: what every path carries.
            if let Some(peer) = self.core.peers.get_mut(id) {
                peer.datagram_max = MIN_DATAGRAM_MAX;
            }
            if self.too_long_reported.is_none_or(|last| last.elapsed() >= TOO_LONG_EVERY) {
                self.too_long_reported = Some(Instant::now());
                let _ = self.core.reports.send(Report::TooLong(id));
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let now = self.core.now();
        let mut wait = if self.unpublished { PUBLISH.saturating_sub(self.published.elapsed()) } else { IDLE };
        let due = self.networks.iter().filter_map(|network| network.switch.poll_timeout());
        if let Some(at) = due.chain(self.inbound.reassembler.poll_timeout()).min() {
            wait = wait.min(at.since(now));
        }
        let ms = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        EpollTimeout::from(ms)
    }

    fn mind_timers(&mut self) {
        let now = self.core.now();
        for network in &mut self.networks {
            if network.switch.poll_timeout().is_some_and(|at| at <= now) {
                network.switch.handle_timeout(now);
                network.drain(&mut self.core);
                self.unpublished = true;
            }
        }
        self.expire_fragments(now);
        self.core.transmitter.flush();
        if self.unpublished && self.published.elapsed() >= PUBLISH {
            self.core.captures.sweep();
            self.snapshot.store(Arc::new(views::snapshot(&self.core, &self.networks, &self.inbound)));
            self.published = Instant::now();
            self.unpublished = false;
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

fn carry_out(command: Command, core: &mut Core, networks: &mut [Network], epoll: &Epoll, node: &Arc<str>) {
    let by_vni = |networks: &[Network], vni| networks.iter().position(|network| network.vni == vni);
    match command {
        Command::SetEndpoint(vni, tap) => {
            if let Some(i) = by_vni(networks, vni) {
                set_tap(&mut networks[i], i, tap, epoll);
            }
        }
        Command::SetPolicy(vni, policy, MssClamp(clamp)) => {
            if let Some(i) = by_vni(networks, vni) {
                networks[i].switch.set_policy(policy);
                networks[i].mss_clamp = clamp;
            }
        }
        Command::SetBinding(vni, binding) => {
            if let Some(i) = by_vni(networks, vni) {
                let now = core.now();
                if let Err(e) = networks[i].switch.set_binding(*binding, now) {
                    tracing::warn!(network = %networks[i].name, error = %e, "static binding refused");
                }
                networks[i].drain(core);
            }
        }
        Command::RemoveBinding(vni, key, generation) => {
            if let Some(i) = by_vni(networks, vni) {
                let now = core.now();
                let _ = networks[i].switch.remove_binding(key, generation, now);
                networks[i].drain(core);
            }
        }
        Command::AddPeer(peer, name, allowed) => {
            core.peers.add(peer, name, allowed);
            update_links(core, networks, peer);
        }
        Command::RemovePeer(peer) => {
            core.peers.remove(peer);
            update_links(core, networks, peer);
        }
        Command::AddSession(index, peer, opener) => core.peers.add_session(index, peer, opener),
        Command::ArmSession(index, sealer) => core.peers.arm_session(index, sealer),
        Command::UseSession(peer, index) => {
            if let Some(peer) = core.peers.get_mut(peer) {
                peer.active = index;
            }
            update_links(core, networks, peer);
        }
        Command::RemoveSession(index) => core.peers.remove_session(index),
        Command::SetAddress(peer, address) => {
            if let Some(peer) = core.peers.get_mut(peer) {
                peer.address = Some(address);
            }
        }
        Command::SetDatagramMax(peer, bytes) => {
            if let Some(peer) = core.peers.get_mut(peer) {
                peer.datagram_max = bytes.max(MIN_DATAGRAM_MAX);
            }
        }
        Command::SetMembership(peer, vnis) => {
            if let Some(peer) = core.peers.get_mut(peer) {
                peer.member = vnis;
            }
            update_links(core, networks, peer);
        }
        Command::Challenge(peer, address) => core.challenge(peer, address),
        Command::ProbeAll => probe_all(core),
        Command::SetRekeyDatagrams(datagrams) => core.rekey_datagrams = datagrams,
        Command::Bindings(to) => {
            let _ = to.send(views::bindings(core, networks, node));
        }
        Command::Macs(to) => {
            let _ = to.send(views::macs(core, networks));
        }
        Command::Drops(to) => {
            let _ = to.send(core.drop_log.view(|id| core.peer_name(id)));
        }
        Command::Ping(to) => {
            let _ = to.send(());
        }
        Command::Capture(filter, to) => core.captures.add(filter, to),
        Command::Stop => {} // the loop ends after this turn
    }
}

fn set_tap(network: &mut Network, i: usize, tap: Option<Tap>, epoll: &Epoll) {
    // Closing the old TAP takes it out of the epoll set.
    network.tap = tap;
    if let Some(tap) = &network.tap
        && let Err(e) = epoll.add(tap.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_TAPS + i as u64))
    {
        tracing::error!(network = %network.name, error = %e, "cannot watch the TAP");
    }
}

/// Tells every switch whether the peer takes part and is reachable.
fn update_links(core: &mut Core, networks: &mut [Network], peer: PeerId) {
    for network in networks {
        let up =
            core.peers.get(peer).is_some_and(|peer| peer.active.is_some() && peer.takes_part(network.vni));
        network.switch.handle_link(peer, up);
        network.drain(core);
    }
}

fn probe_all(core: &mut Core) {
    let peers: Vec<PeerId> = core.peers.iter().map(|(id, _)| id).collect();
    for id in peers {
        let Some(peer) = core.peers.get_mut(id) else { continue };
        peer.probes = peer.probes.wrapping_add(1);
        let probe = Probe { answer_wanted: true, sequence: peer.probes };
        core.send_probe(id, None, probe);
    }
    core.transmitter.flush();
}

/// After work, the worker looks for more for this long before it sleeps: an answer that comes at once then costs
/// no wake-up, which is most of a short round trip's time.
const BUSY_POLL: Duration = Duration::from_micros(50);
const TOKEN_WAKE: u64 = 0;
const TOKEN_UNDERLAY: u64 = 1;
const TOKEN_TAPS: u64 = 2;
/// Receive calls, and frames of one TAP, before the other side gets its turn.
const RECEIVE_BUDGET: usize = 4;
const LOCAL_BUDGET: usize = 64;
const TOO_LONG_EVERY: Duration = Duration::from_secs(1);
/// How old the published counters may be.
const PUBLISH: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(10);
