//! `[nat]`: what helps this node to reach its peers, beside what its controller names.

use std::fmt;

use super::read::host_and_port;
use super::toml_table::Table;

/// `[nat]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nat {
    /// Look for ways to the controller's nodes by ICE. Without, they are dialled at the addresses that they announce.
    pub traversal: bool,
    /// STUN servers, `host:port`, beside the controller's.
    pub stun: Vec<String>,
    /// Relays (TURN servers), before the controller's.
    pub relays: Vec<Relay>,
    /// Use the controller's STUN servers and relays.
    pub controller_servers: bool,
    /// Ask the router for a mapping of the UDP port.
    pub port_mapping: bool,
}

impl Default for Nat {
    fn default() -> Nat {
        Nat {
            traversal: true,
            stun: Vec::new(),
            relays: Vec::new(),
            controller_servers: true,
            port_mapping: true,
        }
    }
}

/// `[[nat.relays]]`: a TURN server with credentials of this node's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relay {
    /// `host:port`.
    pub address: String,
    /// How it is reached.
    pub transport: RelayTransport,
    /// The name of the credentials.
    pub username: String,
    /// Their secret.
    pub password: Secret,
}

/// How a relay is reached; what it relays is UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayTransport {
    /// From the node's one socket.
    Udp,
    /// For networks that block UDP.
    Tcp,
    /// For networks that let only TLS pass.
    Tls,
}

impl RelayTransport {
    /// The transport of this name.
    pub fn from_name(name: &str) -> Option<RelayTransport> {
        match name {
            "udp" => Some(RelayTransport::Udp),
            "tcp" => Some(RelayTransport::Tcp),
            "tls" => Some(RelayTransport::Tls),
            _ => None,
        }
    }

    /// The name for people and files.
    pub fn name(self) -> &'static str {
        match self {
            RelayTransport::Udp => "udp",
            RelayTransport::Tcp => "tcp",
            RelayTransport::Tls => "tls",
        }
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub(super) fn nat(mut table: Table<'_, '_>) -> Nat {
    let servers = table.list("stun", |item| match item.as_str() {
        Some(text) => host_and_port(text),
        None => Err("expected hosts with their port in quotes".to_owned()),
    });
    let relays = table.tables("relays", "[[nat.relays]]").into_iter().filter_map(relay).collect();
    let nat = Nat {
        traversal: table.flag("traversal").unwrap_or(true),
        stun: servers.into_iter().flatten().map(|at| at.value).collect(),
        relays,
        controller_servers: table.flag("controller_servers").unwrap_or(true),
        port_mapping: table.flag("port_mapping").unwrap_or(true),
    };
    table.finish();
    nat
}

fn relay(mut table: Table<'_, '_>) -> Option<Relay> {
    let address = table.parsed("address", host_and_port);
    let transport = table.parsed("transport", |text| {
        RelayTransport::from_name(text)
            .ok_or_else(|| format!("{text:?} is not allowed: use \"udp\", \"tcp\" or \"tls\""))
    });
    let username = table.text("username");
    let password = table.text("password");
    table.missing("address", "address = \"relay.example:3478\"");
    table.missing("username", "the name of this node's credentials there");
    table.missing("password", "their secret");
    table.finish();
    Some(Relay {
        address: address?.value,
        transport: transport.map_or(RelayTransport::Udp, |at| at.value),
        username: username?.value.to_owned(),
        password: Secret(password?.value.to_owned()),
    })
}
