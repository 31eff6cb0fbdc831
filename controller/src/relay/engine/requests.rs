//! The requests of RFC 8489, RFC 8656 and RFC 5780.

use std::net::SocketAddr;
use std::time::Duration;

use stun_types::AddressFamily;
use stun_types::attribute::{
    AttributeType, ErrorCode, MessageIntegrity, Nonce, Realm, Username, XorMappedAddress,
};
use stun_types::message::{IntegrityKey, Message};
use stun_types::prelude::*;
use turn_types::attribute::{
    AdditionalAddressFamily, AddressErrorCode, ChannelNumber, DontFragment, Lifetime, RequestedAddressFamily,
    RequestedTransport, XorPeerAddress, XorRelayedAddress,
};

use super::super::counters::Refused;
use super::allocation::{Allocation, BindError, Share};
use super::auth::{Proved, Unproved};
use super::{Action, AllocationId, Client, Engine, LIFETIME, MAX_LIFETIME, Now, Ports, answer};

impl Engine {
    /// Where a request comes from, without credentials.
    pub(super) fn binding(
        &mut self,
        client: &Client,
        request: &Message<'_>,
        at_alternate: bool,
        now: Now,
    ) -> Action {
        if !self.answers_unproven(client, now) {
            return Action::Nothing;
        }
        let answer = |bytes, from_alternate| Action::Answer { bytes, from_alternate };
        let unknown = unknown_attributes(request, &[CHANGE_REQUEST, Username::TYPE, MessageIntegrity::TYPE]);
        if !unknown.is_empty() {
            self.counters.refuse(Refused::Request);
            return answer(answer::unknown(request, &unknown, None), at_alternate);
        }
        let change = request.raw_attribute(CHANGE_REQUEST).map(|change| {
            let flags = change.value.last().copied().unwrap_or_default();
            (flags & CHANGE_IP != 0, flags & CHANGE_PORT != 0)
        });
        let alternate = self.setup.alternate_port.filter(|_| client.stream.is_none());
        let (change_ip, change_port) = change.unwrap_or_default();
        // There is one address only: whoever asks for another one is told so, as RFC 5780 wants it.
        if change_ip || (change.is_some() && alternate.is_none()) {
            return answer(answer::unknown(request, &[CHANGE_REQUEST], None), at_alternate);
        }
        self.counters.bindings.add(1);
        let mapped = XorMappedAddress::new(client.source, request.transaction_id());
        let Some(alternate) = alternate else {
            return answer(answer::success(request, &[&mapped], None), at_alternate);
        };
        let reached = client.local.ip();
        let family = if reached.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 };
        let ip = self.relayed_address(reached, family).unwrap_or(reached);
        // `local` has the main port also for what came to the alternate one.
        let at = |is_alternate: bool| {
            SocketAddr::new(ip, if is_alternate { alternate } else { client.local.port() })
        };
        let from_alternate = at_alternate != change_port;
        let origin = answer::plain_address(RESPONSE_ORIGIN, at(from_alternate));
        let other = answer::plain_address(OTHER_ADDRESS, at(!at_alternate));
        answer(answer::success(request, &[&mapped, &origin, &other], None), from_alternate)
    }

    pub(super) fn allocate(
        &mut self,
        client: Client,
        request: &Message<'_>,
        now: Now,
        ports: &mut dyn Ports,
    ) -> Option<Vec<u8>> {
        let proved = match self.authenticate(&client, request, now) {
            Ok(proved) => proved,
            Err(Unproved(answer)) => return answer,
        };
        if let Some(id) = self.by_client.get(&client).copied() {
            let stands = self.allocations.get(&id).filter(|allocation| allocation.expires > now.at);
            match stands {
                // The answer to the first one was lost.
                Some(allocation)
                    if allocation.made_by == request.transaction_id() && allocation.node == proved.node =>
                {
                    return Some(allocated(request, allocation, &proved.key, now));
                }
                Some(_) => return Some(self.error(request, ErrorCode::ALLOCATION_MISMATCH, &proved.key)),
                None => self.remove(id, ports),
            }
        }
        let known = [
            RequestedTransport::TYPE,
            RequestedAddressFamily::TYPE,
            AdditionalAddressFamily::TYPE,
            DontFragment::TYPE,
        ];
        if let Some(answer) = self.refuse_unknown(request, &known, &proved) {
            return Some(answer);
        }
        let family = match wanted(request) {
            Ok(family) => family,
            Err(code) => return Some(self.error(request, code, &proved.key)),
        };
        let limits = self.setup.limits;
        let of_node = self.per_node.get(&proved.node).map_or(0, |share| share.allocations);
        if of_node >= limits.allocations_per_node {
            self.counters.refuse(Refused::Capacity);
            return Some(answer::error(request, ErrorCode::ALLOCATION_QUOTA_REACHED, Some(&proved.key)));
        }
        let Some(address) = self.relayed_address(client.local.ip(), family) else {
            return Some(self.error(request, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED, &proved.key));
        };
        let id = AllocationId(self.last + 1);
        let port = (self.allocations.len() < limits.allocations).then(|| ports.open(id, address));
        let Some(Ok(port)) = port else {
            self.counters.refuse(Refused::Capacity);
            return Some(answer::error(request, ErrorCode::INSUFFICIENT_CAPACITY, Some(&proved.key)));
        };
        self.last = id.0;
        let relayed = SocketAddr::new(address, port);
        let expires = now.at + lifetime(request);
        let rate = self.packet_rate();
        let allocation =
            Allocation::new(proved.node, client, relayed, request.transaction_id(), expires, now.at);
        let answer = allocated(request, &allocation, &proved.key, now);
        self.allocations.insert(id, allocation);
        self.by_client.insert(client, id);
        self.by_relayed.insert(relayed, id);
        self.per_node.entry(proved.node).or_insert_with(|| Share::new(rate, now.at)).allocations += 1;
        self.counters.allocated.add(1);
        self.counters.allocations.set(self.allocations.len());
        Some(answer)
    }

    pub(super) fn refresh(
        &mut self,
        client: Client,
        request: &Message<'_>,
        now: Now,
        ports: &mut dyn Ports,
    ) -> Option<Vec<u8>> {
        let (proved, id) = match self.own_allocation(client, request, now, &[RequestedAddressFamily::TYPE]) {
            Ok(own) => own,
            Err(answer) => return answer,
        };
        let allocation = self.allocations.get_mut(&id)?;
        let family = request.attribute::<RequestedAddressFamily>().map(|family| family.family());
        if family.is_ok_and(|family| (family == AddressFamily::IPV4) != allocation.relayed.is_ipv4()) {
            return Some(self.error(request, ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH, &proved.key));
        }
        let lifetime = lifetime(request);
        allocation.expires = now.at + lifetime;
        if lifetime.is_zero() {
            self.remove(id, ports);
        }
        Some(answer::success(request, &[&Lifetime::new(seconds(lifetime))], Some(&proved.key)))
    }

    pub(super) fn create_permission(
        &mut self,
        client: Client,
        request: &Message<'_>,
        now: Now,
    ) -> Option<Vec<u8>> {
        let (proved, id) = match self.own_allocation(client, request, now, &[XorPeerAddress::TYPE]) {
            Ok(own) => own,
            Err(answer) => return answer,
        };
        let mut peers = Vec::new();
        for (_, attribute) in request.iter_attributes() {
            if attribute.get_type() != XorPeerAddress::TYPE {
                continue;
            }
            match XorPeerAddress::from_raw_ref(&attribute) {
                Ok(peer) => peers.push(peer.addr(request.transaction_id())),
                Err(_) => return Some(self.error(request, ErrorCode::BAD_REQUEST, &proved.key)),
            }
        }
        if peers.is_empty() {
            return Some(self.error(request, ErrorCode::BAD_REQUEST, &proved.key));
        }
        // All or none of them (RFC 8656, 10.2).
        for peer in &peers {
            if let Err(code) = self.check_peer(id, *peer, now) {
                return Some(self.error(request, code, &proved.key));
            }
        }
        let allocation = self.allocations.get_mut(&id)?;
        if !peers.iter().all(|peer| allocation.permit(peer.ip(), now.at)) {
            self.counters.refuse(Refused::Capacity);
            return Some(answer::error(request, ErrorCode::INSUFFICIENT_CAPACITY, Some(&proved.key)));
        }
        Some(answer::success(request, &[], Some(&proved.key)))
    }

    pub(super) fn channel_bind(
        &mut self,
        client: Client,
        request: &Message<'_>,
        now: Now,
    ) -> Option<Vec<u8>> {
        let known = [XorPeerAddress::TYPE, ChannelNumber::TYPE];
        let (proved, id) = match self.own_allocation(client, request, now, &known) {
            Ok(own) => own,
            Err(answer) => return answer,
        };
        let number = request.attribute::<ChannelNumber>().map(|number| number.channel());
        let peer = request.attribute::<XorPeerAddress>().map(|peer| peer.addr(request.transaction_id()));
        let (Ok(number @ 0x4000..=0x7ffe), Ok(peer)) = (number, peer) else {
            return Some(self.error(request, ErrorCode::BAD_REQUEST, &proved.key));
        };
        if let Err(code) = self.check_peer(id, peer, now) {
            return Some(self.error(request, code, &proved.key));
        }
        let code = match self.allocations.get_mut(&id)?.bind(number, peer, now.at) {
            Ok(()) => return Some(answer::success(request, &[], Some(&proved.key))),
            Err(BindError::Taken) => ErrorCode::BAD_REQUEST,
            Err(BindError::Full) => ErrorCode::INSUFFICIENT_CAPACITY,
        };
        Some(self.error(request, code, &proved.key))
    }

    /// A method that is none here: told only to nodes.
    pub(super) fn unknown_method(
        &mut self,
        client: Client,
        request: &Message<'_>,
        now: Now,
    ) -> Option<Vec<u8>> {
        match self.authenticate(&client, request, now) {
            Ok(proved) => Some(self.error(request, ErrorCode::BAD_REQUEST, &proved.key)),
            Err(Unproved(answer)) => answer,
        }
    }

    /// The allocation that a request is about. A node's newer credentials serve its older allocation.
    fn own_allocation(
        &mut self,
        client: Client,
        request: &Message<'_>,
        now: Now,
        known: &[AttributeType],
    ) -> Result<(Proved, AllocationId), Option<Vec<u8>>> {
        let proved = self.authenticate(&client, request, now).map_err(|Unproved(answer)| answer)?;
        let id = self.by_client.get(&client).copied();
        let allocation = id.and_then(|id| Some((id, self.allocations.get(&id)?)));
        let Some((id, allocation)) = allocation.filter(|(_, allocation)| allocation.expires > now.at) else {
            return Err(Some(self.error(request, ErrorCode::ALLOCATION_MISMATCH, &proved.key)));
        };
        if allocation.node != proved.node {
            self.counters.refuse(Refused::Credentials);
            return Err(Some(answer::error(request, ErrorCode::WRONG_CREDENTIALS, Some(&proved.key))));
        }
        match self.refuse_unknown(request, known, &proved) {
            Some(answer) => Err(Some(answer)),
            None => Ok((proved, id)),
        }
    }

    /// The code of the error, for a peer that is not relayed to.
    fn check_peer(&mut self, id: AllocationId, peer: SocketAddr, now: Now) -> Result<(), u16> {
        let relayed = self.allocations.get(&id).ok_or(ErrorCode::ALLOCATION_MISMATCH)?.relayed;
        if peer.is_ipv4() != relayed.is_ipv4() {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
        }
        // Other allocations are at this host's own address.
        let is_relayed_address = peer.ip() == relayed.ip() || self.setup.announced.contains(&peer.ip());
        if is_relayed_address || self.rules.permit(peer.ip(), now.at) {
            return Ok(());
        }
        self.counters.refuse(Refused::Peer);
        Err(ErrorCode::FORBIDDEN)
    }

    fn refuse_unknown(
        &self,
        request: &Message<'_>,
        known: &[AttributeType],
        proved: &Proved,
    ) -> Option<Vec<u8>> {
        let unknown = unknown_attributes(request, known);
        if unknown.is_empty() {
            return None;
        }
        self.counters.refuse(Refused::Request);
        Some(answer::unknown(request, &unknown, Some(&proved.key)))
    }

    fn error(&self, request: &Message<'_>, code: u16, key: &IntegrityKey) -> Vec<u8> {
        self.counters.refuse(Refused::Request);
        answer::error(request, code, Some(key))
    }
}

