//! The controller's configuration: `/etc/controller/controller.toml`. Everything in it has a default.

mod relay;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use controller_registry::{Settings, Subnet, Vni};
use serde::Deserialize;

use crate::provider::ProviderConfig;
pub use relay::{ExternalRelay, RELAY_PORT, RelayConfig, Transport, fingerprint, with_port};

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/controller/controller.toml";
/// Where the state is, unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/controller";
/// The TCP port for nodes.
pub const NODE_PORT: u16 = 4842;
/// The TCP port of the REST API.
pub const REST_PORT: u16 = 4843;

/// A checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The directory of the store and the keys.
    pub state_dir: PathBuf,
    /// What nodes dial, as host or host:port; empty: what `controller init` was told.
    pub advertise: Vec<String>,
    /// Where nodes' sessions are served.
    pub nodes_listen: SocketAddr,
    /// Where the REST API is served.
    pub rest_listen: SocketAddr,
    /// Another certificate than the one that `controller init` made: PEM files of the chain and of the private key.
    pub rest_certificate: Option<(PathBuf, PathBuf)>,
    /// Where metrics are served, without authentication; `None` for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The group that may use it.
    pub admin_group: String,
    /// The providers beside `manual`.
    pub providers: Vec<ProviderConfig>,
    /// The embedded relay, and other ones.
    pub relay: RelayConfig,
    /// What is too much.
    pub limits: Limits,
    /// The network of the nodes themselves that the controller makes and keeps; `None` for none.
    pub mgmt: Option<Mgmt>,
}

/// A network of the nodes themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mgmt {
    /// Its name.
    pub name: String,
    /// Its id.
    pub vni: Vni,
    /// Where the nodes' IPv4 addresses come from.
    pub subnet_v4: Option<Subnet>,
    /// Where the nodes' IPv6 addresses come from.
    pub subnet_v6: Option<Subnet>,
}

/// Bounds against mistakes and abuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Enrolments that one address may try in a minute. Default 30.
    pub enrolments_per_minute: u32,
    /// TCP connections of nodes at a time. Default 10000.
    pub connections: usize,
    /// Signals that one node may send in a second, over time: eight times that at once, so that a node that starts
    /// may tell all others of itself. Default 500.
    pub signals_per_second: u32,
    /// Seconds between heartbeats; three silent ones end a session. Default 5.
    pub heartbeat_seconds: u32,
    /// Learned bindings that one node may have. Default 4096.
    pub learned_bindings_per_node: usize,
    /// Seconds that an agent may be away before operations stop waiting for it. Default 30.
    pub agent_grace_seconds: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            enrolments_per_minute: 30,
            connections: 10_000,
            signals_per_second: 500,
            heartbeat_seconds: 5,
            learned_bindings_per_node: 4096,
            agent_grace_seconds: 30,
        }
    }
}

impl Limits {
    /// The time between heartbeats.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds.into())
    }
}

impl Default for Config {
    fn default() -> Config {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Config {
            state_dir: DEFAULT_STATE_DIR.into(),
            advertise: Vec::new(),
            nodes_listen: any(NODE_PORT),
            rest_listen: any(REST_PORT),
            rest_certificate: None,
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 9842))),
            admin_socket: "/run/controller/controller.sock".into(),
            admin_group: "controller".to_owned(),
            providers: Vec::new(),
            relay: RelayConfig::default(),
            limits: Limits::default(),
            mgmt: None,
        }
    }
}

