//! How much the relay carries, beside coturn, over the loopback: one flow of full datagrams, sent and taken in batches.

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use super::client::{Client, Over};
use super::coturn::coturn;
use super::*;

const PAYLOAD: usize = 1200;
const AT_ONCE: usize = 20;
const LONG: Duration = Duration::from_secs(3);

#[test]
#[ignore = "a measurement: cargo test --release -p controller --lib -- --ignored --nocapture how_much_it_relays"]
fn how_much_it_relays() {
    let lab = Lab::new(|config| config.packets_per_second = u32::MAX);
    let credentials = lab.credentials(1, 3600);
    flow("embedded", Client::begin(&lab, Over::Udp, lab.at(true), true, &credentials));

    let dir = tempfile::tempdir().unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(dir.path().join("secret"), "a-shared-secret").unwrap();
    let secret = Secret::load(&dir.path().join("secret")).unwrap();
    let (_coturn, server) = coturn(dir.path(), port, "a-shared-secret");
    let credentials = secret.issue(NodeId(1), credentials.expires);
    flow("coturn", Client::begin(&lab, Over::Udp, server, true, &credentials));
}

fn flow(what: &str, client: Client) {
    let mut client = client.allocated();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    client.bind(address);
    let relayed = client.relayed().unwrap();
    let (socket, framed) = client.raw(address, &[7; PAYLOAD]);
    let server = socket.peer_addr().unwrap();
    let to_peer = carried((socket, server, &framed), &peer, 0);
    let to_node = carried((&peer, relayed, &[7; PAYLOAD]), socket, framed.len() - PAYLOAD);
    println!("{what:9} to the peer {to_peer:6.0} Mbit/s, to the node {to_node:6.0} Mbit/s");
}

/// Millions of bits in a second that arrive, without headers.
fn carried((from, to, datagram): (&UdpSocket, SocketAddr, &[u8]), at: &UdpSocket, header: usize) -> f64 {
    let stop = AtomicBool::new(false);
    at.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let state = UdpSocketState::new(from.into()).unwrap();
            let contents = datagram.repeat(AT_ONCE);
            while !stop.load(Ordering::Relaxed) {
                let segment_size = Some(datagram.len());
                let transmit =
                    Transmit { destination: to, ecn: None, contents: &contents, segment_size, src_ip: None };
                if state.try_send(from.into(), &transmit).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let state = UdpSocketState::new(at.into()).unwrap();
        let mut buffers = vec![vec![0; 1 << 16]; BATCH_SIZE];
        let mut metas = vec![RecvMeta::default(); BATCH_SIZE];
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < LONG {
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let Ok(count) = state.recv(at.into(), &mut slices, &mut metas) else {
                std::thread::yield_now();
                continue;
            };
            let payload = |meta: &RecvMeta| meta.len - header * (meta.len / meta.stride);
            bytes += metas[..count].iter().map(payload).sum::<usize>();
        }
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        bytes as f64 * 8.0 / seconds / 1e6
    })
}