fn allocated(request: &Message<'_>, allocation: &Allocation, key: &IntegrityKey, now: Now) -> Vec<u8> {
    let transaction = request.transaction_id();
    let relayed = XorRelayedAddress::new(allocation.relayed, transaction);
    let mapped = XorMappedAddress::new(allocation.client.source, transaction);
    let lifetime = Lifetime::new(seconds(allocation.expires.saturating_duration_since(now.at)));
    // One allocation has one address: of two families that were asked for, the second one is refused.
    let second = request.has_attribute(AdditionalAddressFamily::TYPE).then(|| {
        let code = ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED;
        let error = ErrorCode::new(code, ErrorCode::default_reason_for_code(code));
        AddressErrorCode::new(AddressFamily::IPV6, error.expect("the code is one of STUN's"))
    });
    match &second {
        Some(second) => answer::success(request, &[&relayed, &mapped, &lifetime, second], Some(key)),
        None => answer::success(request, &[&relayed, &mapped, &lifetime], Some(key)),
    }
}

/// The family of the relayed address, or the code of the error.
fn wanted(request: &Message<'_>) -> Result<AddressFamily, u16> {
    let transport = request.attribute::<RequestedTransport>().map_err(|_| ErrorCode::BAD_REQUEST)?;
    if transport.protocol() != RequestedTransport::UDP {
        return Err(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL);
    }
    let requested = request.has_attribute(RequestedAddressFamily::TYPE);
    match (requested, request.has_attribute(AdditionalAddressFamily::TYPE)) {
        (true, true) => Err(ErrorCode::BAD_REQUEST),
        (true, false) => match request.attribute::<RequestedAddressFamily>() {
            Ok(family) => Ok(family.family()),
            Err(_) => Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED),
        },
        (false, true) => match request.attribute::<AdditionalAddressFamily>() {
            Ok(family) if family.family() == AddressFamily::IPV6 => Ok(AddressFamily::IPV4),
            _ => Err(ErrorCode::BAD_REQUEST),
        },
        (false, false) => Ok(AddressFamily::IPV4),
    }
}

/// What the request asks for, within bounds; 0 for its end.
fn lifetime(request: &Message<'_>) -> Duration {
    match request.attribute::<Lifetime>().map(|lifetime| lifetime.seconds()) {
        Ok(0) => Duration::ZERO,
        Ok(seconds) => Duration::from_secs(seconds.into()).clamp(LIFETIME, MAX_LIFETIME),
        Err(_) => LIFETIME,
    }
}

fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
}

fn unknown_attributes(request: &Message<'_>, known: &[AttributeType]) -> Vec<AttributeType> {
    let always = [Username::TYPE, Realm::TYPE, Nonce::TYPE, MessageIntegrity::TYPE, Lifetime::TYPE];
    let is_known = |kind: &AttributeType| always.contains(kind) || known.contains(kind);
    let mut unknown = Vec::new();
    for (_, attribute) in request.iter_attributes() {
        let kind = attribute.get_type();
        if kind.comprehension_required() && !is_known(&kind) && unknown.len() < MAX_UNKNOWN {
            unknown.push(kind);
        }
    }
    unknown
}

const MAX_UNKNOWN: usize = 8;
/// RFC 5780.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const CHANGE_IP: u8 = 4;
const CHANGE_PORT: u8 = 2;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;
