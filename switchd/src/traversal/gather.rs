//! What this node may be reached at, from all that is known of it. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nat_traversal::{Candidate, CandidateKind, RelayId};

/// Where the candidates come from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The host's own addresses with the port of the UDP socket, as the kernel orders them.
    pub(super) host: Vec<SocketAddr>,
    /// What each STUN server sees this node at.
    pub(super) mapped: BTreeMap<SocketAddr, SocketAddr>,
    /// What the router maps to the UDP port.
    pub(super) port_mapped: Vec<SocketAddr>,
    /// Allocations.
    pub(super) relayed: BTreeMap<RelayId, SocketAddr>,
}

impl Sources {
    /// Every candidate once, best kind first; never more than peers take.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let host = self.host.iter().map(|address| self.candidate(CandidateKind::Host, *address, None));
        let seen = self.mapped.values().chain(&self.port_mapped).copied();
        let reflexive = seen
            .chain(self.forwarded())
            .map(|address| self.candidate(CandidateKind::ServerReflexive, address, None));
        let relayed = self
            .relayed
            .iter()
            .map(|(relay, address)| self.candidate(CandidateKind::Relayed, *address, Some(*relay)));
        for candidate in
            host.take(MAX_HOST).chain(reflexive.take(MAX_REFLEXIVE)).chain(relayed.take(MAX_RELAYED))
        {
            let known = |other: &Candidate| other.address == candidate.address;
            if !candidates.iter().any(known) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// Where the router may have been told by hand to forward this node's port to it: a guess, for a check to prove.
    fn forwarded(&self) -> impl Iterator<Item = SocketAddr> {
        let port = self.host.first().map(SocketAddr::port);
        let translated =
            self.mapped.values().filter(|address| !self.host.iter().any(|h| h.ip() == address.ip()));
        translated.filter_map(move |address| Some(SocketAddr::new(address.ip(), port?)))
    }

    /// The base is the host's first address of the same family; datagrams leave by whichever the kernel takes.
    fn candidate(&self, kind: CandidateKind, address: SocketAddr, relay: Option<RelayId>) -> Candidate {
        let same_family = |host: &&SocketAddr| host.is_ipv4() == address.is_ipv4();
        let base = match kind {
            CandidateKind::Host => address,
            _ => self.host.iter().find(same_family).or(self.host.first()).copied().unwrap_or(address),
        };
        Candidate { kind, address, base, relay }
    }
}

const MAX_HOST: usize = 10;
const MAX_REFLEXIVE: usize = 6;
const MAX_RELAYED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_one_candidate_of_its_best_kind() {
        let sources = Sources {
            host: vec![at("10.0.0.2:4840"), at("203.0.113.7:4840"), at("[2001:db8::7]:4840")],
            mapped: [
                (at("192.0.2.1:3478"), at("203.0.113.7:4840")),
                (at("192.0.2.2:3478"), at("198.51.100.4:9000")),
            ]
            .into(),
            port_mapped: vec![at("198.51.100.4:9000"), at("198.51.100.4:4840")],
            relayed: [(RelayId(3), at("192.0.2.1:50000"))].into(),
        };
        let found: Vec<(&str, String, String)> = sources
            .candidates()
            .iter()
            .map(|c| (c.kind.name(), c.address.to_string(), c.base.to_string()))
            .collect();
        let expected = [
            ("host", "10.0.0.2:4840", "10.0.0.2:4840"),
            ("host", "203.0.113.7:4840", "203.0.113.7:4840"),
            ("host", "[2001:db8::7]:4840", "[2001:db8::7]:4840"),
            ("server-reflexive", "198.51.100.4:9000", "10.0.0.2:4840"),
            ("server-reflexive", "198.51.100.4:4840", "10.0.0.2:4840"),
            ("relayed", "192.0.2.1:50000", "10.0.0.2:4840"),
        ];
        assert_eq!(found, expected.map(|(kind, address, base)| (kind, address.to_owned(), base.to_owned())));
    }

    #[test]
    fn without_a_host_address_a_candidate_is_its_own_base() {
        let sources = Sources {
            mapped: [(at("192.0.2.1:3478"), at("198.51.100.4:9000"))].into(),
            ..Sources::default()
        };
        assert_eq!(sources.candidates()[0].base, at("198.51.100.4:9000"));
    }
}
