//! What nodes are told of STUN and TURN servers, each with credentials of its own.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use controller_api::node as proto;
use controller_registry::NodeId;
use tokio::sync::watch;

use super::secret::{Secret, SecretError};
use crate::config::{ExternalRelay, Transport};

/// Makes each node's list.
pub struct Announcer {
    lifetime: Duration,
    embedded: Option<Embedded>,
    external: Vec<External>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

/// The controller's own server.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// What its credentials are made with.
    pub secret: Secret,
    /// host:port, best first.
    pub addresses: Vec<String>,
    /// SHA-256 of the certificate that it shows over TLS, if it serves TLS.
    pub certificate_sha256: Option<[u8; 32]>,
}

struct External {
    server: ExternalRelay,
    secret: RwLock<Option<Secret>>,
}

impl Announcer {
    /// Reads the secrets of the other servers.
    pub fn new(
        lifetime: Duration,
        embedded: Option<Embedded>,
        external: &[ExternalRelay],
    ) -> Result<Announcer, SecretError> {
        let external = external.iter().map(|server| {
            let secret = server.secret_file.as_deref().map(Secret::load).transpose()?;
            server.secret_file.iter().for_each(|path| warn_if_open(path));
            Ok(External { server: server.clone(), secret: RwLock::new(secret) })
        });
        let external = external.collect::<Result<_, _>>()?;
        Ok(Announcer { lifetime, embedded, external, changes: watch::channel(0).0 })
    }

    /// Announces nothing.
    pub fn none() -> Announcer {
        let changes = watch::channel(0).0;
        Announcer { lifetime: Duration::from_secs(3600), embedded: None, external: Vec::new(), changes }
    }

    /// What a node is told now, in seconds since 1970. UDP is before TCP, and that before TLS; of the same, the embedded
    /// server is the first.
    pub fn servers(&self, node: NodeId, now: u64) -> proto::RelayServers {
        let expires = now + self.lifetime.as_secs();
        let mut servers = proto::RelayServers::default();
        let mut add =
            |address: &str, transport: Transport, secret: &Secret, certificate: Option<[u8; 32]>| {
                let credentials = secret.issue(node, expires);
                let certificate = certificate.filter(|_| transport == Transport::Tls);
                servers.relays.push(proto::RelayServer {
                    address: address.to_owned(),
                    transport: transport.word().to_owned(),
                    username: credentials.username,
                    password: credentials.password,
                    expires,
                    certificate_sha256: certificate.map(Vec::from).unwrap_or_default(),
                });
            };
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            let serves =
                |embedded: &&Embedded| transport != Transport::Tls || embedded.certificate_sha256.is_some();
            if let Some(embedded) = self.embedded.as_ref().filter(serves) {
                for address in &embedded.addresses {
                    add(address, transport, &embedded.secret, embedded.certificate_sha256);
                }
            }
            for External { server, secret } in &self.external {
                let secret = secret.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(secret) = secret.as_ref().filter(|_| server.transports.contains(&transport)) {
                    add(&server.address, transport, secret, server.certificate_sha256);
                }
            }
        }
        let embedded = self.embedded.iter().flat_map(|embedded| embedded.addresses.iter().cloned());
        let external =
            self.external.iter().filter(|external| external.server.transports.contains(&Transport::Udp));
        servers.stun = embedded.chain(external.map(|external| external.server.address.clone())).collect();
        servers
    }

    /// When a node is told anew: well before its credentials end, and not all nodes at once.
    pub fn renew_after(&self, node: NodeId) -> Duration {
        let spread = u32::try_from(node.0 % u64::from(SPREAD)).unwrap_or_default();
        self.lifetime / 2 + self.lifetime / 4 * spread / SPREAD
    }

    /// Changes when nodes are to be told at once.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Looks for new secrets in the files of other servers, for ever.
    pub async fn watch_secrets(&self) {
        if self.external.iter().all(|external| external.server.secret_file.is_none()) {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        for External { server, secret } in &self.external {
            let Some(path) = server.secret_file.clone() else { continue };
            match load(path).await {
                Ok(new) => {
                    let mut current = secret.write().unwrap_or_else(PoisonError::into_inner);
                    if current.as_ref().is_none_or(|current| current.differs(&new)) {
                        *current = Some(new);
                        self.changes.send_modify(|changes| *changes += 1);
                    }
                }
                // While somebody replaces it, say: the last one stands.
                Err(error) => tracing::warn!(relay = server.address, "{error}"),
            }
        }
    }
}

