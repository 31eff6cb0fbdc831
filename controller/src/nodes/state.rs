//! What a switch shall have, as encoded messages of bounded size.

use std::collections::BTreeMap;

use bytes::Bytes;
use controller_api::node as proto;
use controller_registry::{Delta, HostStation, Network, Snapshot, Stations, Vni};
use prost::Message;

use super::convert;

/// Everything, as a snapshot.
pub(super) fn snapshot(epoch: u64, snapshot: &Snapshot) -> Vec<Bytes> {
    let mut parts = Parts::new(epoch, snapshot.revision.0, true);
    parts.surroundings(snapshot);
    snapshot
        .bindings
        .iter()
        .for_each(|binding| parts.add(convert::binding(binding), |part| &mut part.bindings));
    parts.finish(false)
}

/// The beginning of a snapshot: its networks and peers. [`whole_stations`] of the same revision go after it.
pub(super) fn surroundings(epoch: u64, snapshot: &Snapshot) -> Vec<Bytes> {
    let mut parts = Parts::new(epoch, snapshot.revision.0, true);
    parts.surroundings(snapshot);
    parts.finish(true)
}

/// The end of a snapshot: its bindings.
pub(super) fn whole_stations(epoch: u64, stations: &Stations) -> Vec<Bytes> {
    let mut parts = Parts::new(epoch, stations.revision.0, true);
    parts.part.first = false;
    parts.stations(stations);
    parts.finish(false)
}

/// What is new; nothing for nothing.
pub(super) fn delta(epoch: u64, delta: &Delta) -> Vec<Bytes> {
    own(epoch, delta, false)
}

/// What is new and a node's own. With `more`, the [`stations`] of the same revision go after it.
pub(super) fn own(epoch: u64, delta: &Delta, more: bool) -> Vec<Bytes> {
    if delta.is_empty() {
        return Vec::new();
    }
    let mut parts = Parts::new(epoch, delta.revision.0, false);
    // Few of these, and small.
    parts.part.removed_vnis = delta.removed_networks.iter().map(|vni| vni.0).collect();
    parts.part.removed_peers = delta.removed_peers.iter().map(ToString::to_string).collect();
    parts.networks(&delta.networks, &delta.hosts);
    delta.peers.iter().for_each(|peer| parts.add(convert::peer(peer), |part| &mut part.peers));
    delta.bindings.iter().for_each(|binding| parts.add(convert::binding(binding), |part| &mut part.bindings));
    delta
        .removed_bindings
        .iter()
        .for_each(|key| parts.add(convert::key(key), |part| &mut part.removed_bindings));
    parts.finish(more)
}

/// What is new of bindings; nothing for nothing.
pub(super) fn stations(epoch: u64, stations: &Stations) -> Vec<Bytes> {
    if stations.bindings.is_empty() && stations.removed.is_empty() {
        return Vec::new();
    }
    let mut parts = Parts::new(epoch, stations.revision.0, false);
    parts.stations(stations);
    parts.finish(false)
}

struct Parts {
    done: Vec<proto::StateUpdate>,
    part: proto::StateUpdate,
    size: usize,
}

impl Parts {
    fn new(epoch: u64, revision: u64, snapshot: bool) -> Parts {
        let part = proto::StateUpdate { epoch, revision, snapshot, first: snapshot, ..Default::default() };
        Parts { done: Vec::new(), part, size: 0 }
    }

    fn surroundings(&mut self, snapshot: &Snapshot) {
        self.networks(&snapshot.networks, &snapshot.hosts);
        for peer in &snapshot.peers {
            self.add(convert::peer(peer), |part| &mut part.peers);
        }
    }

    fn networks(&mut self, networks: &[Network], hosts: &BTreeMap<Vni, HostStation>) {
        for network in networks {
            self.add(convert::network(network, hosts.get(&network.vni)), |part| &mut part.networks);
        }
    }

    fn stations(&mut self, stations: &Stations) {
        for binding in &stations.bindings {
            self.add(convert::binding(binding), |part| &mut part.bindings);
        }
        for key in &stations.removed {
            self.add(convert::key(key), |part| &mut part.removed_bindings);
        }
    }

    fn add<M: Message>(&mut self, item: M, list: impl Fn(&mut proto::StateUpdate) -> &mut Vec<M>) {
        let size = item.encoded_len() + ITEM_OVERHEAD;
        if self.size + size > PART_BYTES && self.size > 0 {
            let next = proto::StateUpdate {
                epoch: self.part.epoch,
                revision: self.part.revision,
                snapshot: self.part.snapshot,
                ..Default::default()
            };
            let mut full = std::mem::replace(&mut self.part, next);
            full.more = true;
            self.done.push(full);
            self.size = 0;
        }
        self.size += size;
        list(&mut self.part).push(item);
    }

    /// With `more`, further messages of this revision follow.
    fn finish(mut self, more: bool) -> Vec<Bytes> {
        self.part.more = more;
        self.done.push(self.part);
        self.done.into_iter().map(encode).collect()
    }
}

