//! The relay as a state machine: what came from where goes in with the time, what to do about it comes out. It does no
//! I/O but through [`Ports`].

mod allocation;
mod answer;
mod auth;
mod data;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_registry::NodeId;
use stun_types::AddressFamily;
use stun_types::attribute::Fingerprint;
use stun_types::message::{BINDING, Message, MessageClass};
use stun_types::prelude::*;
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use super::counters::{Refused, RelayCounters};
use super::limits::{Rate, Unproven};
use super::nonce::Nonces;
use super::rules::Rules;
use super::secret::Secret;
use allocation::{Allocation, Share};
pub(super) use data::ToNode;

/// Everything that the relay remembers.
pub(super) struct Engine {
    setup: Setup,
    counters: Arc<RelayCounters>,
    nonces: Nonces,
    rules: Rules,
    unproven: Unproven,
    allocations: HashMap<AllocationId, Allocation, ahash::RandomState>,
    by_client: HashMap<Client, AllocationId, ahash::RandomState>,
    by_relayed: HashMap<SocketAddr, AllocationId, ahash::RandomState>,
    per_node: HashMap<NodeId, Share, ahash::RandomState>,
    last: u64,
}

/// What it goes by.
pub(super) struct Setup {
    pub(super) secret: Secret,
    /// Whether a node is one still.
    pub(super) is_node: Box<dyn Fn(NodeId) -> bool + Send>,
    /// What nodes know this host by, and peers the relayed addresses.
    pub(super) announced: Vec<IpAddr>,
    /// The ports that plain Binding requests are answered on as well (RFC 5780), with the listening one first.
    pub(super) alternate_port: Option<u16>,
    pub(super) allow_private: bool,
    pub(super) allow_loopback: bool,
    pub(super) limits: Limits,
}

/// Bounds of the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    pub(super) allocations: usize,
    pub(super) allocations_per_node: usize,
    pub(super) packets_per_second: u32,
}

/// One 5-tuple: who speaks, and where this host was spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Client {
    pub(super) source: SocketAddr,
    pub(super) local: SocketAddr,
    /// The connection, if it is one.
    pub(super) stream: Option<u64>,
}

/// One allocation, for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct AllocationId(pub(super) u64);

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    /// Seconds since 1970: credentials end by it.
    pub(super) unix: u64,
}

/// The sockets of allocations.
pub(super) trait Ports {
    /// Opens one at this address, or at the host's own in its place, and gives its port.
    fn open(&mut self, id: AllocationId, address: IpAddr) -> std::io::Result<u16>;
    /// Closes it.
    fn close(&mut self, id: AllocationId);
}

/// What to do about a datagram of a client.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Action {
    Nothing,
    /// Back to the client.
    Answer {
        bytes: Vec<u8>,
        from_alternate: bool,
    },
    /// From an allocation's socket: this part of what came.
    ToPeer {
        from: AllocationId,
        peer: SocketAddr,
        payload: Range<usize>,
    },
    /// The peer is a relayed address of this relay: straight to its client.
    ToNode {
        to: ToNode,
        payload: Range<usize>,
    },
}

impl Engine {
    pub(super) fn new(setup: Setup, counters: Arc<RelayCounters>, now: Instant) -> Engine {
        Engine {
            rules: Rules::new(setup.allow_private, setup.allow_loopback, setup.announced.clone()),
            setup,
            counters,
            nonces: Nonces::new(),
            unproven: Unproven::new(now),
            allocations: HashMap::default(),
            by_client: HashMap::default(),
            by_relayed: HashMap::default(),
            per_node: HashMap::default(),
            last: 0,
        }
    }

    /// A datagram, or one message of a stream.
    pub(super) fn handle_client(
        &mut self,
        client: Client,
        datagram: &[u8],
        now: Now,
        ports: &mut dyn Ports,
    ) -> Action {
        match datagram.first() {
            Some(0x40..=0x7f) => self.channel_data(&client, datagram, now.at),
            Some(0..=3) => match well_formed(datagram) {
                Some(message) => self.message(client, &message, now, ports),
                None => self.refuse(Refused::Malformed),
            },
            _ => self.refuse(Refused::Malformed),
        }
    }

    /// A plain Binding request at the alternate port; nothing else is served there.
    pub(super) fn handle_alternate(&mut self, client: Client, datagram: &[u8], now: Now) -> Action {
        match well_formed(datagram) {
            Some(message) if message.has_class(MessageClass::Request) && message.has_method(BINDING) => {
                self.binding(&client, &message, true, now)
            }
            _ => self.refuse(Refused::Malformed),
        }
    }

