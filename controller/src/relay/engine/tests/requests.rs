use stun_types::attribute::{AttributeType, RawAttribute, UnknownAttributes};
use turn_types::attribute::{AdditionalAddressFamily, AddressErrorCode, EvenPort};

use super::*;

const UDP: u8 = RequestedTransport::UDP;

#[test]
fn an_allocation_lasts_as_long_as_it_is_refreshed() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    let answer = lab.ask(&node, ALLOCATE, &[&RequestedTransport::new(UDP)]);
    assert_eq!((answer.code, answer.lifetime()), (None, Some(600)));
    assert_eq!(answer.relayed(), Some("203.0.113.10:49152".parse().unwrap()));
    let message = answer.message();
    let mapped = message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id());
    assert_eq!(mapped, node.client.source);
    let key = LongTermKeyCredentials::new(
        node.credentials.username.clone(),
        node.credentials.password.clone(),
        REALM.to_owned(),
    );
    assert!(message.validate_integrity(&key.into()).is_ok(), "answers are signed");

    lab.pass(590);
    assert_eq!(lab.ask(&node, REFRESH, &[&Lifetime::new(100_000)]).lifetime(), Some(1800));
    lab.pass(1790);
    assert_eq!(lab.ask(&node, REFRESH, &[&Lifetime::new(1)]).lifetime(), Some(600));
    lab.pass(601);
    assert_eq!(lab.ask(&node, REFRESH, &[]).code, Some(ErrorCode::ALLOCATION_MISMATCH));
    lab.engine.sweep(lab.now.at, &mut lab.ports);
    assert!(lab.ports.open.is_empty() && lab.engine.by_relayed.is_empty() && lab.engine.per_node.is_empty());

    lab.allocate(&node);
    assert_eq!(lab.ask(&node, REFRESH, &[&Lifetime::new(0)]).lifetime(), Some(0));
    assert!(lab.ports.open.is_empty());
    assert_eq!(lab.permit(&node, PEER), Some(ErrorCode::ALLOCATION_MISMATCH));
}

#[test]
fn whoever_proves_nothing_is_asked_for_credentials() {
    let mut lab = Lab::new();
    let good = lab.node(1);
    let unsigned = Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish();
    let answer = Answer::of(lab.handle(good.client, &unsigned));
    assert_eq!(answer.code, Some(ErrorCode::UNAUTHORIZED));
    let message = answer.message();
    assert_eq!(message.attribute::<Realm>().unwrap().realm(), REALM);
    let nonce = message.attribute::<Nonce>().unwrap().nonce().to_owned();
    assert!(!message.has_attribute(MessageIntegrity::TYPE));
    let told = Node { nonce, ..lab.node(1) };
    lab.allocate(&told);

    let expired = lab.secret.issue(NodeId(2), lab.now.unix);
    let stranger = lab.secret.issue(NodeId(99), lab.now.unix + 60);
    let mut forged = lab.secret.issue(NodeId(2), lab.now.unix + 60);
    forged.password = lab.secret.issue(NodeId(3), lab.now.unix + 60).password;
    let nameless = Credentials { username: "node-2".to_owned(), ..forged.clone() };
    for (what, credentials) in
        [("expired", expired), ("no node", stranger), ("forged", forged), ("nameless", nameless)]
    {
        let node = Node { credentials, ..lab.node(2) };
        let answer = lab.ask(&node, ALLOCATE, &[&RequestedTransport::new(UDP)]);
        assert_eq!(answer.code, Some(ErrorCode::UNAUTHORIZED), "{what}");
    }
    for nonce in ["", "1.2", good.nonce.as_str()] {
        let node = Node { nonce: nonce.to_owned(), ..lab.node(2) };
        let answer = lab.ask(&node, ALLOCATE, &[&RequestedTransport::new(UDP)]);
        assert_eq!(answer.code, Some(ErrorCode::STALE_NONCE), "{nonce}");
        assert!(answer.message().has_attribute(Nonce::TYPE));
    }
    assert_eq!(lab.ports.open.len(), 1);
    assert_eq!(lab.counters.refused(Refused::Credentials), 4);
}

#[test]
fn a_lost_answer_is_given_again_and_another_request_is_not_a_second_allocation() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    let request = node.request(ALLOCATE, &[&RequestedTransport::new(UDP)]);
    let first = Answer::of(lab.handle(node.client, &request)).relayed();
    assert_eq!(Answer::of(lab.handle(node.client, &request)).relayed(), first);
    let other = lab.ask(&node, ALLOCATE, &[&RequestedTransport::new(UDP)]);
    assert_eq!(other.code, Some(ErrorCode::ALLOCATION_MISMATCH));
    assert_eq!(lab.ports.open.len(), 1);
}

