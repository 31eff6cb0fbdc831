//! What is relayed, and how it is wrapped.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use stun_types::attribute::AttributeType;
use stun_types::message::{Message, MessageWriteVec, TransactionId};
use stun_types::prelude::*;
use turn_types::attribute::{Data, XorPeerAddress};
use turn_types::message::DATA;

use super::super::counters::Refused;
use super::{Action, AllocationId, Client, Engine};

/// Something for a client, in its wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct ToNode {
    pub(in super::super) client: Client,
    pub(in super::super) wrapping: Wrapping,
}

/// How a datagram of a peer goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Wrapping {
    /// ChannelData.
    Channel(u16),
    /// A Data indication.
    Indication(SocketAddr),
}

impl Wrapping {
    /// Puts it at the end of `out`; in a stream it is padded (RFC 8656, 12.5).
    pub(in super::super) fn write(self, payload: &[u8], is_stream: bool, out: &mut Vec<u8>) {
        match self {
            Wrapping::Channel(number) => {
                let length = u16::try_from(payload.len()).expect("a datagram has at most 65507 bytes");
                out.extend(number.to_be_bytes());
                out.extend(length.to_be_bytes());
                out.extend(payload);
                if is_stream {
                    let padded = payload.len().next_multiple_of(4);
                    out.resize(out.len() + padded - payload.len(), 0);
                }
            }
            Wrapping::Indication(peer) => {
                // Longer than any datagram that is sealed, and than what a STUN message holds.
                if payload.len() > MAX_INDICATION {
                    return;
                }
                let transaction = TransactionId::generate();
                let class = stun_types::message::MessageClass::Indication;
                let kind = stun_types::message::MessageType::from_class_method(class, DATA);
                let capacity = MessageWriteVec::with_capacity(payload.len() + 64);
                let mut message = Message::builder(kind, transaction, capacity);
                let once = "each attribute is added once";
                message.add_attribute(&XorPeerAddress::new(peer, transaction)).expect(once);
                message.add_attribute(&Data::new(payload)).expect(once);
                out.extend(message.finish());
            }
        }
    }
}

impl Engine {
    /// ChannelData of a client.
    pub(super) fn channel_data(&mut self, client: &Client, datagram: &[u8], now: Instant) -> Action {
        let Some((header, rest)) = datagram.split_at_checked(CHANNEL_HEADER) else {
            return self.refuse(Refused::Malformed);
        };
        let number = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length > rest.len() {
            return self.refuse(Refused::Malformed);
        }
        let Some(id) = self.by_client.get(client).copied() else { return self.refuse(Refused::Permission) };
        let peer = self.allocations.get(&id).and_then(|allocation| allocation.peer(number, now));
        let Some(peer) = peer else { return self.refuse(Refused::Permission) };
        self.relay(id, peer, CHANNEL_HEADER..CHANNEL_HEADER + length, now)
    }

    /// A Send indication: nothing of it is ever answered.
    pub(super) fn send_indication(&mut self, client: &Client, message: &Message<'_>, now: Instant) -> Action {
        let Some(id) = self.by_client.get(client).copied() else { return self.refuse(Refused::Permission) };
        let known = [XorPeerAddress::TYPE, Data::TYPE, DONT_FRAGMENT];
        let unknown = |kind: AttributeType| kind.comprehension_required() && !known.contains(&kind);
        if message.iter_attributes().any(|(_, attribute)| unknown(attribute.get_type())) {
            return self.refuse(Refused::Malformed);
        }
        let peer = message.attribute::<XorPeerAddress>().map(|peer| peer.addr(message.transaction_id()));
        let data = message.raw_attribute_and_offset(Data::TYPE);
        let (Ok(peer), Some((offset, data))) = (peer, data) else {
            return self.refuse(Refused::Malformed);
        };
        let start = offset + ATTRIBUTE_HEADER;
        self.relay(id, peer, start..start + usize::from(data.length()), now)
    }

    fn relay(&mut self, id: AllocationId, peer: SocketAddr, payload: Range<usize>, now: Instant) -> Action {
        let rate = self.packet_rate();
        let Some(allocation) = self.allocations.get(&id) else { return Action::Nothing };
        let (relayed, node) = (allocation.relayed, allocation.node);
        if allocation.expires <= now || !allocation.has_permission(peer.ip(), now) {
            return self.refuse(Refused::Permission);
        }
        if !self.per_node.get_mut(&node).is_some_and(|share| share.to_peers.take(rate, now)) {
            return self.refuse(Refused::PacketRate);
        }
        // The NAT in front of this host, if there is one, need not send it back to here.
        if let Some(other) = self.by_relayed.get(&peer).copied() {
            self.counters.to_peers.add(1, payload.len());
            return match self.handle_peer(other, relayed, payload.len(), now) {
                Some(to) => Action::ToNode { to, payload },
                None => Action::Nothing,
            };
        }
        // A permission may be for an address that is this host's own, for the relayed addresses there.
        if peer.port() == 0 || peer.is_ipv4() != relayed.is_ipv4() || !self.rules.permit(peer.ip(), now) {
            return self.refuse(Refused::Peer);
        }
        self.counters.to_peers.add(1, payload.len());
        Action::ToPeer { from: id, peer, payload }
    }

    /// A datagram of `length` bytes that a peer sent to an allocation.
    pub(in super::super) fn handle_peer(
        &mut self,
        id: AllocationId,
        peer: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Option<ToNode> {
        let rate = self.packet_rate();
        let allocation = self.allocations.get(&id)?;
        if allocation.expires <= now || !allocation.has_permission(peer.ip(), now) {
            self.counters.refuse(Refused::Permission);
            return None;
        }
        if !self.per_node.get_mut(&allocation.node)?.to_node.take(rate, now) {
            self.counters.refuse(Refused::PacketRate);
            return None;
        }
        let wrapping = match allocation.channel(peer, now) {
            Some(number) => Wrapping::Channel(number),
            None => Wrapping::Indication(peer),
        };
        self.counters.to_nodes.add(1, length);
        Some(ToNode { client: allocation.client, wrapping })
    }
}

const CHANNEL_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
const DONT_FRAGMENT: AttributeType = AttributeType::new(0x001a);
const MAX_INDICATION: usize = 65_000;