    fn message(&mut self, client: Client, message: &Message<'_>, now: Now, ports: &mut dyn Ports) -> Action {
        if message.has_class(MessageClass::Indication) {
            return match message.method() {
                SEND => self.send_indication(&client, message, now.at),
                // A keepalive.
                _ => Action::Nothing,
            };
        }
        if !message.has_class(MessageClass::Request) {
            return self.refuse(Refused::Malformed);
        }
        let answer = match message.method() {
            BINDING => return self.binding(&client, message, false, now),
            ALLOCATE => self.allocate(client, message, now, ports),
            REFRESH => self.refresh(client, message, now, ports),
            CREATE_PERMISSION => self.create_permission(client, message, now),
            CHANNEL_BIND => self.channel_bind(client, message, now),
            _ => self.unknown_method(client, message, now),
        };
        answer.map_or(Action::Nothing, |bytes| Action::Answer { bytes, from_alternate: false })
    }

    /// Ends what has run out, and what belongs to nodes that are none any more. About once a second.
    pub(super) fn sweep(&mut self, now: Instant, ports: &mut dyn Ports) {
        let is_node = &self.setup.is_node;
        let over: Vec<_> = self
            .allocations
            .iter()
            .filter(|(_, allocation)| allocation.expires <= now || !is_node(allocation.node))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.remove(id, ports);
        }
        let (mut permissions, mut channels) = (0, 0);
        for allocation in self.allocations.values_mut() {
            allocation.expire(now);
            permissions += allocation.permissions();
            channels += allocation.channels();
        }
        self.counters.permissions.set(permissions);
        self.counters.channels.set(channels);
    }

    /// The connection is gone, and its allocation with it.
    pub(super) fn client_gone(&mut self, client: &Client, ports: &mut dyn Ports) {
        if let Some(id) = self.by_client.get(client).copied() {
            self.remove(id, ports);
        }
    }

    /// Whether the client has an allocation.
    pub(super) fn has_allocation(&self, client: &Client) -> bool {
        self.by_client.contains_key(client)
    }

    fn remove(&mut self, id: AllocationId, ports: &mut dyn Ports) {
        let Some(allocation) = self.allocations.remove(&id) else { return };
        ports.close(id);
        self.by_client.remove(&allocation.client);
        self.by_relayed.remove(&allocation.relayed);
        if let Some(share) = self.per_node.get_mut(&allocation.node) {
            share.allocations -= 1;
            if share.allocations == 0 {
                self.per_node.remove(&allocation.node);
            }
        }
        self.counters.allocations.set(self.allocations.len());
    }

    fn refuse(&self, reason: Refused) -> Action {
        self.counters.refuse(reason);
        Action::Nothing
    }

    /// The address that peers see, in this family: the one that the client reached if it is announced, else an
    /// announced one (behind a NAT the host does not have it itself), else the one that the client reached.
    fn relayed_address(&self, reached: IpAddr, family: AddressFamily) -> Option<IpAddr> {
        let right = |address: &IpAddr| address.is_ipv4() == (family == AddressFamily::IPV4);
        let reached = Some(reached).filter(right);
        let announced = || self.setup.announced.iter().copied().find(right);
        match reached {
            Some(reached) if self.setup.announced.contains(&reached) => Some(reached),
            reached => announced().or(reached),
        }
    }

    fn packet_rate(&self) -> Rate {
        let per_second = f64::from(self.setup.limits.packets_per_second);
        // A fifth of a second at once: a full socket buffer or two.
        Rate { per_second, size: (per_second / 5.0).max(1.0) }
    }
}

/// The message, if the lengths in it are right: the parser is shown nothing else.
fn well_formed(datagram: &[u8]) -> Option<Message<'_>> {
    let length = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
    let (header, mut rest) = datagram.split_at_checked(HEADER)?;
    let is_whole = rest.len() == length && length.is_multiple_of(4) && header[4..8] == MAGIC;
    if !is_whole {
        return None;
    }
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(4)?;
        let value = usize::from(u16::from_be_bytes([head[2], head[3]]));
        rest = tail.get(value.next_multiple_of(4)..)?;
        let is_fingerprint = u16::from_be_bytes([head[0], head[1]]) == Fingerprint::TYPE.value();
        // Nothing follows it.
        if is_fingerprint && (value != 4 || !rest.is_empty()) {
            return None;
        }
    }
    Message::from_bytes(datagram).ok()
}

const HEADER: usize = 20;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// RFC 8656: without another wish, and at least.
const LIFETIME: Duration = Duration::from_secs(600);
/// A node that vanished keeps its port no longer.
const MAX_LIFETIME: Duration = Duration::from_secs(1800);
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