#[test]
fn newer_credentials_serve_the_nodes_allocation_and_anothers_do_not() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    lab.allocate(&node);
    let newer = Node { credentials: lab.secret.issue(NodeId(1), lab.now.unix + 9999), ..lab.node(1) };
    assert_eq!(lab.ask(&newer, REFRESH, &[]).code, None);
    let other = Node { credentials: lab.node(2).credentials, ..lab.node(1) };
    assert_eq!(lab.ask(&other, REFRESH, &[]).code, Some(ErrorCode::WRONG_CREDENTIALS));
}

#[test]
fn expired_credentials_serve_what_they_made_and_make_nothing() {
    let mut lab = Lab::new();
    let mut node = lab.node(1);
    lab.allocate(&node);
    assert_eq!(lab.ask(&node, REFRESH, &[&Lifetime::new(1800)]).code, None);
    for _ in 0..3 {
        lab.pass(1500);
        node.nonce = lab.engine.nonces.make(node.client.source, lab.now.unix);
        assert_eq!(lab.ask(&node, REFRESH, &[&Lifetime::new(1800)]).code, None);
    }
    assert!(node.credentials.expires < lab.now.unix);
    assert_eq!(lab.permit(&node, PEER), None);
    lab.nodes.lock().unwrap().remove(&NodeId(1));
    assert_eq!(lab.ask(&node, REFRESH, &[]).code, Some(ErrorCode::UNAUTHORIZED));
    lab.nodes.lock().unwrap().insert(NodeId(1));
    assert_eq!(lab.ask(&node, REFRESH, &[&Lifetime::new(0)]).code, None);
    let answer = lab.ask(&node, ALLOCATE, &[&RequestedTransport::new(UDP)]);
    assert_eq!(answer.code, Some(ErrorCode::UNAUTHORIZED));
}

#[test]
fn a_removed_node_has_nothing_any_more() {
    let mut lab = Lab::new();
    let (node, other) = (lab.node(1), lab.node(2));
    lab.allocate(&node);
    lab.allocate(&other);
    lab.nodes.lock().unwrap().remove(&NodeId(1));
    assert_eq!(lab.ask(&node, REFRESH, &[]).code, Some(ErrorCode::UNAUTHORIZED));
    lab.engine.sweep(lab.now.at, &mut lab.ports);
    assert_eq!(lab.ports.open.len(), 1);
    assert_eq!(lab.ask(&other, REFRESH, &[]).code, None);
}

#[test]
fn the_family_is_what_was_asked_for() {
    use AddressFamily::{IPV4, IPV6};
    let transport = RequestedTransport::new(UDP);
    let mut lab = Lab::new();
    let v6 = lab.ask(&lab.node(1), ALLOCATE, &[&transport, &RequestedAddressFamily::new(IPV6)]);
    assert!(v6.relayed().unwrap().is_ipv6());
    let v4 = lab.ask(&lab.node(2), ALLOCATE, &[&transport, &RequestedAddressFamily::new(IPV4)]);
    assert!(v4.relayed().unwrap().is_ipv4());
    let both = lab.ask(&lab.node(3), ALLOCATE, &[&transport, &AdditionalAddressFamily::new(IPV6)]);
    assert!(both.relayed().unwrap().is_ipv4());
    let refused = both.message().attribute::<AddressErrorCode>().unwrap();
    assert_eq!((refused.family(), refused.error().code()), (IPV6, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED));
    let node = lab.node(1);
    let other = lab.ask(&node, REFRESH, &[&RequestedAddressFamily::new(IPV4)]);
    assert_eq!(other.code, Some(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH));
    assert_eq!(lab.permit(&node, PEER), Some(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH));
    assert_eq!(lab.permit(&node, PEER_V6), None);

    lab.engine.setup.announced = vec!["203.0.113.10".parse().unwrap()];
    let none = lab.ask(&lab.node(4), ALLOCATE, &[&transport, &RequestedAddressFamily::new(IPV6)]);
    assert_eq!(none.code, Some(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED));
}

#[test]
fn what_the_relay_does_not_do_is_refused_by_name() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    let transport = RequestedTransport::new(UDP);
    assert_eq!(lab.ask(&node, ALLOCATE, &[]).code, Some(ErrorCode::BAD_REQUEST));
    let tcp = lab.ask(&node, ALLOCATE, &[&RequestedTransport::new(RequestedTransport::TCP)]);
    assert_eq!(tcp.code, Some(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL));
    let even = lab.ask(&node, ALLOCATE, &[&transport, &EvenPort::new(true)]);
    assert_eq!(even.code, Some(ErrorCode::UNKNOWN_ATTRIBUTE));
    assert!(even.message().attribute::<UnknownAttributes>().unwrap().has_attribute(EvenPort::TYPE));
    // RFC 6062.
    let connect = lab.ask(&node, turn_types::message::CONNECT, &[]);
    assert_eq!(connect.code, Some(ErrorCode::BAD_REQUEST));
    assert!(lab.ports.open.is_empty());
}

