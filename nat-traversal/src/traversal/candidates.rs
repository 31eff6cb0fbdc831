//! Which candidates are told, tried, and by what name.

use std::net::SocketAddr;

use crate::ice::{Bases, RelayBase};
use crate::paths::{canonical, is_real_source};
use crate::route::{Candidate, CandidateKind, Route, is_global};
use crate::signal::{Signal, SignalCandidate};

/// From where this node can check.
pub(super) fn bases(candidates: &[Candidate]) -> Bases {
    let host = |v6: bool| {
        let mut own = candidates.iter().filter(|own| own.kind != CandidateKind::Relayed);
        own.any(|own| own.address.is_ipv6() == v6)
    };
    let relays = candidates.iter().filter(|own| own.kind == CandidateKind::Relayed).filter_map(|own| {
        let (v6, global) = (own.address.is_ipv6(), is_global(own.address.ip()));
        Some(RelayBase { id: own.relay?, v6, global })
    });
    Bases { v4: host(false), v6: host(true), relays: relays.collect() }
}

/// What a peer is told: relayed candidates first to be sure of them, at most as many as a signal holds.
pub(super) fn told(candidates: &[Candidate]) -> Vec<SignalCandidate> {
    let mut told: Vec<SignalCandidate> = Vec::new();
    let relayed = candidates.iter().filter(|own| own.kind == CandidateKind::Relayed).take(MAX_RELAYS);
    let others = [CandidateKind::Host, CandidateKind::ServerReflexive];
    let others =
        others.iter().flat_map(|kind| candidates.iter().filter(|own| own.kind == *kind).take(MAX_ALIKE));
    for own in relayed.chain(others) {
        let candidate = SignalCandidate { kind: own.kind, address: canonical(own.address) };
        if is_reachable(candidate.address, true) && !told.iter().any(|told| told.address == candidate.address)
        {
            told.push(candidate);
        }
    }
    told.truncate(Signal::MAX_CANDIDATES);
    told
}

/// The peer's candidates that this node can use, each address once, best first.
pub(super) fn usable(candidates: &[SignalCandidate], own: &[Candidate]) -> Vec<(SocketAddr, CandidateKind)> {
    let on_loopback = own.iter().any(|own| own.address.ip().is_loopback());
    let mut usable: Vec<(SocketAddr, CandidateKind)> = Vec::new();
    let mut candidates = candidates.to_vec();
    candidates.sort_by_key(|candidate| candidate.kind);
    for SignalCandidate { kind, address } in candidates {
        let address = canonical(address);
        // Bridges of containers have the same address on many hosts: checks would come back to this node.
        let ours = own.iter().any(|own| own.kind == CandidateKind::Host && own.address == address);
        if is_reachable(address, on_loopback)
            && !(ours && kind == CandidateKind::Host)
            && !usable.iter().any(|(known, _)| *known == address)
        {
            usable.push((address, kind));
        }
    }
    usable
}

/// Link-local IPv6 addresses need a scope that the other side cannot know.
fn is_reachable(address: SocketAddr, on_loopback: bool) -> bool {
    let never = match address {
        SocketAddr::V4(v4) => {
            v4.ip().is_unspecified()
                || v4.ip().is_link_local()
                || v4.ip().is_multicast()
                || v4.ip().is_broadcast()
        }
        SocketAddr::V6(v6) => {
            v6.ip().is_unspecified() || v6.ip().is_multicast() || v6.ip().is_unicast_link_local()
        }
    };
    is_real_source(address) && !never && (on_loopback || !address.ip().is_loopback())
}

pub(super) fn canonical_route(route: Route) -> Route {
    match route {
        Route::Direct(remote) => Route::Direct(canonical(remote)),
        Route::Relayed(relay, remote) => Route::Relayed(relay, canonical(remote)),
    }
}

pub(super) fn local_kind(route: Route) -> CandidateKind {
    match route {
        Route::Direct(_) => CandidateKind::Host,
        Route::Relayed(..) => CandidateKind::Relayed,
    }
}

pub(super) fn remote_kind(remote: &[(SocketAddr, CandidateKind)], route: Route) -> CandidateKind {
    let known = remote.iter().find(|(address, _)| *address == route.remote());
    known.map_or(CandidateKind::PeerReflexive, |(_, kind)| *kind)
}

pub(super) fn family(address: SocketAddr) -> usize {
    usize::from(canonical(address).is_ipv6())
}

const MAX_RELAYS: usize = 6;
const MAX_ALIKE: usize = 13;
