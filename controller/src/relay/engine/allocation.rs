//! One allocation: its permissions and its channels; and what a node has of all.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use controller_registry::NodeId;
use stun_types::message::TransactionId;

use super::super::limits::{Bucket, EACH, Rate};
use super::{CHANNEL_LIFETIME, Client, PERMISSION_LIFETIME};

/// What one node has of the relay, by all its allocations.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) allocations: usize,
    pub(super) to_peers: Bucket,
    pub(super) to_node: Bucket,
}

impl Share {
    pub(super) fn new(rate: Rate, now: Instant) -> Share {
        Share { allocations: 0, to_peers: Bucket::full(rate, now), to_node: Bucket::full(rate, now) }
    }
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) node: NodeId,
    pub(super) client: Client,
    /// What peers send to.
    pub(super) relayed: SocketAddr,
    pub(super) expires: Instant,
    /// Of the request that made it: the same one again gets the same answer.
    pub(super) made_by: TransactionId,
    /// To what its client asks without credentials.
    pub(super) answers: Bucket,
    permissions: HashMap<IpAddr, Instant, ahash::RandomState>,
    channels: HashMap<u16, Channel, ahash::RandomState>,
    by_peer: HashMap<SocketAddr, u16, ahash::RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    peer: SocketAddr,
    expires: Instant,
}

/// A channel could not be bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BindError {
    /// The number is another peer's, or the peer has another number.
    Taken,
    /// There are too many.
    Full,
}

impl Allocation {
    pub(super) fn new(
        node: NodeId,
        client: Client,
        relayed: SocketAddr,
        made_by: TransactionId,
        expires: Instant,
        now: Instant,
    ) -> Allocation {
        Allocation {
            node,
            client,
            relayed,
            expires,
            made_by,
            answers: Bucket::full(EACH, now),
            permissions: HashMap::default(),
            channels: HashMap::default(),
            by_peer: HashMap::default(),
        }
    }

    /// False if there are too many.
    pub(super) fn permit(&mut self, peer: IpAddr, now: Instant) -> bool {
        if self.permissions.len() >= MAX_PERMISSIONS && !self.permissions.contains_key(&peer) {
            self.expire(now);
            if self.permissions.len() >= MAX_PERMISSIONS {
                return false;
            }
        }
        self.permissions.insert(peer, now + PERMISSION_LIFETIME);
        true
    }

    pub(super) fn has_permission(&self, peer: IpAddr, now: Instant) -> bool {
        self.permissions.get(&peer).is_some_and(|expires| *expires > now)
    }

    /// Binds it, or keeps it, and permits the peer.
    pub(super) fn bind(&mut self, number: u16, peer: SocketAddr, now: Instant) -> Result<(), BindError> {
        self.expire_channels(now);
        let bound_to = self.channels.get(&number).map(|channel| channel.peer);
        let bound_as = self.by_peer.get(&peer).copied();
        if bound_to.is_some_and(|other| other != peer) || bound_as.is_some_and(|other| other != number) {
            return Err(BindError::Taken);
        }
        let full = bound_to.is_none() && self.channels.len() >= MAX_CHANNELS;
        if full || !self.permit(peer.ip(), now) {
            return Err(BindError::Full);
        }
        self.channels.insert(number, Channel { peer, expires: now + CHANNEL_LIFETIME });
        self.by_peer.insert(peer, number);
        Ok(())
    }

    /// Whose the channel is.
    pub(super) fn peer(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        let channel = self.channels.get(&number).filter(|channel| channel.expires > now)?;
        Some(channel.peer)
    }

    /// The peer's channel.
    pub(super) fn channel(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let number = *self.by_peer.get(&peer)?;
        self.peer(number, now).map(|_| number)
    }

    /// Forgets what has run out.
    pub(super) fn expire(&mut self, now: Instant) {
        self.permissions.retain(|_, expires| *expires > now);
        self.expire_channels(now);
    }

    fn expire_channels(&mut self, now: Instant) {
        let by_peer = &mut self.by_peer;
        self.channels.retain(|_, channel| {
            let stands = channel.expires > now;
            if !stands {
                by_peer.remove(&channel.peer);
            }
            stands
        });
    }

    pub(super) fn permissions(&self) -> usize {
        self.permissions.len()
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }
}

/// Each peer has some addresses; a cluster has up to a thousand nodes.
const MAX_PERMISSIONS: usize = 4096;
const MAX_CHANNELS: usize = 4096;
