//! What a switch shall have, as messages of bounded size.

use controller_api::node as proto;
use controller_registry::{Delta, Snapshot};
use prost::Message;

use super::convert;

/// Everything, as a snapshot.
pub(super) fn snapshot(epoch: u64, snapshot: &Snapshot) -> Vec<proto::StateUpdate> {
    let mut parts = Parts::new(epoch, snapshot.revision.0, true);
    snapshot
        .networks
        .iter()
        .for_each(|network| parts.add(convert::network(network), |part| &mut part.networks));
    snapshot.peers.iter().for_each(|peer| parts.add(convert::peer(peer), |part| &mut part.peers));
    snapshot
        .bindings
        .iter()
        .for_each(|binding| parts.add(convert::binding(binding), |part| &mut part.bindings));
    parts.finish()
}

/// What is new; nothing for nothing.
pub(super) fn delta(epoch: u64, delta: &Delta) -> Vec<proto::StateUpdate> {
    if delta.is_empty() {
        return Vec::new();
    }
    let mut parts = Parts::new(epoch, delta.revision.0, false);
    // Few of these, and small.
    parts.part.removed_vnis = delta.removed_networks.iter().map(|vni| vni.0).collect();
    parts.part.removed_peers = delta.removed_peers.iter().map(ToString::to_string).collect();
    delta.networks.iter().for_each(|network| parts.add(convert::network(network), |part| &mut part.networks));
    delta.peers.iter().for_each(|peer| parts.add(convert::peer(peer), |part| &mut part.peers));
    delta.bindings.iter().for_each(|binding| parts.add(convert::binding(binding), |part| &mut part.bindings));
    delta
        .removed_bindings
        .iter()
        .for_each(|key| parts.add(convert::key(key), |part| &mut part.removed_bindings));
    parts.finish()
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

    fn finish(mut self) -> Vec<proto::StateUpdate> {
        self.done.push(self.part);
        self.done
    }
}

/// The tag and the length in front of an item.
const ITEM_OVERHEAD: usize = 6;
/// Well below what a receiver takes.
const PART_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use controller_registry::{
        Binding, BindingKey, BindingSource, BindingState, Generation, Mac, Network, NodeId, Revision, Vni,
    };

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
            peers: vec![],
            bindings: bindings(100_000),
        };
        let parts = snapshot(1, &all);
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
        let parts = snapshot(1, &Snapshot::default());
        assert!(parts.len() == 1 && parts[0].first && !parts[0].more);
        assert!(delta(1, &Delta { revision: Revision(4), ..Delta::default() }).is_empty());
        let gone = Delta { removed_networks: vec![Vni(7)], ..Delta::default() };
        let parts = delta(1, &gone);
        assert!(parts.len() == 1 && !parts[0].snapshot && !parts[0].first && parts[0].removed_vnis == [7]);
    }
}
