//! The table `[relay]`: the embedded STUN and TURN server, and other ones.

use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::check_advertise;

/// The UDP and TCP port of STUN and TURN (RFC 8656).
pub const RELAY_PORT: u16 = 3478;

/// What nodes are told of relays, and how the embedded one is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayConfig {
    /// Whether there is an embedded server.
    pub enabled: bool,
    /// Its UDP and TCP port.
    pub listen: SocketAddr,
    /// What nodes know it by, as host or host:port; empty: the hosts that nodes dial, with its own port.
    pub address: Vec<String>,
    /// The ports of relayed addresses.
    pub ports: RangeInclusive<u16>,
    /// Whether it relays to private addresses; `None`: if all that it is known by are private themselves.
    pub allow_private: Option<bool>,
    /// How long credentials last.
    pub credentials: Duration,
    /// Allocations of all nodes at a time.
    pub allocations: usize,
    /// Allocations of one node at a time.
    pub allocations_per_node: usize,
    /// Datagrams each way in a second, of one node.
    pub packets_per_second: u32,
    /// TCP and TLS connections at a time.
    pub connections: usize,
    /// Other servers, beside the embedded one or in its place.
    pub external: Vec<ExternalRelay>,
}

impl Default for RelayConfig {
    fn default() -> RelayConfig {
        RelayConfig {
            enabled: true,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, RELAY_PORT)),
            address: Vec::new(),
            ports: 49152..=65535,
            allow_private: None,
            credentials: Duration::from_secs(12 * 3600),
            allocations: 4096,
            allocations_per_node: 32,
            packets_per_second: 200_000,
            connections: 1024,
            external: Vec::new(),
        }
    }
}

/// A server that is not the controller's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalRelay {
    /// host:port.
    pub address: String,
    /// How it is reached.
    pub transports: Vec<Transport>,
    /// The file of the secret that it shares; without one it serves STUN alone.
    pub secret_file: Option<PathBuf>,
    /// SHA-256 of the certificate that it shows over TLS; none: the nodes' own authorities vouch for it.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// How a node reaches a TURN server. What that relays is UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection, where UDP is blocked.
    Tcp,
    /// A connection over TLS.
    Tls,
}

impl Transport {
    /// As nodes are told.
    pub fn word(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RelayTable {
    enabled: Option<bool>,
    listen: Option<SocketAddr>,
    address: Vec<String>,
    min_port: Option<u16>,
    max_port: Option<u16>,
    allow_private: Option<bool>,
    credential_hours: Option<u32>,
    allocations: Option<usize>,
    allocations_per_node: Option<usize>,
    packets_per_second: Option<u32>,
    connections: Option<usize>,
    external: Vec<ExternalTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExternalTable {
    address: String,
    transports: Option<Vec<Transport>>,
    secret_file: Option<PathBuf>,
    certificate_sha256: Option<String>,
}

impl RelayTable {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for address in &self.address {
            if let Err(problem) = check_advertise(address) {
                problems.push(format!("relay.address: {problem}"));
            }
        }
        let ports = self.ports();
        if ports.is_empty() || *ports.start() == 0 {
            problems.push("relay.min_port is at least 1 and at most relay.max_port".to_owned());
        }
        let hours = self.credential_hours;
        if hours.is_some_and(|hours| !(1..=24 * 30).contains(&hours)) {
            problems.push("relay.credential_hours is from 1 to 720".to_owned());
        }
        let least = [self.allocations, self.allocations_per_node, self.connections];
        if least.contains(&Some(0)) || self.packets_per_second == Some(0) {
            problems.push(
                "relay: each limit is at least 1; to have no embedded relay, set enabled = false".to_owned(),
            );
        }
        for external in &self.external {
            problems.extend(
                external.problem().map(|problem| format!("relay.external {:?}: {problem}", external.address)),
            );
        }
        problems
    }

    pub(super) fn into_config(self) -> RelayConfig {
        let default = RelayConfig::default();
        let ports = self.ports();
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
        RelayConfig {
            enabled: self.enabled.unwrap_or(default.enabled),
            listen: self.listen.unwrap_or(default.listen),
            address: self.address,
            ports,
            allow_private: self.allow_private,
            credentials: self.credential_hours.map_or(default.credentials, hours),
            allocations: self.allocations.unwrap_or(default.allocations),
            allocations_per_node: self.allocations_per_node.unwrap_or(default.allocations_per_node),
            packets_per_second: self.packets_per_second.unwrap_or(default.packets_per_second),
            connections: self.connections.unwrap_or(default.connections),
            external: self.external.into_iter().map(ExternalTable::into_config).collect(),
        }
    }

    fn ports(&self) -> RangeInclusive<u16> {
        let default = RelayConfig::default().ports;
        self.min_port.unwrap_or(*default.start())..=self.max_port.unwrap_or(*default.end())
    }
}

impl ExternalTable {
    fn problem(&self) -> Option<&'static str> {
        if with_port(&self.address, RELAY_PORT).is_err() {
            return Some("address is host or host:port");
        }
        if self.transports.as_ref().is_some_and(Vec::is_empty) {
            return Some("transports has at least one of udp, tcp and tls");
        }
        if self.certificate_sha256.as_deref().is_some_and(|text| fingerprint(text).is_none()) {
            return Some("certificate_sha256 is 64 hexadecimal digits, with or without colons");
        }
        None
    }

    fn into_config(self) -> ExternalRelay {
        let port = if self.transports.as_deref() == Some(&[Transport::Tls]) { TLS_PORT } else { RELAY_PORT };
        ExternalRelay {
            // It was checked.
            address: with_port(&self.address, port).unwrap_or(self.address),
            transports: self.transports.unwrap_or_else(|| vec![Transport::Udp, Transport::Tcp]),
            secret_file: self.secret_file,
            certificate_sha256: self.certificate_sha256.as_deref().and_then(fingerprint),
        }
    }
}

/// host:port of a host with or without one, an IPv6 address in brackets.
pub fn with_port(text: &str, default: u16) -> Result<String, String> {
    let (host, port) = check_advertise(text)?;
    let bare = text.parse::<std::net::Ipv6Addr>().is_ok() || text.ends_with(']') || !text.contains(':');
    let port = if bare { default } else { port };
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The bytes of a SHA-256 in hexadecimal, with or without colons.
pub fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// TURN over TLS (RFC 8656). The embedded server has TLS on the same port as the rest.
const TLS_PORT: u16 = 5349;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_relays_port_unless_it_names_one() {
        for (text, wanted) in [
            ("192.0.2.1", "192.0.2.1:3478"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("2001:db8::1", "[2001:db8::1]:3478"),
            ("[2001:db8::1]", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("turn.example", "turn.example:3478"),
            ("turn.example:4842", "turn.example:4842"),
        ] {
            assert_eq!(with_port(text, RELAY_PORT).as_deref(), Ok(wanted));
        }
        assert!(with_port("a b", RELAY_PORT).is_err());
    }

    #[test]
    fn a_fingerprint_is_32_bytes() {
        let hex = "ab".repeat(32);
        assert_eq!(fingerprint(&hex), Some([0xab; 32]));
        assert_eq!(fingerprint(&["AB"; 32].join(":")), Some([0xab; 32]));
        assert!(fingerprint("ab").is_none() && fingerprint(&"zz".repeat(32)).is_none());
    }
}