fn encode(update: proto::StateUpdate) -> Bytes {
    let message = Some(proto::controller_to_switch::Message::Update(update));
    proto::ControllerToSwitch { message }.encode_to_vec().into()
}

/// The tag and the length in front of an item.
const ITEM_OVERHEAD: usize = 6;
/// What one session has under way is a few of these: small, since there may be a thousand sessions.
const PART_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use controller_registry::{
        Binding, BindingKey, BindingSource, BindingState, Generation, Mac, NodeId, Revision,
    };

    fn decoded(parts: Vec<Bytes>) -> Vec<proto::StateUpdate> {
        let decode = |part: Bytes| match proto::ControllerToSwitch::decode(part).unwrap().message {
            Some(proto::controller_to_switch::Message::Update(update)) => update,
            other => panic!("{other:?} is no update"),
        };
        parts.into_iter().map(decode).collect()
    }

    fn bindings(count: u32) -> Vec<Binding> {
        let one = |i: u32| Binding {
            key: BindingKey {
                vni: Vni(7),
                vlans: vec![],
                mac: Mac([
                    2,
                    0,
                    i.to_be_bytes()[0],
                    i.to_be_bytes()[1],
                    i.to_be_bytes()[2],
                    i.to_be_bytes()[3],
                ]),
            },
            ips: vec![std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).into()],
            node: NodeId(3),
            generation: Generation(9),
            source: BindingSource::Controller,
            state: BindingState::Active,
            instance: None,
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_large_snapshot_comes_in_parts_and_loses_nothing() {
        let all = Snapshot {
            revision: Revision(5),
            networks: vec![Network { vni: Vni(7), ..Network::default() }],
            bindings: bindings(100_000),
            ..Snapshot::default()
        };
        let parts = decoded(snapshot(1, &all));
        assert!(parts.len() > 2);
        assert!(
            parts
                .iter()
                .all(|part| part.encoded_len() <= PART_BYTES + 1000 && part.snapshot && part.revision == 5)
        );
        assert_eq!(parts.iter().map(|part| part.bindings.len()).sum::<usize>(), 100_000);
        let (last, others) = parts.split_last().unwrap();
        assert!(others.iter().all(|part| part.more) && !last.more);
        assert!(parts[0].first && parts[1..].iter().all(|part| !part.first));
    }

    #[test]
    fn an_empty_snapshot_is_one_part_and_an_empty_delta_none() {
        let parts = decoded(snapshot(1, &Snapshot::default()));
        assert!(parts.len() == 1 && parts[0].first && !parts[0].more);
        assert!(delta(1, &Delta { revision: Revision(4), ..Delta::default() }).is_empty());
        let gone = Delta { removed_networks: vec![Vni(7)], ..Delta::default() };
        let parts = decoded(delta(1, &gone));
        assert!(parts.len() == 1 && !parts[0].snapshot && !parts[0].first && parts[0].removed_vnis == [7]);
    }

    #[test]
    fn a_node_is_told_what_it_is_itself_in_a_network_of_the_nodes() {
        let station = HostStation {
            addresses: vec![("10.9.0.7".parse().unwrap(), 24), ("fd00::7".parse().unwrap(), 64)],
            mac: Mac([2, 0, 0, 0, 0, 7]),
        };
        let networks = || [7, 8].map(|vni| Network { vni: Vni(vni), ..Network::default() }).to_vec();
        let hosts = BTreeMap::from([(Vni(8), station)]);
        let all = Snapshot { networks: networks(), hosts: hosts.clone(), ..Snapshot::default() };
        let new = Delta { networks: networks(), hosts, ..Delta::default() };
        for parts in [snapshot(1, &all), surroundings(1, &all), delta(1, &new)] {
            let parts = decoded(parts);
            assert_eq!(parts[0].networks[0].host, None);
            let host = parts[0].networks[1].host.as_ref().unwrap();
            assert_eq!(host.addresses, ["10.9.0.7/24", "fd00::7/64"]);
            assert_eq!(host.mac, [2, 0, 0, 0, 0, 7]);
        }
    }

    #[test]
    fn a_snapshot_in_two_halves_is_one() {
        let own = Snapshot {
            revision: Revision(5),
            networks: vec![Network { vni: Vni(7), ..Network::default() }],
            ..Snapshot::default()
        };
        for count in [0, 10_000] {
            let shared = Stations { revision: Revision(5), bindings: bindings(count), removed: Vec::new() };
            let mut parts = surroundings(1, &own);
            parts.extend(whole_stations(1, &shared));
            let parts = decoded(parts);
            assert!(parts[0].first && parts[1..].iter().all(|part| !part.first));
            let (last, others) = parts.split_last().unwrap();
            assert!(others.iter().all(|part| part.more) && !last.more);
            assert!(parts.iter().all(|part| part.snapshot && part.revision == 5));
            assert_eq!(parts.iter().map(|part| part.bindings.len()).sum::<usize>(), count as usize);
        }
    }
}
