//! What switches are told of relays, and what they say to each other.

use std::collections::HashMap;
use std::time::Duration;

use controller_api::node::{self as proto, controller_to_switch, switch_message};

use super::fixture::{Lab, SOON};
use crate::config::Limits;
use crate::relay::{Announcer, Embedded, Secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_knows_the_relays_before_anything_else_and_anew_before_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded {
        secret: Secret::load_or_make(&dir.path().join("secret")).unwrap(),
        addresses: vec!["192.0.2.1:3478".to_owned()],
        certificate_sha256: None,
    };
    let secret = embedded.secret.clone();
    let announcer = Announcer::new(Duration::from_secs(4), Some(embedded), &[]).unwrap();
    let lab = Lab::announcing(Limits::default(), announcer).await;
    let node = lab.node().await;
    let (mut switch, _) = node.switch(&lab, 1).await;
    let [first] = &switch.relays[..] else { panic!("{:?}", switch.relays) };
    let first = first.clone();
    assert_eq!(first.stun, ["192.0.2.1:3478"]);
    assert_eq!(first.relays.iter().map(|relay| relay.transport.as_str()).collect::<Vec<_>>(), ["udp", "tcp"]);
    for relay in &first.relays {
        assert_eq!(relay.username, format!("{}:{}", relay.expires, node.id));
        assert_eq!(relay.password, secret.password(&relay.username));
    }
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // A heartbeat brings the session to answer, and what comes before the answer is noted.
    let renewed = async {
        while switch.relays.len() < 2 {
            switch
                .say(switch_message::Message::Heartbeat(proto::Heartbeat { sequence: 1, answer: false }))
                .await;
            switch.hear().await;
        }
        now()
    };
    let at = tokio::time::timeout(SOON, renewed).await.unwrap();
    assert!(at < first.relays[0].expires, "before they end");
    assert!(switch.relays[1].relays[0].expires > first.relays[0].expires);
}

/// Each of fifty nodes tells all others of itself at once, three times, before anybody listens.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_cluster_starts_no_nodes_last_word_is_lost_and_nothing_is_kept() {
    const NODES: usize = 50;
    const ROUNDS: u8 = 3;
    let lab = Lab::start(Limits { enrolments_per_minute: 1000, ..Limits::default() }).await;
    let mut nodes = Vec::new();
    for boot in 1..=NODES as u64 {
        let node = lab.node().await;
        let (switch, _) = node.switch(&lab, boot).await;
        nodes.push((node.id.to_string(), switch));
    }
    let commits = || lab.engine.counters().commits.load(std::sync::atomic::Ordering::Relaxed);
    let before = (commits(), lab.engine.read(controller_registry::Registry::revision).await);
    let ids: Vec<String> = nodes.iter().map(|(id, _)| id.clone()).collect();
    for round in 0..ROUNDS {
        for (own, switch) in &nodes {
            for other in ids.iter().filter(|other| *other != own) {
                let signal = proto::Signal { node_id: other.clone(), payload: vec![round; 2000] };
                switch.say(switch_message::Message::Signal(signal)).await;
            }
        }
    }
    for (own, switch) in &mut nodes {
        let mut heard: HashMap<String, u8> = HashMap::new();
        while heard.len() < NODES - 1 || heard.values().any(|round| *round != ROUNDS - 1) {
            if let controller_to_switch::Message::Signal(signal) = switch.hear().await {
                assert_ne!(signal.node_id, *own);
                heard.insert(signal.node_id, signal.payload[0]);
            }
        }
    }
    assert_eq!(lab.nodes.counters().signals_dropped.get(), 0);
    assert_eq!((commits(), lab.engine.read(controller_registry::Registry::revision).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_shown_as_it_was_reported_within_bounds() {
    let lab = Lab::start(Limits::default()).await;
    let (a, b) = (lab.node().await, lab.node().await);
    let (mut switch, _) = a.switch(&lab, 1).await;
    let link = proto::LinkStatus {
        peer_id: b.id.to_string(),
        state: "up".to_owned(),
        path: "relayed".to_owned(),
        local_candidate: "relayed 203.0.113.10:49152".to_owned(),
        remote_candidate: "host ".to_owned() + &"x".repeat(500),
        loss_ppm: u32::MAX,
        why_relayed: "both sides are\nbehind symmetric NATs".to_owned(),
        ..Default::default()
    };
    switch.say(switch_message::Message::Links(proto::LinkReport { full: true, links: vec![link] })).await;
    switch.say(switch_message::Message::Heartbeat(proto::Heartbeat { sequence: 1, answer: false })).await;
    while !matches!(switch.hear().await, controller_to_switch::Message::Heartbeat(_)) {}
    let seen = lab.nodes.observed().links();
    let [(from, to, link)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((*from, *to), (a.id, b.id));
    assert_eq!(link.local_candidate, "relayed 203.0.113.10:49152");
    assert_eq!(link.why_relayed, "both sides are behind symmetric NATs");
    assert!(link.remote_candidate.len() < 100 && link.loss_ppm == 1_000_000);
    let counts = lab.nodes.observed().link_counts();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(("up", "relayed"), 1)]);
}
