//! The TURN client (RFC 8656): this node's allocations on relays, and the framing of what goes by them.

mod answers;
mod check;
pub mod frame;
mod ledger;
mod peers;
mod signers;
mod stream;
mod why;
mod words;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use turn_client_proto::api::{
    BindChannelError, CreatePermissionError, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet,
};
use turn_client_proto::client::TurnClient;
use turn_client_proto::prelude::DelayedTransmitBuild;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, Instant as TurnInstant, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use crate::paths::canonical;
use crate::route::{RelayId, is_global};
use check::Check;
use ledger::Ledger;
use peers::{MAX_PEERS, Peers, Want};
use signers::Signers;
pub use stream::{StreamError, StreamSplitter};
pub use why::{LostReason, PeerRefusal, RelayError};
pub use words::{RelayConfig, RelayEvent, RelayFamily, RelayTransport};

/// The client of one allocation: one server, one transport, one family.
///
/// In: [`handle_datagram`](Self::handle_datagram) or [`handle_stream_bytes`](Self::handle_stream_bytes),
/// [`permit`](Self::permit), [`bind`](Self::bind), [`check_now`](Self::check_now), [`close`](Self::close), and
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) has passed. Out, after each of
/// them: [`poll_transmit`](Self::poll_transmit) until it gives nothing, then [`poll_event`](Self::poll_event)
/// likewise, then `poll_timeout`.
pub struct RelayClient {
    config: RelayConfig,
    /// The library's clock counts from here.
    began: Instant,
    turn: TurnClient,
    signers: Signers,
    /// Credentials to try once there is an allocation.
    newer: Option<TurnCredentials>,
    ledger: Ledger,
    check: Check,
    peers: Peers,
    splitter: StreamSplitter,
    state: State,
    mapped: Option<SocketAddr>,
    /// The last error answer, 0 for another answer; `None`: the relay has said nothing at all.
    heard: Option<u16>,
    events: VecDeque<RelayEvent>,
    wake: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Allocating,
    /// An allocation of before is in the way and is being removed.
    Removing,
    Allocated(SocketAddr),
    Closing,
    Lost,
}

impl RelayClient {
    /// A client that asks for an allocation at once.
    pub fn new(config: RelayConfig, now: Instant) -> RelayClient {
        let credentials = TurnCredentials::new(&config.username, &config.password);
        let signers = Signers::new(credentials.clone().into());
        let mut turn = TurnConfig::new(credentials);
        turn.set_address_family(match config.family {
            RelayFamily::V4 => AddressFamily::IPV4,
            RelayFamily::V6 => AddressFamily::IPV6,
        });
        turn.set_request_retransmits(FIRST_WAIT, LONGEST_WAIT, TRIES, LAST_WAIT);
        let turn = match config.transport {
            RelayTransport::Udp => TurnClient::Udp(TurnClientUdp::allocate(LOCAL, config.server, turn)),
            RelayTransport::Stream => TurnClient::Tcp(TurnClientTcp::allocate(LOCAL, config.server, turn)),
        };
        RelayClient {
            began: now,
            turn,
            signers,
            newer: None,
            ledger: Ledger::default(),
            check: Check::new(config.server, config.transport),
            peers: Peers::default(),
            splitter: StreamSplitter::default(),
            state: State::Allocating,
            mapped: None,
            heard: None,
            events: VecDeque::new(),
            wake: Some(now),
            config,
        }
    }

    /// The number of this allocation.
    pub fn id(&self) -> RelayId {
        self.config.id
    }

    /// The relay.
    pub fn server(&self) -> SocketAddr {
        self.config.server
    }

    /// How the relay is reached.
    pub fn transport(&self) -> RelayTransport {
        self.config.transport
    }

