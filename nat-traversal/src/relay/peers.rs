//! The peers of one allocation: for whom the relay is asked, a few at a time, and for whom it forwards.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Something to ask the relay for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Want {
    Permit(IpAddr),
    Bind(SocketAddr),
}

/// The library sends requests 50 ms apart but starts their timers at once: with more than a few at a time they
/// are all repeated before they are sent (and then again). So the rest waits here. And it forgets the permission
/// that a refused channel would have brought: so a channel waits for its permission.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    permitted: HashSet<IpAddr>,
    channels: HashMap<SocketAddr, u16>,
    by_channel: HashMap<u16, SocketAddr>,
    binds: VecDeque<SocketAddr>,
    permits: VecDeque<IpAddr>,
    asked: HashMap<Want, Instant>,
}

impl Peers {
    /// Wants a permission; `false` if there is no room. Nothing happens if it is there or on its way.
    pub(crate) fn want_permit(&mut self, ip: IpAddr) -> bool {
        if self.permitted.contains(&ip)
            || self.asked.contains_key(&Want::Permit(ip))
            || self.permits.contains(&ip)
        {
            return true;
        }
        if self.permitted.len() + self.permits.len() >= MAX_PEERS {
            return false;
        }
        self.permits.push_back(ip);
        true
    }

    /// Wants a channel, and the permission for it; `false` if there is no room.
    pub(crate) fn want_bind(&mut self, peer: SocketAddr) -> bool {
        if self.channels.contains_key(&peer)
            || self.asked.contains_key(&Want::Bind(peer))
            || self.binds.contains(&peer)
        {
            return true;
        }
        if self.channels.len() + self.binds.len() >= MAX_PEERS || !self.want_permit(peer.ip()) {
            return false;
        }
        // Whoever wants a channel wants to send now: its permission goes before those that are only for later.
        if let Some(place) = self.permits.iter().position(|ip| *ip == peer.ip()) {
            self.permits.remove(place);
            self.permits.push_front(peer.ip());
        }
        self.binds.push_back(peer);
        true
    }

    /// Whether [`next`](Self::next) has something.
    pub(crate) fn has_next(&self) -> bool {
        self.asked.len() < AT_A_TIME && (self.ready_bind().is_some() || !self.permits.is_empty())
    }

    /// What to ask for next, if not enough is under way.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Want> {
        if self.asked.len() >= AT_A_TIME {
            return None;
        }
        let want = match self.ready_bind().and_then(|place| self.binds.remove(place)) {
            Some(peer) => Want::Bind(peer),
            None => Want::Permit(self.permits.pop_front()?),
        };
        self.asked.insert(want, now);
        Some(want)
    }

    fn ready_bind(&self) -> Option<usize> {
        self.binds.iter().position(|peer| self.permitted.contains(&peer.ip()))
    }

    /// The relay forwards from this address; `false` if that was known.
    pub(crate) fn permitted(&mut self, ip: IpAddr) -> bool {
        self.asked.remove(&Want::Permit(ip));
        self.permitted.insert(ip)
    }

    /// The relay does not forward from this address (any longer): `None` if that was known, else the channels
    /// that were wanted and will not be.
    pub(crate) fn not_permitted(&mut self, ip: IpAddr) -> Option<Vec<SocketAddr>> {
        let asked = self.asked.remove(&Want::Permit(ip)).is_some();
        if !self.permitted.remove(&ip) && !asked {
            return None;
        }
        let (lost, kept) = self.binds.drain(..).partition(|peer| peer.ip() == ip);
        self.binds = kept;
        Some(VecDeque::into(lost))
    }

    /// The peer has this channel.
    pub(crate) fn bound(&mut self, peer: SocketAddr, channel: u16) {
        self.asked.remove(&Want::Bind(peer));
        self.channels.insert(peer, channel);
        self.by_channel.insert(channel, peer);
    }

    /// The peer has no channel (any longer); `false` if that was known.
    pub(crate) fn not_bound(&mut self, peer: SocketAddr) -> bool {
        let asked = self.asked.remove(&Want::Bind(peer)).is_some();
        let had = self.channels.remove(&peer);
        if let Some(channel) = had {
            self.by_channel.remove(&channel);
        }
        asked || had.is_some()
    }

    /// What was asked for so long ago that no answer will come.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Want> {
        let late = |at: Instant| now.saturating_duration_since(at) >= OVERDUE;
        self.asked.iter().find(|(_, at)| late(**at)).map(|(want, _)| *want)
    }

    /// When the first of those asked for is overdue.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.asked.values().min().map(|at| *at + OVERDUE)
    }

    /// Whether the relay forwards from this address.
    pub(crate) fn is_permitted(&self, ip: IpAddr) -> bool {
        self.permitted.contains(&ip)
    }

    /// The peer's channel.
    pub(crate) fn channel(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.get(&peer).copied()
    }

    /// Whose a channel is.
    pub(crate) fn peer(&self, channel: u16) -> Option<SocketAddr> {
        self.by_channel.get(&channel).copied()
    }
}

/// How many addresses one allocation serves at most, and how many channels: the library's tables are searched
/// one by one.
pub(crate) const MAX_PEERS: usize = 1024;
const AT_A_TIME: usize = 4;
/// Longer than the library repeats a request.
const OVERDUE: Duration = Duration::from_secs(10);