impl Config {
    /// Reads and checks a file. The default one may be missing: then everything is as by default.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
                Ok(Config::default())
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Checks the text of a configuration; `path` is for the errors.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let file: ConfigFile = toml::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), detail: error.to_string() })?;
        let problems = file.problems();
        if !problems.is_empty() {
            let problems = problems.join("\n");
            return Err(ConfigError::Invalid { path: path.to_owned(), problems });
        }
        Ok(file.into_config())
    }

    /// What of it the registry goes by.
    pub fn settings(&self) -> Settings {
        Settings {
            learned_per_node: self.limits.learned_bindings_per_node,
            agent_grace_ms: u64::from(self.limits.agent_grace_seconds) * 1000,
            kept_network: self.mgmt.as_ref().map(|mgmt| mgmt.vni),
        }
    }

    /// The store's file.
    pub fn store_path(&self) -> PathBuf {
        self.state_dir.join("controller.redb")
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("could not read the configuration {path} (another file: --config FILE)", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key or a wrong type.
    #[error("{path}: {detail}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        detail: String,
    },
    /// Well-formed and wrong: one problem a line.
    #[error("{path}: {problems}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    state_dir: Option<PathBuf>,
    advertise: Vec<String>,
    nodes: ListenTable,
    rest: RestTable,
    metrics: MetricsTable,
    admin: AdminTable,
    provider: Vec<ProviderTable>,
    relay: relay::RelayTable,
    limits: Limits,
    mgmt: MgmtTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MgmtTable {
    enabled: bool,
    name: String,
    vni: u32,
    subnets: Vec<String>,
}

impl Default for MgmtTable {
    fn default() -> MgmtTable {
        MgmtTable {
            enabled: false,
            name: MGMT_NAME.to_owned(),
            vni: MGMT_VNI,
            subnets: MGMT_SUBNETS.map(str::to_owned).to_vec(),
        }
    }
}

impl MgmtTable {
    fn read(&self) -> Result<Mgmt, String> {
        let vni = Vni(self.vni);
        if vni.0 == 0 || vni > Vni::MAX {
            return Err(format!("mgmt.vni: {vni} is not a VNI; use 1 to 16777215"));
        }
        let mut mgmt = Mgmt { name: self.name.clone(), vni, subnet_v4: None, subnet_v6: None };
        for text in &self.subnets {
            let subnet: Subnet = text.parse().map_err(|error| format!("mgmt.subnets: {error}"))?;
            let family = if subnet.base().is_ipv4() { &mut mgmt.subnet_v4 } else { &mut mgmt.subnet_v6 };
            if family.replace(subnet).is_some() {
                return Err(format!("mgmt.subnets: {subnet} is the second of its family; name one of each"));
            }
        }
        if self.subnets.is_empty() {
            return Err("mgmt.subnets: there is none; name one of either family, or of both".to_owned());
        }
        Ok(mgmt)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ListenTable {
    listen: Option<SocketAddr>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RestTable {
    listen: Option<SocketAddr>,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MetricsTable {
    listen: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AdminTable {
    socket: Option<PathBuf>,
    group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderTable {
    name: String,
    kind: String,
    #[serde(default)]
    command: Vec<String>,
    timeout_seconds: Option<u64>,
}

impl ConfigFile {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for address in &self.advertise {
            if let Err(problem) = check_advertise(address) {
                problems.push(format!("advertise: {problem}"));
            }
        }
        if self.rest.certificate.is_some() != self.rest.private_key.is_some() {
            problems.push("rest.certificate and rest.private_key: name both files or neither".to_owned());
        }
        if let Some(listen) = self.metrics.listen.as_deref().filter(|listen| *listen != OFF)
            && listen.parse::<SocketAddr>().is_err()
        {
            problems
                .push(format!("metrics.listen: {listen:?} is neither an address with a port nor \"off\""));
        }
        for (i, provider) in self.provider.iter().enumerate() {
            let name = &provider.name;
            let at = format!("provider {name:?}");
            if name.is_empty()
                || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                problems.push(format!("{at}: a name has lower-case letters, digits and dashes"));
            }
            if name == "manual" {
                problems.push(format!("{at}: this one is always there; choose another name"));
            }
            if self.provider[..i].iter().any(|other| other.name == *name) {
                problems.push(format!("{at} is there twice: rename one"));
            }
            if provider.kind != "exec" {
                problems.push(format!("{at}: kind is {:?}, the only one is \"exec\"", provider.kind));
            }
            match provider.command.first() {
                Some(program) if program.starts_with('/') => {}
                _ => problems.push(format!("{at}: command begins with the absolute path of a program")),
            }
            if provider.timeout_seconds == Some(0) {
                problems.push(format!("{at}: timeout_seconds is at least 1"));
            }
        }
        problems.extend(self.relay.problems());
        let limits = &self.limits;
        let least = [
            limits.enrolments_per_minute,
            limits.signals_per_second,
            limits.heartbeat_seconds,
            limits.agent_grace_seconds,
        ];
        if least.contains(&0) || limits.connections == 0 || limits.learned_bindings_per_node == 0 {
            problems.push("limits: each is at least 1".to_owned());
        }
        problems.extend(self.mgmt.read().err());
        problems
    }

    fn into_config(self) -> Config {
        let default = Config::default();
        let metrics_listen = match self.metrics.listen.as_deref() {
            None => default.metrics_listen,
            Some(listen) => listen.parse().ok(),
        };
        let provider = |table: ProviderTable| ProviderConfig {
            name: table.name,
            command: table.command,
            timeout: Duration::from_secs(table.timeout_seconds.unwrap_or(PROVIDER_TIMEOUT_SECONDS)),
        };
        let mgmt = self.mgmt.enabled.then(|| self.mgmt.read().ok()).flatten();
        Config {
            state_dir: self.state_dir.unwrap_or(default.state_dir),
            advertise: self.advertise,
            nodes_listen: self.nodes.listen.unwrap_or(default.nodes_listen),
            rest_listen: self.rest.listen.unwrap_or(default.rest_listen),
            rest_certificate: self.rest.certificate.zip(self.rest.private_key),
            metrics_listen,
            admin_socket: self.admin.socket.unwrap_or(default.admin_socket),
            admin_group: self.admin.group.unwrap_or(default.admin_group),
            providers: self.provider.into_iter().map(provider).collect(),
            relay: self.relay.into_config(),
            limits: self.limits,
            mgmt,
        }
    }
}

/// Splits an advertised address into its host and port; the port is the nodes' by default.
pub fn check_advertise(text: &str) -> Result<(String, u16), String> {
    let wrong = || {
        format!(
            "{text:?} is no host or address, with or without a port: use 192.0.2.1, [2001:db8::1]:4842 or controller.example"
        )
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>() {
        return Ok((ip.to_string(), NODE_PORT));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        None => (text, NODE_PORT),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

/// An advertised address as nodes dial it: host:port, an IPv6 address in brackets.
pub fn dialled(text: &str) -> Result<String, String> {
    let (host, port) = check_advertise(text)?;
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

const MGMT_NAME: &str = "mgmt";
/// Where nobody numbers by hand, and above those that are chosen one after the other.
const MGMT_VNI: u32 = 16_777_200;
/// A part of RFC 6598's shared space, and a unique local prefix.
const MGMT_SUBNETS: [&str; 2] = ["100.80.0.0/16", "fd73:6b69:7070::/64"];
const OFF: &str = "off";
const PROVIDER_TIMEOUT_SECONDS: u64 = 600;