    /// This node's address on the relay, while it has one.
    pub fn relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Allocated(relayed) => Some(relayed),
            _ => None,
        }
    }

    /// Whether the relay forwards to and from this address.
    pub fn is_permitted(&self, peer: IpAddr) -> bool {
        self.peers.is_permitted(peer.to_canonical())
    }

    /// The peer's channel.
    pub fn channel(&self, peer: SocketAddr) -> Option<u16> {
        self.peers.channel(canonical(peer))
    }

    /// Takes in a datagram from the relay's address; `false` if it is not for this client. ChannelData and Data
    /// indications come out as [`RelayEvent::PeerData`].
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> bool {
        let used = self.handle_message(datagram, now);
        self.settle(now);
        used
    }

    /// Takes in what was read from the stream to the relay. What is no message ends the client.
    pub fn handle_stream_bytes(&mut self, bytes: &[u8], now: Instant) {
        let mut splitter = std::mem::take(&mut self.splitter);
        splitter.push(bytes);
        loop {
            match splitter.next_message() {
                Ok(Some(message)) => {
                    self.handle_message(message, now);
                }
                Ok(None) => break,
                Err(StreamError) => {
                    self.lose(LostReason::Stream);
                    break;
                }
            }
        }
        self.splitter = splitter;
        self.settle(now);
    }

    /// The stream to the relay ended.
    pub fn stream_closed(&mut self) {
        self.lose(LostReason::Stream);
    }

    /// Has the relay forward to and from this address, now or once there is an allocation. Asking again changes
    /// nothing. Kept fresh for as long as the allocation lives.
    pub fn permit(&mut self, peer: IpAddr, now: Instant) -> Result<(), RelayError> {
        let peer = self.allowed(peer)?;
        if !self.peers.want_permit(peer) {
            return Err(RelayError::Full(MAX_PEERS));
        }
        self.wake = Some(now);
        Ok(())
    }

    /// Has the relay give the peer a channel, as [`permit`](Self::permit) does. To be done late, for peers that
    /// the relay is really used for: channels are few, and never given back.
    pub fn bind(&mut self, peer: SocketAddr, now: Instant) -> Result<(), RelayError> {
        let peer = SocketAddr::new(self.allowed(peer.ip())?, peer.port());
        if peer.port() == 0 {
            return Err(RelayError::NoPort(peer));
        }
        if !self.peers.want_bind(peer) {
            return Err(RelayError::Full(MAX_PEERS));
        }
        self.wake = Some(now);
        Ok(())
    }

    /// Newer credentials, before those in use end. They are tried at once, and used if the relay takes them for this
    /// allocation; else (coturn takes no other user's) those of before stay in use for as long as they serve.
    pub fn set_credentials(&mut self, username: &str, password: &str, now: Instant) {
        self.newer = Some(TurnCredentials::new(username, password));
        self.try_newer(now);
    }

    fn try_newer(&mut self, now: Instant) {
        if self.relayed().is_some()
            && let Some(newer) = self.newer.take()
            && self.signers.begin_trial(newer.into())
        {
            self.check.begin_with(self.signers.tried(), now);
            self.wake = Some(now);
        }
    }

    /// Asks at once whether the relay still holds the allocation: a relayed path died, or this node's addresses
    /// changed. Answered within 4 s (6 s on a stream), else the allocation is lost.
    pub fn check_now(&mut self, now: Instant) {
        if matches!(self.state, State::Allocated(_)) {
            self.check.hurry(now);
            self.wake = Some(now);
        }
    }

    /// Gives the allocation back: what [`poll_transmit`](Self::poll_transmit) then gives is to be sent once, and
    /// that is all. A next client of the same socket is to wait for about 2 s, which is how long coturn takes.
    pub fn close(&mut self, now: Instant) {
        let asks = self.relayed().is_some() && self.check.remove(self.signers.in_use(), now);
        self.state = if asks { State::Closing } else { State::Lost };
        self.wake = None;
    }

    /// What is to be sent to the relay now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.state == State::Lost {
            return None;
        }
        if let Some(request) = self.check.poll_transmit(self.signers.in_use(), now) {
            if self.state == State::Closing {
                self.state = State::Lost;
            }
            return Some(request);
        }
        if matches!(self.state, State::Allocated(_)) {
            self.ask_for_peers(now);
        }
        if matches!(self.state, State::Allocating | State::Allocated(_))
            && let Some(transmit) = self.turn.poll_transmit(self.turn_time(now))
        {
            let request = self.signers.outgoing(transmit.data.as_ref().to_vec());
            self.ledger.note(&request, now);
            return Some(request);
        }
        self.settle(now);
        None
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<RelayEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    fn allowed(&self, peer: IpAddr) -> Result<IpAddr, RelayError> {
        let peer = peer.to_canonical();
        if matches!(self.state, State::Lost | State::Closing | State::Removing) {
            return Err(RelayError::Lost);
        }
        if peer.is_ipv4() != (self.config.family == RelayFamily::V4) {
            return Err(RelayError::Family(peer));
        }
        if self.relayed().is_some_and(|relayed| is_global(relayed.ip())) && !is_global(peer) {
            return Err(RelayError::NotAllowed(peer));
        }
        Ok(peer)
    }

    fn ask_for_peers(&mut self, now: Instant) {
        let turn_now = self.turn_time(now);
        while let Some(want) = self.peers.next(now) {
            match want {
                Want::Permit(ip) => {
                    if self.allowed(ip).is_err() {
                        self.fail_permit(ip, PeerRefusal::NotAllowed);
                        continue;
                    }
                    match self.turn.create_permission(TransportType::Udp, ip, turn_now) {
                        Ok(()) => {}
                        Err(CreatePermissionError::AlreadyExists) => {
                            if self.turn.have_permission(TransportType::Udp, ip) {
                                self.permitted(ip);
                            }
                        }
                        Err(_) => return self.lose(LostReason::Expired),
                    }
                }
                Want::Bind(peer) => match self.turn.bind_channel(TransportType::Udp, peer, turn_now) {
                    Ok(()) => {}
                    Err(BindChannelError::AlreadyExists) => self.bound(peer, now),
                    Err(BindChannelError::ExpiredChannelExists(_)) => {
                        self.fail_bind(peer, PeerRefusal::Cooling);
                    }
                    Err(_) => return self.lose(LostReason::Expired),
                },
            }
        }
    }

    /// Runs the library's timers and takes in its news until there is none, and finds out when to wake next.
    fn settle(&mut self, now: Instant) {
        if self.check.failed(now) {
            self.lose(if self.state == State::Removing { LostReason::Occupied } else { LostReason::Silent });
        }
        while let Some(want) = self.peers.overdue(now) {
            match want {
                Want::Permit(ip) => self.fail_permit(ip, PeerRefusal::Silent),
                Want::Bind(peer) => self.fail_bind(peer, PeerRefusal::Silent),
            }
        }
        let mut turn_wake = None;
        while matches!(self.state, State::Allocating | State::Allocated(_)) {
            if let Some(event) = self.turn.poll_event() {
                self.handle_turn(&event, now);
                continue;
            }
            match self.turn.poll(self.turn_time(now)) {
                TurnPollRet::Closed if self.relayed().is_some() => self.lose(LostReason::Expired),
                TurnPollRet::Closed => self.lose(self.heard.map_or(LostReason::Silent, LostReason::Refused)),
                TurnPollRet::WaitUntil(at) => turn_wake = Some(self.began + (at - TURN_ZERO)),
                // Of allocations that are for TCP to peers.
                TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. } => {}
            }
            match self.turn.poll_event() {
                Some(event) => self.handle_turn(&event, now),
                None => break,
            }
        }
        self.wake = match self.state {
            State::Lost | State::Closing => None,
            State::Allocated(_) if self.peers.has_next() => Some(now),
            _ => {
                [turn_wake, self.check.poll_timeout(), self.peers.poll_timeout()].into_iter().flatten().min()
            }
        };
    }

    fn handle_turn(&mut self, event: &TurnEvent, now: Instant) {
        match *event {
            TurnEvent::AllocationCreated(_, relayed) if self.state == State::Allocating => {
                self.state = State::Allocated(relayed);
                self.check.begin(now);
                self.try_newer(now);
                self.events.push_back(RelayEvent::Allocated { relayed, mapped: self.mapped });
            }
            TurnEvent::AllocationCreateFailed(_) => {
                self.lose(self.heard.map_or(LostReason::Silent, LostReason::Refused));
            }
            TurnEvent::PermissionCreated(_, ip) => self.permitted(ip),
            TurnEvent::PermissionCreateFailed(_, ip) => self.fail_permit(ip, PeerRefusal::Silent),
            TurnEvent::ChannelCreated(_, peer) => self.bound(peer, now),
            TurnEvent::ChannelCreateFailed(_, peer) => self.fail_bind(peer, PeerRefusal::Silent),
            TurnEvent::AllocationCreated(..)
            | TurnEvent::TcpConnected(_)
            | TurnEvent::TcpConnectFailed(_) => {}
        }
    }

    fn permitted(&mut self, ip: IpAddr) {
        if self.peers.permitted(ip) {
            self.events.push_back(RelayEvent::Permitted(ip));
        }
    }

    fn fail_permit(&mut self, peer: IpAddr, why: PeerRefusal) {
        let Some(binds) = self.peers.not_permitted(peer) else { return };
        self.events.push_back(RelayEvent::PermitFailed { peer, why });
        for peer in binds {
            self.events.push_back(RelayEvent::BindFailed { peer, why });
        }
    }

    /// The library does not tell a channel's number but in what it would send.
    fn bound(&mut self, peer: SocketAddr, now: Instant) {
        let empty: &[u8] = &[];
        let sent = self.turn.send_to(TransportType::Udp, peer, empty, self.turn_time(now));
        let head = sent.ok().flatten().map(|transmit| transmit.data.build());
        match head.as_deref().and_then(frame::parse_channel) {
            Some((channel, _)) => {
                self.peers.bound(peer, channel);
                self.events.push_back(RelayEvent::Bound { peer, channel });
            }
            None => self.fail_bind(peer, PeerRefusal::Silent),
        }
    }

    fn fail_bind(&mut self, peer: SocketAddr, why: PeerRefusal) {
        if self.peers.not_bound(peer) {
            self.events.push_back(RelayEvent::BindFailed { peer, why });
        }
    }

    fn lose(&mut self, why: LostReason) {
        if !matches!(self.state, State::Lost | State::Closing) {
            self.events.push_back(RelayEvent::Lost { why });
        }
        self.state = State::Lost;
        self.wake = None;
    }

    fn turn_time(&self, now: Instant) -> TurnInstant {
        TURN_ZERO + now.saturating_duration_since(self.began)
    }
}

impl fmt::Debug for RelayClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayClient({:?}, {:?})", self.config, self.state)
    }
}

/// A label only: the kernel chooses the source of what is sent.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 1);
const TURN_ZERO: TurnInstant = TurnInstant::ZERO;

/// A request is repeated after 0.3, 0.9, 1.9, 2.9 and 3.9 s, and given up after 4.9 s.
const FIRST_WAIT: Duration = Duration::from_millis(300);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const TRIES: u32 = 6;
const LAST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
