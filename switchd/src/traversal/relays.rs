//! This node's allocations: by UDP from the shared socket, and by TCP or TLS where no relay answers by UDP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nat_traversal::{
    LostReason, RelayClient, RelayConfig, RelayError, RelayEvent, RelayFamily, RelayId, RelayTransport,
    Route, StreamSplitter,
};
use tokio::sync::mpsc;

use super::servers::RelayServer;
use super::stream::{Connect, Stream, StreamEvent, Tls};
use crate::config;
use crate::underlay::{Carrier, StreamMessage, Underlay};
use crate::view::{RelayRow, RelayState};

/// All of them.
pub(super) struct Relays {
    underlay: Arc<Underlay>,
    streams: mpsc::Sender<(RelayId, StreamEvent)>,
    wanted: Vec<Wanted>,
    last_id: u32,
    /// From when on relays by TCP and TLS are tried too, unless one answered by UDP.
    streams_at: Option<Instant>,
    /// This host has addresses of IPv4, of IPv6.
    families: (bool, bool),
    /// An allocation was lost since the last drive.
    changed: bool,
}

/// A server that is to have an allocation of this node's.
struct Wanted {
    server: RelayServer,
    addresses: Vec<SocketAddr>,
    failures: u32,
    /// It answered, and refused: another network changes nothing.
    refuses: bool,
    retry_at: Instant,
    allocation: Option<Allocation>,
    last_error: Option<String>,
}

struct Allocation {
    id: RelayId,
    server: SocketAddr,
    client: RelayClient,
    stream: Option<Stream>,
    /// Cuts what the stream gives into messages.
    splitter: StreamSplitter,
    relayed: Option<SocketAddr>,
}

impl Relays {
    pub(super) fn new(underlay: Arc<Underlay>, streams: mpsc::Sender<(RelayId, StreamEvent)>) -> Relays {
        Relays {
            underlay,
            streams,
            wanted: Vec::new(),
            last_id: 0,
            streams_at: None,
            families: (true, true),
            changed: false,
        }
    }

    /// These servers from now on, with the addresses behind their names. An allocation lives on with newer
    /// credentials.
    pub(super) fn set_servers(&mut self, servers: Vec<(RelayServer, Vec<SocketAddr>)>, now: Instant) {
        let mut old = std::mem::take(&mut self.wanted);
        for (server, addresses) in servers {
            let known = old.iter().position(|wanted| wanted.server.is_same(&server)).map(|at| old.remove(at));
            let wanted = match known {
                Some(mut known) => {
                    let renewed = known.server != server;
                    let retry_at = if renewed { now } else { known.retry_at };
                    let refuses = known.refuses && !renewed;
                    if let Some(allocation) = known.allocation.as_mut().filter(|_| renewed) {
                        allocation.client.set_credentials(&server.username, &server.password.0, now);
                    }
                    Wanted { server, addresses, retry_at, refuses, ..known }
                }
                None => Wanted {
                    server,
                    addresses,
                    failures: 0,
                    refuses: false,
                    retry_at: now,
                    allocation: None,
                    last_error: None,
                },
            };
            self.wanted.push(wanted);
        }
        self.give_back(old, now);
        self.streams_at.get_or_insert(now + STREAMS_AFTER);
    }

