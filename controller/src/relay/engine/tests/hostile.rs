use proptest::prelude::*;
use stun_types::attribute::{AttributeType, RawAttribute};

use super::*;

/// One of each message that a client sends, from a node that has an allocation with a channel.
fn corpus(lab: &mut Lab) -> (Node, Vec<Vec<u8>>) {
    let node = lab.node(1);
    lab.allocate(&node);
    assert_eq!(lab.bind(&node, 0x4001, PEER), None);
    let transport = RequestedTransport::new(RequestedTransport::UDP);
    let family = RequestedAddressFamily::new(AddressFamily::IPV6);
    let messages = vec![
        Message::builder_request(BINDING, MessageWriteVec::new()).finish(),
        Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish(),
        node.request(ALLOCATE, &[&transport, &family, &Lifetime::new(700)]),
        node.request(REFRESH, &[&Lifetime::new(700)]),
        node.with_peer(CREATE_PERMISSION, PEER, &[]),
        node.with_peer(CHANNEL_BIND, PEER, &[&ChannelNumber::new(0x4001)]),
        send_indication(PEER, b"hello"),
        channel_data(0x4001, b"hello"),
    ];
    (node, messages)
}

/// What the relay looks at or refuses, but for what a signature is made of.
const KINDS: [u16; 22] = [
    0x0001, 0x0003, 0x0009, 0x000a, 0x000c, 0x000d, 0x0012, 0x0013, 0x0016, 0x0017, 0x0018, 0x0019, 0x001a,
    0x001e, 0x0020, 0x0022, 0x0024, 0x8000, 0x8001, 0x8022, 0x802b, 0xffff,
];

/// Found by hand: lengths that lie, attributes that overlap, endings that end twice.
const ODD: [&[u8]; 14] = [
    b"",
    b"\x00",
    b"\x00\x01\x00\x00",
    b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijk",
    b"\x00\x01\x00\x04\x21\x12\xa4\x42abcdefghijkl",
    b"\x00\x01\x00\x04\x21\x12\xa4\x42abcdefghijkl\x00\x06\xff\xff",
    b"\x00\x01\x00\x03\x21\x12\xa4\x42abcdefghijkl\x00\x06\x00",
    b"\x00\x01\x00\x00\x21\x12\xa4\x43abcdefghijkl",
    b"\x00\x01\x00\x04\x21\x12\xa4\x42abcdefghijkl\x80\x28\x00\x00",
    b"\x00\x01\x00\x10\x21\x12\xa4\x42abcdefghijkl\x80\x28\x00\x04abcd\x80\x28\x00\x04abcd",
    b"\x00\x03\x00\x08\x21\x12\xa4\x42abcdefghijkl\x00\x08\x00\x00\x00\x08\x00\x00",
    b"\x40\x01\x00\x05hell",
    b"\x7f\xff\xff\xff",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
];

#[test]
fn odd_messages_are_dropped_and_what_stands_stands() {
    let mut lab = Lab::new();
    let (node, messages) = corpus(&mut lab);
    for odd in ODD {
        // Some are whole and senseless: those have an error for an answer.
        if let answer @ Action::Answer { .. } = lab.handle(node.client, odd) {
            assert_eq!(Answer::of(answer).code, Some(ErrorCode::BAD_REQUEST), "{odd:x?}");
        }
    }
    for message in &messages {
        for length in 0..message.len() {
            assert_eq!(lab.handle(node.client, &message[..length]), Action::Nothing);
        }
    }
    assert_eq!(lab.ask(&node, REFRESH, &[]).code, None);
}

#[test]
fn nobody_uses_anothers_allocation_by_its_channel() {
    let mut lab = Lab::new();
    let (node, _) = corpus(&mut lab);
    let data = channel_data(0x4001, b"hello");
    let (mut port, mut address, mut local) = (node.client, node.client, node.client);
    port.source.set_port(7001);
    address.source.set_ip("198.51.100.99".parse().unwrap());
    local.local.set_ip("203.0.113.11".parse().unwrap());
    for client in [port, address, local, Client { stream: Some(1), ..node.client }] {
        assert_eq!(lab.handle(client, &data), Action::Nothing);
        assert_eq!(lab.handle(client, &send_indication(PEER, b"x")), Action::Nothing);
    }
    // Every channel that is not bound.
    for number in (0x4000..0x8000).filter(|number| *number != 0x4001) {
        assert_eq!(lab.handle(node.client, &channel_data(number, b"x")), Action::Nothing);
    }
}

