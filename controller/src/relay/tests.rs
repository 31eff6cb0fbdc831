//! The whole relay over the loopback, with a client that is not ours.

mod client;
mod coturn;
mod hostile;
mod measure;
mod ours;
mod relaying;

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::*;
use crate::config::RelayConfig;

const SOON: Duration = Duration::from_secs(20);

/// A relay on a port of the kernel's choice.
struct Lab {
    relay: Relay,
    secret: Secret,
    nodes: Arc<Mutex<HashSet<NodeId>>>,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

impl Lab {
    fn new(change: impl FnOnce(&mut RelayConfig)) -> Lab {
        let mut config = RelayConfig {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            ports: 20_000..=60_000,
            ..RelayConfig::default()
        };
        change(&mut config);
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::load_or_make(&dir.path().join("secret")).unwrap();
        let nodes = Arc::new(Mutex::new((1..=20).map(NodeId).collect::<HashSet<_>>()));
        let members = nodes.clone();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let setup = RelaySetup {
            secret: secret.clone(),
            announced: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            tls: Some(Arc::new(tls)),
            is_node: Box::new(move |node| members.lock().unwrap().contains(&node)),
            allow_loopback: true,
        };
        Lab { relay: Relay::start(&config, setup).unwrap(), secret, nodes, certificate }
    }

    /// The relay's address in a family.
    fn at(&self, is_v4: bool) -> SocketAddr {
        let ip = if is_v4 { "127.0.0.1" } else { "::1" };
        SocketAddr::new(ip.parse().unwrap(), self.relay.address().port())
    }

    fn credentials(&self, node: u64, seconds: i64) -> Credentials {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.secret.issue(NodeId(node), now.saturating_add_signed(seconds))
    }
}

/// Waits until it holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
