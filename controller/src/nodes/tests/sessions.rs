//! Enrolment, state, claims, clones, removal, and what breaks the protocol.

use std::time::Instant;

use controller_api::node::{self as proto, controller_to_switch, switch_message};
use controller_registry::{BindingKey, BindingState, Command, Mac, NewNetwork, Vni};
use node_session::key::PrivateKey;
use proto::goodbye::Reason;
use tonic::Code;

use super::fixture::{Lab, SOON};
use crate::config::Limits;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

async fn vni(lab: &Lab) -> Vni {
    lab.engine.read(|registry| *registry.networks().keys().next().unwrap()).await
}

fn claim(vni: Vni, seen_generation: u64) -> switch_message::Message {
    let key = proto::BindingKey { vni: vni.0, vlans: vec![], mac: MAC.to_vec() };
    let claim = proto::BindingClaim { key: Some(key), ips: vec!["10.1.0.200".to_owned()], seen_generation };
    switch_message::Message::Bindings(proto::BindingReport {
        full: false,
        claims: vec![claim],
        withdrawals: vec![],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_and_refusals_are_distinct_and_counted() {
    let lab = Lab::start(Limits { enrolments_per_minute: 4, ..Limits::default() }).await;
    let secret = lab.token().await;
    let request = |secret: &[u8]| proto::EnrolRequest {
        secret: secret.to_vec(),
        name: "edge".to_owned(),
        ..Default::default()
    };
    let first = PrivateKey::generate().unwrap();
    let answer = lab.dial(&first).await.enrol(request(secret.bytes())).await.unwrap().into_inner();
    assert_eq!(answer.node_name, "edge");
    let other = PrivateKey::generate().unwrap();
    let used = lab.dial(&other).await.enrol(request(secret.bytes())).await.unwrap_err();
    let forged = lab.dial(&other).await.enrol(request(b"guess")).await.unwrap_err();
    assert_ne!(used.message(), forged.message());
    assert_eq!(lab.nodes.counters().enrolments_refused.all().values().sum::<u64>(), 2);
    lab.dial(&other).await.enrol(request(b"guess")).await.unwrap_err();
    let limited = lab.dial(&other).await.enrol(request(b"guess")).await.unwrap_err();
    assert_eq!((limited.code(), lab.nodes.counters().enrolments_limited.get()), (Code::ResourceExhausted, 1));

    let (_send, messages) = tokio::sync::mpsc::channel(1);
    let stranger =
        lab.dial(&other).await.switch_session(tokio_stream::wrappers::ReceiverStream::new(messages)).await;
    let error = stranger.unwrap_err();
    assert!(error.code() == Code::Unauthenticated && error.message().contains("switchd join"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_far_behind_or_new_gets_all_that_is_shared() {
    const EACH: u32 = 3000;
    let lab = Lab::start(Limits::default()).await;
    let vni = vni(&lab).await;
    let late = lab.node().await;
    let (switch, first) = late.switch(&lab, 1).await;
    drop(switch);
    let mut holders = Vec::new();
    for holder in 0..2u8 {
        let (switch, _) = lab.node().await.switch(&lab, 2).await;
        let claim = |i: u32| {
            let [_, _, high, low] = i.to_be_bytes();
            let key = proto::BindingKey { vni: vni.0, vlans: vec![], mac: vec![2, 1, 0, holder, high, low] };
            proto::BindingClaim { key: Some(key), ips: vec![], seen_generation: 0 }
        };
        let claims = (0..EACH).map(claim).collect();
        let report = proto::BindingReport { full: true, claims, withdrawals: vec![] };
        switch.say(switch_message::Message::Bindings(report)).await;
        holders.push(switch);
    }
    let mut published = lab.engine.published();
    while lab.engine.read(|registry| registry.bindings().len()).await < 2 * EACH as usize {
        tokio::time::timeout(SOON, published.changed()).await.unwrap().unwrap();
    }
    let newest = lab.engine.read(|registry| registry.revision().0).await;
    for known in [first.revision, 0] {
        let mut switch = late.register(&lab, 1, known).await;
        assert!(matches!(switch.hear().await, controller_to_switch::Message::Registered(_)));
        let (mut macs, mut whole, mut peers) = (std::collections::BTreeSet::new(), Vec::new(), 0);
        while whole.last().is_none_or(|revision| *revision < newest) {
            let update = switch.update().await;
            // One that was made for another node a moment ago serves; a delta goes after it.
            assert_eq!(update.snapshot, known == 0 && whole.is_empty());
            peers += update.peers.len();
            macs.extend(update.bindings.into_iter().map(|binding| binding.key.unwrap().mac));
            if !update.more {
                whole.push(update.revision);
            }
        }
        assert_eq!(macs.len(), 2 * EACH as usize);
        assert!(peers >= 2, "the peers come with them: {peers}");
        assert!(whole.is_sorted() && (known == 0 || whole.len() > 1), "{whole:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_then_deltas_and_a_resumed_session_gets_only_what_is_new() {
    let lab = Lab::start(Limits::default()).await;
    let (a, b) = (lab.node().await, lab.node().await);
    let (mut switch, snapshot) = a.switch(&lab, 1).await;
    assert!(snapshot.snapshot && snapshot.first && !snapshot.more && snapshot.epoch == 77);
    assert_eq!(snapshot.networks[0].name, "blue");
    assert_eq!(snapshot.peers[0].node_id, b.id.to_string());
    assert_eq!(snapshot.peers[0].public_key, b.key.public().0);

    let start = Instant::now();
    let (_other, _) = b.switch(&lab, 2).await;
    let delta = switch.update_with(|update| !update.peers.is_empty()).await;
    assert!(!delta.snapshot && delta.peers[0].addresses.contains(&"192.0.2.9:4789".to_owned()));
    assert!(delta.peers[0].addresses.contains(&"127.0.0.1:4789".to_owned()), "{:?}", delta.peers);
    assert!(start.elapsed() < SOON);

    drop(switch);
    lab.engine
        .command(Command::CreateNetwork(NewNetwork { name: "red".to_owned(), ..NewNetwork::default() }))
        .await
        .unwrap();
    let mut again = a.register(&lab, 1, delta.revision).await;
    assert!(matches!(again.hear().await, controller_to_switch::Message::Registered(_)));
    let update = again.update().await;
    assert!(!update.snapshot && update.networks.len() == 1 && update.networks[0].name == "red", "{update:?}");
    assert_eq!(lab.nodes.counters().snapshots.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_become_bindings_and_a_placed_one_is_not_taken() {
    let lab = Lab::start(Limits::default()).await;
    let (a, b, vni) = (lab.node().await, lab.node().await, vni(&lab).await);
    let (mut one, _) = a.switch(&lab, 1).await;
    let (mut two, _) = b.switch(&lab, 2).await;
    one.say(claim(vni, 0)).await;
    let learned = two.update_with(|update| !update.bindings.is_empty()).await;
    assert_eq!(learned.bindings[0].node_id, a.id.to_string());
    assert_eq!(learned.bindings[0].source(), proto::BindingSource::Learned);

    two.say(claim(vni, 0)).await;
    let refused = loop {
        match two.hear().await {
            controller_to_switch::Message::Bindings(answer) => break answer,
            controller_to_switch::Message::Update(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused.refusals[0].reason(), proto::BindingRefusalReason::Stale);
    assert_eq!(refused.refusals[0].current.as_ref().unwrap().generation, learned.bindings[0].generation);

    let key = BindingKey { vni, vlans: vec![], mac: Mac(MAC) };
    let set = Command::SetBinding {
        key,
        ips: vec![],
        node: a.id.to_string(),
        state: BindingState::Active,
        expected: None,
    };
    lab.engine.command(set).await.unwrap();
    let placed = two
        .update_with(|update| update.bindings.iter().any(|b| b.source() == proto::BindingSource::Controller))
        .await;
    two.say(claim(vni, placed.bindings[0].generation)).await;
    let refused = loop {
        if let controller_to_switch::Message::Bindings(answer) = two.hear().await {
            break answer;
        }
    };
    assert_eq!(refused.refusals[0].reason(), proto::BindingRefusalReason::BoundElsewhere);
    assert_eq!(lab.nodes.counters().claims_refused.all().values().sum::<u64>(), 2);
    // Kept, so that the session of the first one stands to the end.
    one.say(switch_message::Message::Heartbeat(proto::Heartbeat { sequence: 4, answer: false })).await;
    loop {
        if let controller_to_switch::Message::Heartbeat(beat) = one.hear().await {
            assert_eq!((beat.sequence, beat.answer), (4, true));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_refused_while_the_first_lives_and_a_restart_takes_over() {
    let lab = Lab::start(Limits::default()).await;
    let node = lab.node().await;
    let (mut first, _) = node.switch(&lab, 1).await;
    let alive = tokio::spawn(async move {
        // Hearing answers the probe.
        let heard = tokio::time::timeout(std::time::Duration::from_secs(3), first.hear()).await;
        (first, heard.is_ok())
    });
    let mut clone = node.register(&lab, 2, 0).await;
    let (reason, detail) = clone.goodbye().await;
    assert_eq!(reason, Reason::Cloned);
    assert!(detail.contains("copy"), "{detail}");
    assert_eq!(lab.nodes.counters().refused_cloned.get(), 1);
    let events = lab.engine.events().last(10);
    assert!(events.iter().any(|event| event.event.kind.as_str() == "node-cloned"), "{events:?}");

    // Nobody reads the first one's stream from here on, so it does not answer: as if its machine had gone.
    let (_silent, _) = alive.await.unwrap();
    let (mut restarted, snapshot) = node.switch(&lab, 3).await;
    assert!(snapshot.snapshot);
    // The same process again takes over at once.
    let start = Instant::now();
    let (_again, _) = node.switch(&lab, 3).await;
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
    assert_eq!(restarted.goodbye().await.0, Reason::Superseded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_and_its_peers_know_within_two_seconds_and_its_key_stays_refused() {
    let lab = Lab::start(Limits::default()).await;
    let (a, b) = (lab.node().await, lab.node().await);
    let (mut gone, _) = a.switch(&lab, 1).await;
    let (mut stays, _) = b.switch(&lab, 2).await;
    let start = Instant::now();
    lab.remove(a.id).await;
    let (reason, detail) = gone.goodbye().await;
    assert_eq!(reason, Reason::Removed);
    assert!(detail.contains("joins again"), "{detail}");
    let update = stays.update_with(|update| !update.removed_peers.is_empty()).await;
    assert_eq!(update.removed_peers, [a.id.to_string()]);
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());

    let mut again = a.open(&lab).await;
    assert_eq!(again.goodbye().await.0, Reason::Removed);
    assert_eq!(lab.nodes.counters().refused_revoked.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_ends_that_session_alone_with_the_reason() {
    let lab = Lab::start(Limits::default()).await;
    let (bad, good) = (lab.node().await, lab.node().await);
    let (mut bystander, _) = good.switch(&lab, 1).await;
    let vni = vni(&lab).await;

    let mut early = bad.open(&lab).await;
    early.say(claim(vni, 0)).await;
    assert_eq!(early.goodbye().await, (Reason::Protocol, "the first message is not register".to_owned()));

    let key = |mac: &[u8], vlans: &[u32]| {
        Some(proto::BindingKey { vni: vni.0, vlans: vlans.to_vec(), mac: mac.to_vec() })
    };
    let report = |key, ips: &[&str]| {
        let ips = ips.iter().map(|&ip| ip.to_owned()).collect();
        let claims = vec![proto::BindingClaim { key, ips, seen_generation: 0 }];
        switch_message::Message::Bindings(proto::BindingReport { full: false, claims, withdrawals: vec![] })
    };
    let link = proto::LinkStatus { peer_id: "x".to_owned(), ..Default::default() };
    let signal =
        |to: &str| switch_message::Message::Signal(proto::Signal { node_id: to.to_owned(), payload: vec![] });
    let wrong = [
        (report(key(&[1, 2], &[]), &[]), "6 bytes"),
        (report(None, &[]), "key is missing"),
        (report(key(&MAC, &[1, 2, 3]), &[]), "tags"),
        (report(key(&MAC, &[4095]), &[]), "no VLAN"),
        (report(key(&MAC, &[]), &["x"]), "no IP"),
        (switch_message::Message::Links(proto::LinkReport { full: true, links: vec![link] }), "no node's id"),
        (signal("everybody"), "no node's id"),
        (switch_message::Message::Register(proto::RegisterSwitch::default()), "twice"),
        (
            switch_message::Message::Applied(proto::Applied {
                problems: vec!["x".repeat(3 << 20)],
                ..Default::default()
            }),
            "too large",
        ),
    ];
    let count = wrong.len() as u64;
    for (message, part) in wrong {
        let (mut switch, _) = bad.switch(&lab, 9).await;
        switch.say(message).await;
        let (reason, detail) = switch.goodbye().await;
        assert!(reason == Reason::Protocol && detail.contains(part), "{reason:?} {detail}");
    }
    assert_eq!(lab.nodes.counters().protocol_errors.get(), count + 1);
    bystander.say(switch_message::Message::Heartbeat(proto::Heartbeat { sequence: 1, answer: false })).await;
    while !matches!(bystander.hear().await, controller_to_switch::Message::Heartbeat(_)) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_nobody_up_and_gets_the_newest_state_later() {
    let lab = Lab::start(Limits::default()).await;
    let (slow, quick, vni) = (lab.node().await, lab.node().await, vni(&lab).await);
    let (mut sleeper, _) = slow.switch(&lab, 1).await;
    let (mut reader, _) = quick.switch(&lab, 2).await;
    // Much more than the windows and queues of a session hold.
    let rounds = 60_u16;
    let mut last = 0;
    for round in 0..rounds {
        let commands = (0..20_u8).map(|i| {
            let key = BindingKey { vni, vlans: vec![], mac: Mac([2, 9, 9, 9, 9, i]) };
            let ip = |ip| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, i.into(), round, ip).into();
            let (ips, node) = ((0..60).map(ip).collect(), quick.id.to_string());
            lab.engine.command(Command::SetBinding {
                key,
                ips,
                node,
                state: BindingState::Active,
                expected: None,
            })
        });
        futures_util::future::join_all(commands).await.into_iter().for_each(|answer| drop(answer.unwrap()));
        last = lab.engine.read(controller_registry::Registry::revision).await.0;
        let update = reader.update_with(|update| update.revision == last).await;
        assert!(!update.snapshot);
    }
    let mut updates = 0;
    loop {
        let update = sleeper.update().await;
        updates += 1;
        if update.revision == last {
            break;
        }
    }
    assert!(updates < rounds * 20, "{updates}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_go_to_peers_only_and_within_bounds() {
    let lab = Lab::start(Limits { signals_per_second: 5, ..Limits::default() }).await;
    let (a, b) = (lab.node().await, lab.node().await);
    let (one, _) = a.switch(&lab, 1).await;
    let (mut two, _) = b.switch(&lab, 2).await;
    let signal = |to: &str, size: usize| {
        switch_message::Message::Signal(proto::Signal { node_id: to.to_owned(), payload: vec![7; size] })
    };
    one.say(signal("node-99", 1)).await;
    one.say(signal(&b.id.to_string(), 17 << 10)).await;
    one.say(signal(&b.id.to_string(), 3)).await;
    let heard = loop {
        if let controller_to_switch::Message::Signal(signal) = two.hear().await {
            break signal;
        }
    };
    assert_eq!((heard.node_id, heard.payload), (a.id.to_string(), vec![7; 3]));
    for _ in 0..60 {
        one.say(signal(&b.id.to_string(), 3)).await;
    }
    let counters = lab.nodes.counters();
    let start = Instant::now();
    let passed = || counters.signals.get() + counters.signals_replaced.get();
    while passed() + counters.signals_dropped.get() < 63 {
        assert!(start.elapsed() < SOON);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(counters.signals_dropped.get() >= 10, "{}", counters.signals_dropped.get());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_the_nodes_and_the_old_one_is_refused() {
    let lab = Lab::start(Limits::default()).await;
    let mut node = lab.node().await;
    let (mut switch, _) = node.switch(&lab, 1).await;
    let new = PrivateKey::generate().unwrap();
    let rotate = |proof: Vec<u8>| {
        switch_message::Message::RotateKey(proto::RotateKey { public_key: new.public().0.to_vec(), proof })
    };
    let mut answers = Vec::new();
    for proof in [vec![1; 64], node_session::rotation::prove(&new, &node.key.public())] {
        switch.say(rotate(proof)).await;
        answers.push(loop {
            if let controller_to_switch::Message::KeyRotated(answer) = switch.hear().await {
                break answer.error;
            }
        });
    }
    assert!(answers[0].contains("proof") && answers[1].is_empty(), "{answers:?}");

    let old = std::mem::replace(&mut node.key, new);
    let (_send, messages) = tokio::sync::mpsc::channel(1);
    let refused =
        lab.dial(&old).await.switch_session(tokio_stream::wrappers::ReceiverStream::new(messages)).await;
    assert!(refused.unwrap_err().message().contains("another key"));
    let (_again, _) = node.switch(&lab, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_stops_says_goodbye() {
    let lab = Lab::start(Limits::default()).await;
    let node = lab.node().await;
    let (mut switch, _) = node.switch(&lab, 1).await;
    assert_eq!(lab.nodes.sessions(), (1, 0));
    lab.stop.send_replace(true);
    assert_eq!(switch.goodbye().await.0, Reason::Stopping);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_session_and_is_reported_away() {
    let lab = Lab::start(Limits { heartbeat_seconds: 1, ..Limits::default() }).await;
    let node = lab.node().await;
    let (mut switch, _) = node.switch(&lab, 1).await;
    let silent = std::time::Duration::from_secs(3);
    let start = Instant::now();
    let end = tokio::time::timeout(SOON, async { while let Ok(Some(_)) = switch.stream.message().await {} });
    end.await.unwrap();
    assert!(start.elapsed() >= silent && lab.nodes.counters().silent.get() == 1);
    let gone = lab.engine.read(|registry| registry.switch_session(node.id).is_none()).await;
    assert!(gone);
}
