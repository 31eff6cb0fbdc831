//! Which STUN servers and relays this node asks: those of its configuration, then those of its controller.

use std::net::SocketAddr;
use std::time::Duration;

use controller_api::node::RelayServers;

use crate::config::{Nat, RelayTransport, Secret};

/// All servers, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Servers {
    /// STUN over UDP; relays that are reached by UDP answer it too.
    pub(super) stun: Vec<String>,
    /// Best first.
    pub(super) relays: Vec<RelayServer>,
}

/// A relay with this node's credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RelayServer {
    pub(super) address: String,
    pub(super) transport: RelayTransport,
    pub(super) username: String,
    pub(super) password: Secret,
    /// The SHA-256 of its certificate; empty for one that the host's authorities vouch for.
    pub(super) certificate: Vec<u8>,
}

impl RelayServer {
    /// The same server, perhaps with other credentials.
    pub(super) fn is_same(&self, other: &RelayServer) -> bool {
        (&self.address, self.transport) == (&other.address, other.transport)
    }
}

impl Servers {
    /// What to ask.
    pub(super) fn new(nat: &Nat, controller: &RelayServers) -> Servers {
        let mut servers = Servers { stun: nat.stun.clone(), relays: Vec::new() };
        servers.relays.extend(nat.relays.iter().map(|relay| RelayServer {
            address: relay.address.clone(),
            transport: relay.transport,
            username: relay.username.clone(),
            password: relay.password.clone(),
            certificate: Vec::new(),
        }));
        if nat.controller_servers {
            servers.stun.extend(controller.stun.iter().cloned());
            servers.relays.extend(controller.relays.iter().filter_map(|relay| {
                Some(RelayServer {
                    address: relay.address.clone(),
                    transport: RelayTransport::from_name(&relay.transport)?,
                    username: relay.username.clone(),
                    password: Secret(relay.password.clone()),
                    certificate: relay.certificate_sha256.clone(),
                })
            }));
        }
        let by_udp = servers.relays.iter().filter(|relay| relay.transport == RelayTransport::Udp);
        let answering: Vec<String> = by_udp.map(|relay| relay.address.clone()).collect();
        servers.stun.extend(answering);
        let mut seen = Vec::new();
        servers.stun.retain(|name| {
            !seen.contains(name) && {
                seen.push(name.clone());
                true
            }
        });
        servers.stun.truncate(MAX_STUN);
        servers.relays.truncate(MAX_RELAYS);
        servers
    }
}

/// The addresses behind a name, one of each family at most. Names that cannot be resolved now are tried again by
/// whoever asks.
pub(super) async fn resolve(name: &str) -> Vec<SocketAddr> {
    let lookup = tokio::time::timeout(LOOKUP, tokio::net::lookup_host(name));
    let found: Vec<SocketAddr> = match lookup.await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "a server's name is not resolved");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let first = |v6: bool| found.iter().copied().find(|address| address.is_ipv6() == v6);
    [first(false), first(true)].into_iter().flatten().map(nat_traversal::canonical).collect()
}

const MAX_STUN: usize = 8;
const MAX_RELAYS: usize = 8;
const LOOKUP: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use controller_api::node;

    fn controller() -> RelayServers {
        let relay = |transport: &str| node::RelayServer {
            address: "192.0.2.1:3478".into(),
            transport: transport.into(),
            username: "u".into(),
            password: "p".into(),
            ..node::RelayServer::default()
        };
        RelayServers {
            stun: vec!["192.0.2.9:3478".into(), "192.0.2.1:3478".into()],
            relays: vec![relay("udp"), relay("tcp"), relay("carrier-pigeon")],
        }
    }

    #[test]
    fn the_configuration_comes_first_and_each_server_once() {
        let nat = Nat { stun: vec!["stun.example:3478".into()], ..Nat::default() };
        let servers = Servers::new(&nat, &controller());
        assert_eq!(servers.stun, ["stun.example:3478", "192.0.2.9:3478", "192.0.2.1:3478"]);
        let transports: Vec<_> = servers.relays.iter().map(|relay| relay.transport).collect();
        assert_eq!(
            transports,
            [RelayTransport::Udp, RelayTransport::Tcp],
            "an unknown transport is left out"
        );
        let alone = Nat { controller_servers: false, ..nat };
        assert_eq!(Servers::new(&alone, &controller()).stun, ["stun.example:3478"]);
    }

    #[test]
    fn passwords_are_not_printed() {
        let servers = Servers::new(&Nat::default(), &controller());
        assert!(!format!("{servers:?}").contains("\"p\""));
    }
}