    /// Gives every allocation back and asks for none any more: a relay keeps a socket's allocation for minutes,
    /// and would refuse the next process's.
    pub(super) fn close(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.wanted);
        self.give_back(all, now);
    }

    fn give_back(&self, gone: Vec<Wanted>, now: Instant) {
        for mut allocation in gone.into_iter().filter_map(|wanted| wanted.allocation) {
            allocation.client.close(now);
            // One that was made by a stream ends with it.
            while allocation.stream.is_none()
                && let Some(bytes) = allocation.client.poll_transmit(now)
            {
                // What the kernel refuses now is not sent again: the allocation expires by itself.
                let _ = self.underlay.send_by(Route::Direct(allocation.server), &bytes);
            }
            self.underlay.relays().set_relay(allocation.id, None);
        }
    }

    /// Addresses that there are allocations at.
    pub(super) fn relayed(&self) -> BTreeMap<RelayId, SocketAddr> {
        self.allocations().filter_map(|allocation| Some((allocation.id, allocation.relayed?))).collect()
    }

    /// The relayed address of an allocation.
    pub(super) fn relayed_address(&self, relay: RelayId) -> Option<SocketAddr> {
        self.allocations().find(|allocation| allocation.id == relay)?.relayed
    }

    /// All relays, for people.
    pub(super) fn rows(&self) -> Vec<RelayRow> {
        let row = |wanted: &Wanted| {
            let relayed = wanted.allocation.as_ref().and_then(|allocation| allocation.relayed);
            let state = match (&wanted.allocation, relayed) {
                (Some(_), Some(_)) => RelayState::Serving,
                (Some(_), None) => RelayState::Asking,
                (None, _) if self.is_tried(wanted) || wanted.addresses.is_empty() => RelayState::Waiting,
                (None, _) => RelayState::Spare,
            };
            let unknown = wanted.addresses.is_empty().then(|| UNRESOLVED.to_owned());
            RelayRow {
                server: wanted.server.address.clone(),
                transport: wanted.server.transport.name().to_owned(),
                state,
                relayed,
                last_error: unknown.or_else(|| wanted.last_error.clone()),
            }
        };
        self.wanted.iter().map(row).collect()
    }

    /// Lets these peers send to an allocation.
    pub(super) fn permit(&mut self, relay: RelayId, peers: &[SocketAddr], now: Instant) {
        for peer in peers {
            let Some(allocation) = self.allocation(relay) else { return };
            if let Err(error) = allocation.client.permit(peer.ip(), now) {
                self.not_asked(relay, *peer, error);
            }
        }
    }

    /// Wants a channel: what goes to the peer costs 4 bytes more then, not 36.
    pub(super) fn bind(&mut self, relay: RelayId, peer: SocketAddr, now: Instant) {
        let Some(allocation) = self.allocation(relay) else { return };
        if let Err(error) = allocation.client.bind(peer, now) {
            self.not_asked(relay, peer, error);
        }
    }

    /// A relay that has no room left for peers is said to be so, once.
    fn not_asked(&mut self, relay: RelayId, peer: SocketAddr, error: RelayError) {
        tracing::debug!(%peer, %error, "the relay is not asked to serve this peer");
        let holder = |wanted: &&mut Wanted| wanted.allocation.as_ref().is_some_and(|a| a.id == relay);
        if let (RelayError::Full(_), Some(wanted)) = (error, self.wanted.iter_mut().find(holder)) {
            let error = error.to_string();
            if wanted.last_error.as_ref() != Some(&error) {
                tracing::warn!(
                    relay = wanted.server.address,
                    error,
                    "further peers are not reached by this relay"
                );
                wanted.last_error = Some(error);
            }
        }
    }

    /// A datagram that may be of a relay. True if it was.
    pub(super) fn handle(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let by_udp = |allocation: &&mut Allocation| allocation.stream.is_none() && allocation.server == from;
        let allocation = self.wanted.iter_mut().filter_map(|wanted| wanted.allocation.as_mut()).find(by_udp);
        allocation.is_some_and(|allocation| allocation.client.handle_datagram(datagram, now))
    }

    /// What a stream says. What of it is peers' comes back, for the worker.
    pub(super) fn handle_stream(
        &mut self,
        relay: RelayId,
        event: StreamEvent,
        now: Instant,
    ) -> Vec<StreamMessage> {
        let mut of_peers = Vec::new();
        let Some(allocation) = self.allocation(relay) else { return of_peers };
        match event {
            StreamEvent::Received(bytes) => {
                allocation.splitter.push(&bytes);
                loop {
                    match allocation.splitter.next_message() {
                        Ok(Some(message)) if is_of_peer(message) => {
                            of_peers.push(StreamMessage { relay, message: Bytes::copy_from_slice(message) });
                        }
                        Ok(Some(message)) => drop(allocation.client.handle_datagram(message, now)),
                        Ok(None) => break,
                        Err(error) => {
                            self.lost(relay, &error.to_string(), None, now);
                            break;
                        }
                    }
                }
            }
            StreamEvent::Closed(why) => self.lost(relay, &why, None, now),
        }
        of_peers
    }

    /// Which families of addresses this host has: a relay is asked from one of them.
    pub(super) fn set_families(&mut self, families: (bool, bool)) {
        self.families = families;
    }

    /// The network may be another: looks whether the relays still answer.
    pub(super) fn check(&mut self, now: Instant) {
        for wanted in &mut self.wanted {
            if !wanted.refuses {
                wanted.retry_at = wanted.retry_at.min(now + Duration::from_millis(100));
            }
            if let Some(allocation) = &mut wanted.allocation {
                allocation.client.check_now(now);
            }
        }
    }

    /// Does what is due. True if there are other allocations than before.
    pub(super) fn drive(&mut self, now: Instant) -> bool {
        let mut changed = std::mem::take(&mut self.changed);
        self.begin_due(now);
        let mut lost = Vec::new();
        let Relays { wanted, underlay, .. } = self;
        for wanted in wanted {
            let Some(allocation) = &mut wanted.allocation else { continue };
            allocation.client.handle_timeout(now);
            while let Some(bytes) = allocation.client.poll_transmit(now) {
                match &allocation.stream {
                    // A full queue is loss, which the client repairs.
                    Some(stream) => drop(stream.to_relay.try_send(bytes.into())),
                    None => drop(underlay.send_by(Route::Direct(allocation.server), &bytes)),
                }
            }
            while let Some(event) = allocation.client.poll_event() {
                match event {
                    RelayEvent::Allocated { relayed, .. } => {
                        tracing::info!(relay = wanted.server.address, transport = wanted.server.transport.name(),
                            %relayed, "a relay serves this node");
                        allocation.relayed = Some(relayed);
                        (wanted.failures, wanted.refuses) = (0, false);
                        let carrier = match &allocation.stream {
                            Some(stream) => Carrier::Stream(stream.to_relay.clone()),
                            None => Carrier::Udp(allocation.server),
                        };
                        underlay.relays().set_relay(allocation.id, Some(carrier));
                        changed = true;
                    }
                    RelayEvent::Bound { peer, channel } => {
                        underlay.relays().set_channel(allocation.id, peer, Some(channel));
                    }
                    RelayEvent::BindFailed { peer, why } => {
                        tracing::debug!(%peer, %why, "the relay gives no channel");
                        underlay.relays().set_channel(allocation.id, peer, None);
                    }
                    RelayEvent::PermitFailed { peer, why } => {
                        tracing::debug!(%peer, %why, "the relay gives no permission");
                    }
                    // The worker unwraps peers' datagrams itself.
                    RelayEvent::PeerData { .. } | RelayEvent::Permitted(_) => {}
                    RelayEvent::Lost { why } => lost.push((allocation.id, why)),
                }
            }
        }
        for (relay, why) in lost {
            self.lost(relay, &why.to_string(), Some(why), now);
        }
        changed | std::mem::take(&mut self.changed)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.allocations().filter_map(|allocation| allocation.client.poll_timeout());
        let waiting =
            self.wanted.iter().filter(|wanted| wanted.allocation.is_none() && self.is_tried(wanted));
        let begin = waiting.map(|wanted| self.begin_at(wanted));
        clients.chain(begin).min()
    }

    fn begin_due(&mut self, now: Instant) {
        for at in 0..self.wanted.len() {
            let wanted = &self.wanted[at];
            if wanted.allocation.is_some() || !self.is_tried(wanted) || self.begin_at(wanted) > now {
                continue;
            }
            // Turn by turn, where the server has addresses of both families.
            let (v4, v6) = self.families;
            let usable = wanted.addresses.iter().filter(|address| if address.is_ipv4() { v4 } else { v6 });
            let usable: Vec<SocketAddr> = usable.copied().filter(|at| !self.is_taken(wanted, *at)).collect();
            if usable.is_empty() {
                self.wanted[at].retry_at = now + LAST_RETRY;
                continue;
            }
            let turn = wanted.failures as usize;
            let server = usable[turn % usable.len()];
            // An IPv4 address on the relay is what nodes of both families need most: those that have only IPv6 reach
            // IPv4 by it.
            let family = match server {
                SocketAddr::V6(_) if turn / usable.len() % 2 == 1 => RelayFamily::V6,
                _ => RelayFamily::V4,
            };
            self.last_id += 1;
            let allocation = self.begin(RelayId(self.last_id), at, server, family, now);
            self.wanted[at].allocation = Some(allocation);
        }
    }

    /// A relay has one allocation for the node's socket, whatever names the relay has: a second client would end it.
    fn is_taken(&self, wanted: &Wanted, server: SocketAddr) -> bool {
        wanted.server.transport == config::RelayTransport::Udp
            && self.allocations().any(|other| other.stream.is_none() && other.server == server)
    }

    fn begin(
        &self,
        id: RelayId,
        at: usize,
        server: SocketAddr,
        family: RelayFamily,
        now: Instant,
    ) -> Allocation {
        let wanted = &self.wanted[at].server;
        let by_stream = wanted.transport != config::RelayTransport::Udp;
        let client = RelayClient::new(
            RelayConfig {
                id,
                server,
                transport: if by_stream { RelayTransport::Stream } else { RelayTransport::Udp },
                family,
                username: wanted.username.clone(),
                password: wanted.password.0.clone(),
            },
            now,
        );
        let stream = by_stream.then(|| {
            let host = wanted.address.rsplit_once(':').map_or(wanted.address.as_str(), |(host, _)| host);
            let tls = (wanted.transport == config::RelayTransport::Tls).then(|| Tls {
                host: host.trim_matches(['[', ']']).to_owned(),
                certificate: wanted.certificate.clone(),
            });
            Stream::start(Connect { relay: id, server, tls }, self.streams.clone())
        });
        Allocation { id, server, client, stream, splitter: StreamSplitter::default(), relayed: None }
    }

    /// Streams wait until it is clear that UDP does not do.
    fn is_tried(&self, wanted: &Wanted) -> bool {
        let by_udp = wanted.server.transport == config::RelayTransport::Udp;
        let udp_serves = self.wanted.iter().any(|other| {
            other.server.transport == config::RelayTransport::Udp
                && other.allocation.as_ref().is_some_and(|allocation| allocation.relayed.is_some())
        });
        !wanted.addresses.is_empty() && (by_udp || !udp_serves)
    }

    fn begin_at(&self, wanted: &Wanted) -> Instant {
        match wanted.server.transport {
            config::RelayTransport::Udp => wanted.retry_at,
            _ => self.streams_at.map_or(wanted.retry_at, |at| at.max(wanted.retry_at)),
        }
    }

    /// `reason`: the client's, unless the stream to the relay ended.
    fn lost(&mut self, relay: RelayId, why: &str, reason: Option<LostReason>, now: Instant) {
        let holder =
            self.wanted.iter_mut().find(|wanted| wanted.allocation.as_ref().is_some_and(|a| a.id == relay));
        let Some(wanted) = holder else { return };
        let served = wanted.allocation.take().is_some_and(|allocation| allocation.relayed.is_some());
        let (relay_name, transport) = (&wanted.server.address, wanted.server.transport.name());
        if served || wanted.failures == 0 {
            tracing::warn!(relay = relay_name, transport, why, "a relay does not serve this node");
        } else {
            tracing::debug!(relay = relay_name, transport, why, "a relay does not serve this node");
        }
        let wait = (FIRST_RETRY * 2u32.saturating_pow(wanted.failures.min(8))).min(LAST_RETRY);
        wanted.failures = wanted.failures.saturating_add(1);
        wanted.last_error = Some(why.to_owned());
        wanted.refuses = reason.is_some_and(LostReason::is_refusal);
        wanted.retry_at = now + wait.max(reason.map_or(Duration::ZERO, LostReason::retry_after));
        self.changed |= served;
        self.underlay.relays().set_relay(relay, None);
    }

    fn allocation(&mut self, relay: RelayId) -> Option<&mut Allocation> {
        self.wanted.iter_mut().filter_map(|wanted| wanted.allocation.as_mut()).find(|a| a.id == relay)
    }

    fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.wanted.iter().filter_map(|wanted| wanted.allocation.as_ref())
    }
}

/// Channel data, or a Data indication (RFC 8656): the worker's.
fn is_of_peer(message: &[u8]) -> bool {
    matches!(message, [0x40..=0x4f, ..] | [0x00, 0x17, ..])
}

/// A relay that can be reached by UDP has answered by then.
const STREAMS_AFTER: Duration = Duration::from_millis(600);
const UNRESOLVED: &str = "its name has no address yet: see the host's DNS";
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