fn warn_if_open(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o007 != 0) {
        tracing::warn!(
            "every user of this host can read the relay's secret in {}: chmod o= it",
            path.display()
        );
    }
}

async fn load(path: PathBuf) -> Result<Secret, SecretError> {
    let read = {
        let path = path.clone();
        move || Secret::load(&path)
    };
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(SecretError::Read { path, source: std::io::Error::other(error) }))
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Announcer")
    }
}

const SPREAD: u32 = 97;
const LOOK_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn external(address: &str, transports: &[Transport], secret: Option<PathBuf>) -> ExternalRelay {
        ExternalRelay {
            address: address.to_owned(),
            transports: transports.to_vec(),
            secret_file: secret,
            certificate_sha256: Some([7; 32]),
        }
    }

    #[tokio::test]
    async fn servers_come_best_first_with_the_nodes_own_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("coturn"));
        std::fs::write(&other, "north\n").unwrap();
        let embedded = Embedded {
            secret: Secret::load_or_make(&own).unwrap(),
            addresses: vec!["192.0.2.1:3478".to_owned(), "[2001:db8::1]:3478".to_owned()],
            certificate_sha256: Some([9; 32]),
        };
        let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
        let external = [
            external("turn.example:3478", &all, Some(other.clone())),
            external("stun.example:3478", &[Transport::Udp], None),
        ];
        let hour = Duration::from_secs(3600);
        let announcer = Announcer::new(hour, Some(embedded.clone()), &external).unwrap();
        let told = announcer.servers(NodeId(7), 1_700_000_000);
        assert_eq!(
            told.stun,
            ["192.0.2.1:3478", "[2001:db8::1]:3478", "turn.example:3478", "stun.example:3478"]
        );
        let shape: Vec<_> =
            told.relays.iter().map(|relay| (relay.transport.as_str(), relay.address.as_str())).collect();
        let each = |transport| {
            ["192.0.2.1:3478", "[2001:db8::1]:3478", "turn.example:3478"].map(|address| (transport, address))
        };
        assert_eq!(shape, ["udp", "tcp", "tls"].map(each).concat());
        for relay in &told.relays {
            assert_eq!((relay.username.as_str(), relay.expires), ("1700003600:node-7", 1_700_003_600));
            assert_eq!(relay.certificate_sha256.is_empty(), relay.transport != "tls");
        }
        assert_eq!(told.relays[0].password, embedded.secret.password("1700003600:node-7"));
        assert_ne!(told.relays[0].password, told.relays[2].password);
        assert_ne!(announcer.servers(NodeId(8), 1_700_000_000).relays[0].password, told.relays[0].password);

        let mut changes = announcer.changes();
        announcer.look().await;
        assert!(!changes.has_changed().unwrap());
        std::fs::write(&other, "south\n").unwrap();
        announcer.look().await;
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let renewed = announcer.servers(NodeId(7), 1_700_000_000);
        assert_ne!(renewed.relays[2].password, told.relays[2].password);
        std::fs::remove_file(&other).unwrap();
        announcer.look().await;
        assert!(!changes.has_changed().unwrap());
        assert_eq!(announcer.servers(NodeId(7), 1_700_000_000), renewed);
    }

    #[test]
    fn nodes_are_told_anew_in_time_and_not_at_once() {
        let announcer = Announcer::new(Duration::from_secs(3600), None, &[]).unwrap();
        let after: Vec<_> = (0..100).map(|node| announcer.renew_after(NodeId(node)).as_secs()).collect();
        assert!(after.iter().all(|after| (1800..2700).contains(after)));
        assert!(after.iter().collect::<std::collections::HashSet<_>>().len() > 50);
    }
}