#[test]
fn each_limit_has_its_own_answer() {
    let limits = Limits { allocations: 3, allocations_per_node: 2, packets_per_second: 10 };
    let mut lab = Lab::with(limits);
    let transport = RequestedTransport::new(UDP);
    let at_port = |lab: &mut Lab, number, port| {
        let mut node = lab.node(number);
        node.client.source.set_port(port);
        node.nonce = lab.engine.nonces.make(node.client.source, lab.now.unix);
        lab.ask(&node, ALLOCATE, &[&transport]).code
    };
    assert_eq!([at_port(&mut lab, 1, 1), at_port(&mut lab, 1, 2)], [None, None]);
    assert_eq!(at_port(&mut lab, 1, 3), Some(ErrorCode::ALLOCATION_QUOTA_REACHED));
    assert_eq!(at_port(&mut lab, 2, 1), None);
    assert_eq!(at_port(&mut lab, 3, 1), Some(ErrorCode::INSUFFICIENT_CAPACITY));
    lab.pass(601);
    lab.engine.sweep(lab.now.at, &mut lab.ports);
    lab.ports.exhausted = true;
    assert_eq!(at_port(&mut lab, 3, 1), Some(ErrorCode::INSUFFICIENT_CAPACITY));
    lab.ports.exhausted = false;
    assert_eq!(at_port(&mut lab, 1, 3), None);
    assert_eq!(lab.counters.refused(Refused::Capacity), 3);
}

#[test]
fn a_binding_request_needs_no_credentials_and_learns_the_other_port() {
    let mut lab = Lab::new();
    let client = lab.node(1).client;
    let ask = |change: Option<u8>| {
        let mut message = Message::builder_request(BINDING, MessageWriteVec::new());
        if let Some(flags) = change {
            let value = [0, 0, 0, flags];
            message.add_attribute(&RawAttribute::new(AttributeType::new(3), &value)).unwrap();
        }
        message.finish()
    };
    let plain = |answer: &Answer, kind| {
        let message = answer.message();
        let value = message.raw_attribute(AttributeType::new(kind))?.value.to_vec();
        Some((u16::from_be_bytes([value[2], value[3]]), [value[4], value[5], value[6], value[7]]))
    };
    let (main, other) = ((3478, [203, 0, 113, 10]), (3479, [203, 0, 113, 10]));
    let (origin_kind, other_kind) = (0x802b, 0x802c);
    for (at_alternate, change, from_alternate) in
        [(false, None, false), (false, Some(2), true), (true, None, true), (true, Some(2), false)]
    {
        let action = match at_alternate {
            false => lab.handle(client, &ask(change)),
            true => lab.engine.handle_alternate(client, &ask(change), lab.now),
        };
        let Action::Answer { from_alternate: from, .. } = &action else { panic!("no answer") };
        assert_eq!(*from, from_alternate);
        let answer = Answer::of(action);
        assert_eq!(plain(&answer, origin_kind), Some(if from_alternate { other } else { main }));
        assert_eq!(plain(&answer, other_kind), Some(if at_alternate { main } else { other }));
        let message = answer.message();
        let mapped = message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id());
        assert_eq!(mapped, client.source);
    }
    let other_address = Answer::of(lab.handle(client, &ask(Some(4))));
    assert_eq!(other_address.code, Some(ErrorCode::UNKNOWN_ATTRIBUTE));
    let stream = Client { stream: Some(1), ..client };
    let answer = Answer::of(lab.handle(stream, &ask(None)));
    assert_eq!((answer.code, plain(&answer, other_kind)), (None, None));
    let allocate = Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish();
    assert_eq!(lab.engine.handle_alternate(client, &allocate, lab.now), Action::Nothing);
}

#[test]
fn behind_a_nat_peers_are_told_the_announced_address() {
    let mut lab = Lab::new();
    let mut node = lab.node(1);
    node.client.local = "10.0.0.5:3478".parse().unwrap();
    assert_eq!(lab.allocate(&node).ip().to_string(), "203.0.113.10");
    lab.engine.setup.announced.clear();
    let mut node = lab.node(2);
    node.client.local = "192.0.2.5:3478".parse().unwrap();
    assert_eq!(lab.allocate(&node).ip().to_string(), "192.0.2.5");
}
