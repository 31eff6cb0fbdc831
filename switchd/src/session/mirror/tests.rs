use proptest::prelude::*;

use super::*;

fn binding(vni: u32, mac: u8, generation: u64) -> wire::Binding {
    wire::Binding {
        key: Some(key(vni, mac)),
        ips: vec![format!("10.0.0.{mac}")],
        node_id: if mac.is_multiple_of(2) { "own".into() } else { "node-2".into() },
        generation,
        source: wire::BindingSource::Learned.into(),
        state: wire::BindingState::Active.into(),
    }
}

fn key(vni: u32, mac: u8) -> wire::BindingKey {
    wire::BindingKey { vni, vlans: vec![], mac: vec![2, 0, 0, 0, 0, mac] }
}

fn network(vni: u32) -> wire::Network {
    wire::Network { vni, name: format!("n{vni}"), ..wire::Network::default() }
}

prop_compose! {
    fn parts()(
        networks in prop::collection::btree_set(1u32..6, 0..5),
        bindings in prop::collection::vec((1u32..6, 0u8..20, 1u64..50), 0..20),
    ) -> wire::StateUpdate {
        wire::StateUpdate {
            epoch: 1,
            revision: 1,
            networks: networks.into_iter().map(network).collect(),
            bindings: bindings.into_iter().map(|(vni, mac, g)| binding(vni, mac, g)).collect(),
            ..wire::StateUpdate::default()
        }
    }
}

proptest! {
    /// However a snapshot is cut into parts, and whatever is stored in between, the state is the same.
    #[test]
    fn parts_make_the_same_state_as_the_whole(whole in parts(), size in 1usize..5) {
        let one = wire::StateUpdate { snapshot: true, first: true, ..whole.clone() };
        let mut expected = Mirror::new("own".into());
        expected.take(one).unwrap().unwrap();
        let mut pieces: Vec<wire::StateUpdate> = whole.networks.iter()
            .map(|n| wire::StateUpdate { networks: vec![n.clone()], ..wire::StateUpdate::default() })
            .chain(whole.bindings.chunks(size)
                .map(|b| wire::StateUpdate { bindings: b.to_vec(), ..wire::StateUpdate::default() }))
            .collect();
        pieces.push(wire::StateUpdate::default());
        let last = pieces.len() - 1;
        let mut mirror = Mirror::new("own".into());
        for (i, piece) in pieces.into_iter().enumerate() {
            let part = wire::StateUpdate {
                epoch: 1, revision: 1, snapshot: true, first: i == 0, more: i < last, ..piece
            };
            prop_assert_eq!(mirror.take(part).unwrap().is_some(), i == last);
        }
        prop_assert_eq!(mirror.state(), expected.state());
        let mut stored = Mirror::new("own".into());
        stored.take(mirror.to_snapshot()).unwrap().unwrap();
        prop_assert_eq!(stored.state(), mirror.state());
        prop_assert_eq!(stored.revision(), mirror.revision());
    }

    /// The updates that come out, applied by someone else, give the mirror's own state.
    #[test]
    fn updates_say_all_of_it(first in parts(), deltas in prop::collection::vec((parts(), 1u32..6, 0u8..20), 0..5)) {
        let mut mirror = Mirror::new("own".into());
        let mut other = Desired::default();
        let one = wire::StateUpdate { snapshot: true, first: true, ..first };
        other.apply(mirror.take(one).unwrap().unwrap());
        for (i, (delta, vni, mac)) in deltas.into_iter().enumerate() {
            let part = wire::StateUpdate {
                revision: 2 + i as u64, removed_vnis: vec![vni], removed_bindings: vec![key(vni, mac)], ..delta
            };
            other.apply(mirror.take(part).unwrap().unwrap());
        }
        prop_assert_eq!(mirror.state(), &other);
    }
}

#[test]
fn what_is_out_of_order_is_refused_and_leaves_the_state() {
    let part = |revision, snapshot, first, more| wire::StateUpdate {
        epoch: 1,
        revision,
        snapshot,
        first,
        more,
        ..wire::StateUpdate::default()
    };
    let mut mirror = Mirror::new("own".into());
    assert!(mirror.take(part(5, true, true, false)).unwrap().is_some());
    assert!(matches!(mirror.take(part(4, false, false, false)), Err(OutOfOrder::Base { .. })));
    let other_epoch = wire::StateUpdate { epoch: 2, ..part(6, false, false, false) };
    assert!(matches!(mirror.take(other_epoch), Err(OutOfOrder::Base { .. })));
    assert!(matches!(mirror.take(part(6, true, false, false)), Err(OutOfOrder::Part { .. })));
    assert_eq!(mirror.take(part(6, false, false, true)), Ok(None));
    assert!(matches!(mirror.take(part(7, false, false, false)), Err(OutOfOrder::Part { .. })));
    mirror.abandon();
    assert_eq!(mirror.revision().revision, 5);
    assert!(mirror.take(part(6, false, false, false)).unwrap().is_some());
    mirror.forget_revision();
    assert_eq!(mirror.revision(), Revision::default());
}

#[test]
fn what_is_not_understood_is_a_problem_until_it_is_mended() {
    let mut mirror = Mirror::new("own".into());
    let bad = wire::Network { mode: "quantum".into(), ..network(1) };
    let update = wire::StateUpdate {
        snapshot: true,
        first: true,
        networks: vec![bad, network(2)],
        ..wire::StateUpdate::default()
    };
    mirror.take(update).unwrap().unwrap();
    assert_eq!(mirror.state().networks.len(), 1);
    assert!(mirror.problems()[0].contains("quantum"));
    let mended = wire::StateUpdate { networks: vec![network(1)], ..wire::StateUpdate::default() };
    mirror.take(mended).unwrap().unwrap();
    assert_eq!((mirror.state().networks.len(), mirror.problems().len()), (2, 0));
}
