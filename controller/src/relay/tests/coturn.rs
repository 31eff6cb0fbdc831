//! coturn by configuration takes the credentials that nodes are told.

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use turn_client_proto::api::TurnEvent;

use super::client::{Client, Over};
use super::*;
use crate::config::{ExternalRelay, Transport};

pub(super) struct Coturn(Child);

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As in docs/operations.md, but for what the loopback needs.
pub(super) fn coturn(dir: &std::path::Path, port: u16, secret: &str) -> (Coturn, SocketAddr) {
    let lines = format!(
        "listening-port={port}\nlistening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nmin-port=49152\nmax-port=65535\n\
         realm=switchd\nuse-auth-secret\nstatic-auth-secret={secret}\nfingerprint\nno-cli\nno-multicast-peers\n\
         no-tcp-relay\nuser-quota=32\nno-tls\nno-dtls\nallow-loopback-peers\nlog-file=stdout\n\
         pidfile={0}/pid\nuserdb={0}/db\n",
        dir.display(),
    );
    let file = dir.join("turnserver.conf");
    std::fs::write(&file, lines).unwrap();
    let child =
        Command::new("turnserver").arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let coturn = Coturn(child.expect("coturn is installed: .ci/deps does it"));
    let server: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    wait_for("coturn to listen", || std::net::TcpStream::connect(server).is_ok());
    (coturn, server)
}

#[test]
fn coturn_serves_nodes_with_the_shared_secret() {
    // For the certificate and such; this relay is not used.
    let lab = Lab::new(|_| {});
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "a-shared-secret\n").unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_coturn, server) = coturn(dir.path(), port, "a-shared-secret");

    let external = ExternalRelay {
        address: server.to_string(),
        transports: vec![Transport::Udp, Transport::Tcp],
        secret_file: Some(file),
        certificate_sha256: None,
    };
    let announcer = Announcer::new(Duration::from_secs(3600), None, &[external]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let told = announcer.servers(NodeId(7), now);
    assert_eq!(
        told.relays.iter().map(|relay| &relay.address[..]).collect::<Vec<_>>(),
        [server.to_string(), server.to_string()]
    );
    for (over, relay) in [Over::Udp, Over::Tcp].into_iter().zip(&told.relays) {
        let credentials = Credentials {
            username: relay.username.clone(),
            password: relay.password.clone(),
            expires: relay.expires,
        };
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(SOON)).unwrap();
        let mut client = Client::begin(&lab, over, server, true, &credentials).allocated();
        client.bind(peer.local_addr().unwrap());
        client.send(peer.local_addr().unwrap(), b"through coturn");
        let mut bytes = [0; 100];
        let (count, from) = peer.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..count], Some(from)), (&b"through coturn"[..], client.relayed()));
        let failed = |event: &TurnEvent| matches!(event, TurnEvent::AllocationCreateFailed(_));
        assert!(!client.events.iter().any(failed));
    }
}