#[test]
fn a_flood_of_invented_sources_leaves_nothing_behind() {
    let mut lab = Lab::new();
    let (node, _) = corpus(&mut lab);
    let request = Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish();
    let mut answered = 0;
    for i in 0..200_000_u32 {
        let source = SocketAddr::from((i.wrapping_mul(2_654_435_761).to_be_bytes(), 7));
        let client = Client { source, ..node.client };
        answered += u32::from(lab.handle(client, &request) != Action::Nothing);
    }
    assert!(answered <= 10_000, "{answered}");
    assert_eq!((lab.ports.open.len(), lab.engine.by_client.len()), (1, 1));
    assert!(lab.engine.unproven.remembered() <= 20_000);
    // Who has proved itself is served all the same.
    assert_eq!(lab.ask(&node, REFRESH, &[]).code, None);
    assert_ne!(lab.handle(node.client, &channel_data(0x4001, b"hello")), Action::Nothing);
    // Also what it asks as strangers do.
    let binding = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    assert_ne!(lab.handle(node.client, &binding), Action::Nothing);
    assert_eq!(
        lab.handle(Client { source: "192.0.2.1:7".parse().unwrap(), ..node.client }, &binding),
        Action::Nothing
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut lab = Lab::new();
        let node = lab.node(1);
        lab.handle(node.client, &bytes);
        lab.engine.handle_alternate(node.client, &bytes, lab.now);
        prop_assert!(lab.ports.open.is_empty());
    }

    /// Nobody makes an allocation, a permission or a channel with a message that a node has not signed.
    #[test]
    fn a_changed_message_changes_nothing(
        which in 0..8_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut lab = Lab::new();
        let (node, messages) = corpus(&mut lab);
        let mut message = messages[which].clone();
        for (at, value) in changes {
            let at = at.index(message.len());
            message[at] = value;
        }
        let mut client = node.client;
        lab.handle(client, &message);
        client.source.set_port(7001);
        lab.handle(client, &message);
        prop_assert_eq!(lab.ports.open.len(), 1);
        let allocation = &lab.engine.allocations[&AllocationId(1)];
        prop_assert_eq!((allocation.permissions(), allocation.channels()), (1, 1));
    }

    /// Attributes of any kind, with any content, from a node that signs them and from a stranger.
    #[test]
    fn senseless_attributes_break_nothing(
        which in 0..6_usize,
        attributes in proptest::collection::btree_map(
            prop::sample::select(KINDS.to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
            0..8,
        ),
    ) {
        let mut lab = Lab::new();
        let (node, _) = corpus(&mut lab);
        let method = [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND, SEND][which];
        let raw = |(kind, value): (&u16, &Vec<u8>)| {
            RawAttribute::new_owned(AttributeType::new(*kind), value.clone().into())
        };
        let raw: Vec<RawAttribute<'_>> = attributes.iter().map(raw).collect();
        let raw: Vec<&dyn AttributeWrite> = raw.iter().map(|raw| raw as &dyn AttributeWrite).collect();
        lab.handle(node.client, &node.request(method, &raw));
        let class = if method == SEND { MessageClass::Indication } else { MessageClass::Request };
        let kind = MessageType::from_class_method(class, method);
        let mut message = Message::builder(kind, TransactionId::generate(), MessageWriteVec::new());
        raw.iter().for_each(|raw| message.add_attribute(*raw).unwrap());
        let message = message.finish();
        let mut stranger = node.client;
        stranger.source.set_port(7001);
        for client in [node.client, stranger] {
            lab.handle(client, &message);
            lab.engine.handle_alternate(client, &message, lab.now);
        }
        prop_assert!(lab.ports.open.len() <= 1);
    }

    /// As above, with attributes cut out, doubled and swapped.
    #[test]
    fn attributes_in_disorder_break_nothing(
        which in 2..7_usize,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut lab = Lab::new();
        let (node, messages) = corpus(&mut lab);
        let message = &messages[which];
        let mut attributes = Vec::new();
        let mut rest = &message[20..];
        while rest.len() >= 4 {
            let length = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]])).next_multiple_of(4);
            attributes.push(&rest[..length]);
            rest = &rest[length..];
        }
        let body: Vec<u8> = order.iter().flat_map(|at| attributes[at.index(attributes.len())]).copied().collect();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let changed = [&message[..2], &length, &message[4..20], &body].concat();
        lab.handle(node.client, &changed);
        prop_assert_eq!(lab.ports.open.len(), 1);
    }
}
