//! `/etc/switchd/switchd.toml`: parsed into types that cannot hold a bad value, with every mistake reported at
//! once. `packaging/switchd.toml.example` documents each key.

mod error;
mod nat;
mod network;
mod read;
mod reload;
mod toml_table;
mod value;

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use switch_core::frame::Tags;
use switch_core::ids::{Generation, Mac, Vni};

pub use self::error::{ConfigError, Problem};
pub use self::nat::{Nat, Relay, RelayTransport, Secret};
pub(crate) use self::read::dhcp;
pub use self::reload::{Reload, diff};
pub use self::value::show_duration;
use crate::key::PublicKey;

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/switchd/switchd.toml";

/// Where the admin socket is unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/switchd/switchd.sock";

/// Where a node keeps what it has from its controller unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/switchd";

/// The file of the state directory that makes the node one of a controller's; `switchd join` writes it.
pub const NODE_FILE: &str = "node.json";

/// The whole configuration, defaults filled in and checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[admin]`
    pub admin: Admin,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[link]`
    pub link: LinkConfig,
    /// `[nat]`
    pub nat: Nat,
    /// `[controller]`
    pub controller: Controller,
    /// `[[network]]`, in the file's order. No two share a name, VNI, bridge or endpoint.
    pub networks: Vec<Network>,
    /// `[[peer]]`, in the file's order. No two share a name or public key.
    pub peers: Vec<Peer>,
}

impl Config {
    /// Reads and parses a file. A node that has joined a controller needs none: without one at the default place it
    /// runs with the defaults.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::load_as(path, Path::new(DEFAULT_PATH), &Path::new(DEFAULT_STATE_DIR).join(NODE_FILE))
    }

    fn load_as(path: &Path, default: &Path, node_file: &Path) -> Result<Config, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound && path == default && node_file.exists() => {
                String::new()
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Config::parse(&text, &path.display().to_string())
    }

    /// Parses the text of a configuration; `origin` is the file's name in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
        read::config(text, origin)
    }

    /// The controller calls this node so; the file's word counts more.
    pub fn set_given_name(&mut self, name: &str) {
        if !self.node.named {
            name.clone_into(&mut self.node.name);
        }
    }

    /// What frames of this network, one of the file's or a controller's, ride in.
    pub fn carriage_of(&self, network: &Network) -> Carriage {
        network.carriage.unwrap_or(self.link.carriage)
    }

    /// Whether frames of any network may ride in QUIC datagrams. A controller's networks are as `[link]` says.
    pub fn uses_quic_carriage(&self) -> bool {
        self.link.carriage == Carriage::Quic
            || self.networks.iter().any(|network| network.carriage == Some(Carriage::Quic))
    }

    /// Names of the peers that carry `network`.
    pub fn peers_of<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = &'a Peer> {
        self.peers.iter().filter(|peer| network.peers.as_ref().is_none_or(|names| names.contains(&peer.name)))
    }
}

/// `[node]`: this node.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// How peers and bindings call this node.
    pub name: String,
    /// The file gives the name; else it is the host's, until a controller gave one.
    pub named: bool,
    /// File of the private key.
    pub private_key: PathBuf,
    /// The one UDP socket; `[::]` is both IPv4 and IPv6.
    pub listen: SocketAddr,
}

/// `[admin]`: the socket that `switchctl` speaks to.
#[derive(Clone, PartialEq, Debug)]
pub struct Admin {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that may use it.
    pub group: String,
}

/// `[metrics]`: the HTTP server for Prometheus and health checks.
#[derive(Clone, PartialEq, Debug)]
pub struct Metrics {
    /// Its address; none if off.
    pub listen: Option<SocketAddr>,
}

/// `[link]`: timers and limits of all links.
#[derive(Clone, PartialEq, Debug)]
pub struct LinkConfig {
    /// Between probes of a path while nothing flows.
    pub keepalive: Duration,
    /// Without an answer by any path for this long a peer counts as dead; more than twice `keepalive`.
    pub dead_after: Duration,
    /// Age at which keys are replaced.
    pub rekey_after: Duration,
    /// Datagrams sealed with a key after which it is replaced.
    pub rekey_datagrams: u64,
    /// Largest IP packet to try on the underlay, bytes.
    pub underlay_mtu: u16,
    /// Make a link only when a frame or a binding needs it.
    pub on_demand: bool,
    /// Let go of a link that carried no frame for so long, if it was made on demand; none for never.
    pub idle_after: Option<Duration>,
    /// How frames of networks that do not say so themselves are carried.
    pub carriage: Carriage,
}

/// `[controller]`: the session with the controller, of a node that has joined one.
#[derive(Clone, PartialEq, Debug)]
pub struct Controller {
    /// Keep up the session. A node that has not joined has none either way.
    pub enabled: bool,
    /// Directory of what the node has from its controller: who it is there, and the last state.
    pub state_dir: PathBuf,
    /// Where the controller is, in place of what the join token said; hosts and ports.
    pub addresses: Vec<String>,
}

/// `[[network]]`: one layer-2 segment.
#[derive(Clone, PartialEq, Debug)]
pub struct Network {
    /// Its name on this node.
    pub name: String,
    /// Its identifier on the wire.
    pub vni: Vni,
    /// The Linux bridge.
    pub bridge: String,
    /// Create the bridge if it is missing.
    pub create_bridge: bool,
    /// Name of the TAP.
    pub endpoint: String,
    /// What guests see.
    pub mode: Mode,
    /// The MAC that guests see for remote addresses in `rewrite` mode.
    pub endpoint_mac: Mac,
    /// The guests' MTU, bytes.
    pub mtu: u16,
    /// Ask the kernel for super-frames.
    pub offloads: bool,
    /// Who may answer DHCP.
    pub dhcp: Dhcp,
    /// What a local frame from a MAC bound elsewhere means.
    pub anti_spoof: AntiSpoof,
    /// Clamp the MSS of TCP handshakes to what fits the path.
    pub mss_clamp: bool,
    /// What its frames ride in on their way to a peer; those from peers are taken either way. None: as `[link]` says.
    pub carriage: Option<Carriage>,
    /// Broadcast, multicast and unknown unicast that may cross, frames per second.
    pub broadcast_rate: u32,
    /// The same in one burst, frames.
    pub broadcast_burst: u32,
    /// Most entries of the MAC table.
    pub max_macs: usize,
    /// Most entries of the IP table.
    pub max_ips: usize,
    /// Silence after which a MAC is forgotten.
    pub mac_age: Duration,
    /// Silence after which a learned IP is forgotten.
    pub ip_age: Duration,
    /// IPs of its routers.
    pub gateways: Vec<IpAddr>,
    /// Names of the peers that carry it; none means every peer.
    pub peers: Option<Vec<String>>,
    /// Static bindings.
    pub bindings: Vec<StaticBinding>,
    /// The node itself is a station of it: only a controller says so.
    pub host: Option<HostStation>,
}

/// What the node itself is in a network: its bridge has these, and no others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostStation {
    /// The addresses, with their prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The MAC.
    pub mac: Mac,
}

impl HostStation {
    /// The IPv6 link-local address that belongs to the MAC (RFC 4291, appendix A).
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

/// `[[network.binding]]`: who lives where, as if a controller had said so.
#[derive(Clone, PartialEq, Debug)]
pub struct StaticBinding {
    /// The instance's MAC.
    pub mac: Mac,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its node: this one's name, or a peer's.
    pub node: String,
    /// Its VLAN tags.
    pub vlans: Tags,
    /// Orders the places it has had.
    pub generation: Generation,
}

/// `[[peer]]`: another node.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The key that it must prove.
    pub public_key: PublicKey,
    /// Where to dial it, best first; without, it must dial us.
    pub addresses: Vec<SocketAddr>,
}

/// What guests see of remote instances.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Every remote IP has the endpoint's MAC.
    Rewrite,
    /// Real MACs.
    Preserve,
}

/// Who may answer DHCP across nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dhcp {
    /// DHCP crosses like any other frame.
    Forward,
    /// No DHCP crosses.
    LocalOnly,
    /// Only the server with this MAC is heard.
    Trusted(Mac),
}

/// What frames ride in on their way to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Carriage {
    /// Sealed datagrams, beside QUIC.
    #[default]
    Sealed,
    /// QUIC datagrams (RFC 9221) on the link's connection.
    Quic,
}

/// What a local frame from a MAC that is bound elsewhere means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AntiSpoof {
    /// The instance moved.
    Learn,
    /// It is a spoof: dropped.
    Strict,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Rewrite => "rewrite",
            Mode::Preserve => "preserve",
        })
    }
}

impl fmt::Display for Dhcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dhcp::Forward => f.write_str("forward"),
            Dhcp::LocalOnly => f.write_str("local-only"),
            Dhcp::Trusted(mac) => write!(f, "trusted:{mac}"),
        }
    }
}

impl fmt::Display for Carriage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Carriage::Sealed => "sealed",
            Carriage::Quic => "quic",
        })
    }
}

impl fmt::Display for AntiSpoof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AntiSpoof::Learn => "learn",
            AntiSpoof::Strict => "strict",
        })
    }
}

#[cfg(test)]
mod tests;
