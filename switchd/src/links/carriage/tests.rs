//! Two connections of quinn's over loopback, with the transport that links have.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};

use super::*;
use crate::dataplane::Received;
use crate::key::PrivateKey;
use crate::links::identity::Identity;
use crate::links::{LinkConfig, transport};

const PEER: PeerId = PeerId(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn config(quic_carriage: bool) -> LinkConfig {
    LinkConfig {
        keepalive: Duration::from_secs(1),
        dead_after: Duration::from_secs(3),
        rekey_after: Duration::from_secs(60),
        underlay_mtu: 1500,
        on_demand: false,
        quic_carriage,
    }
}

struct End {
    endpoint: Endpoint,
    connection: Connection,
    worker: Handle,
    received: Received,
    sender: QuicSender,
}

async fn pair(quic_carriage: bool) -> (End, End) {
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let [dials, listens] = keys.each_ref().map(|key| Identity::new(key, true).unwrap());
    let allowed = [(keys[0].public(), PEER)].into_iter().collect();
    let server = listens.server(Arc::new(ArcSwap::from_pointee(allowed))).unwrap();
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(transport(&config(quic_carriage)));
    let mut client = ClientConfig::new(Arc::new(dials.client(keys[1].public()).unwrap()));
    client.transport_config(transport(&config(quic_carriage)));
    let endpoint = |server| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).unwrap()
    };
    let (a, b) = (endpoint(None), endpoint(Some(server)));
    let dial = a.connect_with(client, b.local_addr().unwrap(), "switchd").unwrap();
    let accept = async { b.accept().await.unwrap().await.unwrap() };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let end = |endpoint, connection: Connection| {
        let (worker, received) = Handle::new().unwrap();
        let sender = carry(&connection, PEER, &worker);
        End { endpoint, connection, worker, received, sender }
    };
    (end(a, dialled.unwrap()), end(b, accepted))
}

impl End {
    async fn receive(&mut self, count: usize) -> Vec<Bytes> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let more = tokio::time::timeout(PATIENCE, self.received.carried.recv()).await;
            let QuicMessages { peer, messages: more } = more.expect("it arrives in time").unwrap();
            assert_eq!(peer, PEER);
            messages.extend(more);
        }
        messages
    }
}

#[tokio::test]
async fn messages_arrive_both_ways_in_order() {
    let (mut a, mut b) = pair(true).await;
    for (from, to) in [(0, 1), (1, 0)] {
        let ends = [&mut a, &mut b];
        let sent: Vec<_> = (0..500u16).map(|i| Bytes::from(vec![i as u8; 20 + usize::from(i)])).collect();
        for part in sent.chunks(50) {
            ends[from].sender.put(Lane::Bulk, part).await;
        }
        let [a, b] = ends;
        let to = if to == 0 { a } else { b };
        assert_eq!(to.receive(500).await, sent);
    }
    assert_eq!(a.worker.carriage_drops().lost.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_limit_follows_what_quic_finds() {
    let (a, mut b) = pair(true).await;
    let end = Instant::now() + PATIENCE;
    // 1472 bytes of UDP payload, less what quinn reckons with.
    while a.sender.limit() < 1434 - usize::from(MTU_STEP_SLACK) {
        assert!(Instant::now() < end, "{}", a.sender.limit());
        a.sender.put(Lane::Bulk, &[Bytes::from_static(&[1; 100])]).await;
        b.receive(1).await;
    }
    a.sender.put(Lane::Bulk, &[Bytes::from(vec![1; 2000]), Bytes::from_static(&[2; 100])]).await;
    assert_eq!(b.receive(1).await, [Bytes::from_static(&[2; 100])]);
    assert_eq!(a.worker.carriage_drops().too_long.load(Ordering::Relaxed), 1);
}

/// A node none of whose networks is carried by QUIC takes such frames all the same, and its packets stay at 1200.
#[tokio::test]
async fn a_node_of_sealed_networks_takes_frames_too() {
    let (a, mut b) = pair(false).await;
    assert_eq!(a.sender.limit(), 1162);
    a.sender.put(Lane::Bulk, &[Bytes::from_static(&[1; 1162])]).await;
    assert_eq!(b.receive(1).await[0].len(), 1162);
}

#[tokio::test]
async fn what_comes_after_the_end_is_lost_and_counted() {
    let (a, b) = pair(true).await;
    b.connection.close(0u8.into(), b"");
    a.connection.closed().await;
    a.sender.put(Lane::Bulk, &[Bytes::from_static(&[1; 100])]).await;
    let end = Instant::now() + PATIENCE;
    while a.worker.carriage_drops().lost.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((a.endpoint, b.endpoint));
}

/// How far below the top quinn's search may end, bytes.
const MTU_STEP_SLACK: u16 = 8;

/// Messages of the prompt lane go before bulk that waits, and are all that is sent while they come; each lane's are
/// in order.
#[tokio::test]
async fn prompt_messages_go_ahead() {
    let (a, mut b) = pair(true).await;
    // Nothing else runs until the receiver is waited for.
    let batches = [(Lane::Bulk, 1, 30), (Lane::Bulk, 2, 30), (Lane::Prompt, 3, 5), (Lane::Prompt, 4, 5)];
    for (lane, mark, count) in batches {
        a.sender.put(lane, &vec![Bytes::from(vec![mark; 1000]); count]).await;
    }
    let marks: Vec<u8> = b.receive(70).await.iter().map(|message| message[0]).collect();
    assert_eq!(marks, [vec![3; 5], vec![4; 5], vec![1; 30], vec![2; 30]].concat());
}
