//! The schema: every key with its default and range.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use nix::sys::utsname::uname;
use switch_core::frame::Tags;
use switch_core::ids::{Generation, Mac, Vni};
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::network::{
    AGES, BROADCAST_BURST, BROADCAST_RATE, IP_AGE, MAC_AGE, MAX_IPS, MAX_MACS, MTU, MTUS, RATES, TABLE_LIMITS,
};
use super::toml_table::{At, Source, Table};
use super::value::{parse_duration, show_duration};
use super::{
    Admin, AntiSpoof, Carriage, Config, Controller, Dhcp, LinkConfig, Metrics, Mode, Network, Node, Peer,
    StaticBinding,
};
use crate::key::PublicKey;

/// Reads a whole configuration, or says everything that is wrong with it.
pub(super) fn config(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let source = Source::new(text, origin);
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        source.problem(error.span().unwrap_or(0..0), error.message());
    }
    if !syntax.is_empty() {
        // What the recovery made of a broken file would give follow-up errors only.
        return Err(ConfigError::Invalid(source.into_problems()));
    }
    let mut root = Table::root(&source, &root);
    let mut unique = Unique { source: &source, seen: HashMap::new() };
    let node = node(root.table("node"));
    let admin = admin(root.table("admin"));
    let metrics = metrics(root.table("metrics"));
    let link = link(root.table("link"));
    let nat = super::nat::nat(root.table("nat"));
    let controller = controller(root.table("controller"));
    let peers: Vec<Peer> = root
        .tables("peer", "[[peer]]")
        .into_iter()
        .filter_map(|table| peer(table, &node.name, &mut unique))
        .collect();
    let networks = root
        .tables("network", "[[network]]")
        .into_iter()
        .filter_map(|table| network(table, &node.name, &peers, &mut unique))
        .collect();
    root.finish();
    let problems = source.into_problems();
    if problems.is_empty() {
        Ok(Config { node, admin, metrics, link, nat, controller, networks, peers })
    } else {
        Err(ConfigError::Invalid(problems))
    }
}

fn node(mut table: Table<'_, '_>) -> Node {
    let name = table.parsed("name", node_name);
    let private_key = table.parsed("private_key", absolute_path);
    let listen = table.as_type("listen", "use an address and a port, such as \"[::]:4840\" (IPv4 and IPv6)");
    table.finish();
    Node {
        named: name.is_some(),
        name: name.map_or_else(host_name, |name| name.value),
        private_key: private_key.map_or_else(|| "/etc/switchd/private.key".into(), |at| at.value.into()),
        listen: listen.map_or_else(|| SocketAddr::new(IpAddr::from([0u16; 8]), DEFAULT_PORT), |at| at.value),
    }
}

fn admin(mut table: Table<'_, '_>) -> Admin {
    let socket = table.parsed("socket", |text| match text.len() {
        // sun_path of struct sockaddr_un has 108 bytes with its NUL; the socket is first bound as `<path>.new`.
        101.. => Err(format!("{} bytes are too long for a socket's path: use at most 100", text.len())),
        _ => absolute_path(text),
    });
    let group = table.parsed("group", |text| {
        let ok = !text.is_empty() && !text.contains([':', '/', ' ', '\0']);
        if ok { Ok(text.to_owned()) } else { Err(format!("{text:?} is not the name of a group")) }
    });
    table.finish();
    Admin {
        socket: socket.map_or_else(|| crate::config::DEFAULT_SOCKET.into(), |at| at.value.into()),
        group: group.map_or_else(|| "switchd".to_owned(), |at| at.value),
    }
}

fn metrics(mut table: Table<'_, '_>) -> Metrics {
    let listen = table.parsed("listen", |text| match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            format!(
                "{text:?} is not allowed: use an address and a port, such as \"127.0.0.1:9484\", or \"off\""
            )
        }),
    });
    table.finish();
    Metrics { listen: listen.map_or(Some(SocketAddr::from(([127, 0, 0, 1], 9484))), |at| at.value) }
}

fn link(mut table: Table<'_, '_>) -> LinkConfig {
    let keepalive = table.duration("keepalive", Duration::from_millis(100)..=Duration::from_secs(60));
    let dead_after = table.duration("dead_after", Duration::from_millis(201)..=Duration::from_secs(300));
    let rekey_after = table.duration("rekey_after", Duration::from_secs(1)..=Duration::from_secs(86_400));
    let rekey_datagrams = table.number("rekey_datagrams", 1_000..=1 << 31);
    let underlay_mtu = table.number("underlay_mtu", 1280..=9216);
    let on_demand = table.flag("on_demand").unwrap_or(false);
    let idle_after = table.parsed("idle_after", |text| match (text, parse_duration(text)) {
        ("never", _) => Ok(None),
        (_, Some(age)) if IDLE_AGES.contains(&age) => Ok(Some(age)),
        _ => Err(format!("{text:?} is not allowed: use 5s to 24h, such as \"10m\", or \"never\"")),
    });
    let carriage = table.parsed("carriage", carriage);
    let span = dead_after.as_ref().or(keepalive.as_ref()).map_or_else(|| table.span(), |at| at.span.clone());
    let keepalive = keepalive.map_or(Duration::from_secs(3), |at| at.value);
    let dead_after = dead_after.map_or(Duration::from_secs(10), |at| at.value);
    if dead_after <= 2 * keepalive {
        let (dead, keep) = (show_duration(dead_after), show_duration(keepalive));
        let least = show_duration(2 * keepalive);
        table.wrong(
            "dead_after",
            span,
            format!(
                "{dead} with keepalive {keep}: one lost keepalive would cut the link; use more than {least}"
            ),
        );
    }
    table.finish();
    LinkConfig {
        keepalive,
        dead_after,
        rekey_after: rekey_after.map_or(Duration::from_secs(3600), |at| at.value),
        rekey_datagrams: rekey_datagrams.map_or(1 << 28, |at| at.value),
        underlay_mtu: narrow(underlay_mtu, 1500),
        on_demand,
        idle_after: idle_after.and_then(|at| at.value),
        carriage: carriage.map_or(Carriage::Sealed, |at| at.value),
    }
}

fn controller(mut table: Table<'_, '_>) -> Controller {
    let enabled = table.flag("enabled").unwrap_or(true);
    let state_dir = table.parsed("state_dir", absolute_path);
    let addresses = table.list("addresses", |item| match item.as_str() {
        Some(text) => host_and_port(text),
        None => Err("expected texts in quotes".to_owned()),
    });
    table.finish();
    Controller {
        enabled,
        state_dir: state_dir.map_or_else(|| super::DEFAULT_STATE_DIR.into(), |at| at.value.into()),
        addresses: addresses.into_iter().flatten().map(|at| at.value).collect(),
    }
}

fn peer(mut table: Table<'_, '_>, own_name: &str, unique: &mut Unique<'_>) -> Option<Peer> {
    let name = table.parsed("name", node_name);
    let public_key = table.parsed("public_key", str::parse::<PublicKey>);
    let address = table.parsed("address", peer_address);
    let addresses = table.list("addresses", |item| match item.as_str() {
        Some(text) => peer_address(text),
        None => Err("expected addresses with their port in quotes".to_owned()),
    });
    table.missing("name", "name = \"node-b\"");
    table.missing("public_key", "what `switchd pubkey` prints on that node");
    if let Some(name) = &name {
        if name.value == own_name {
            table.wrong(
                "name",
                name.span.clone(),
                format!("{own_name:?} is this node's own name (node.name)"),
            );
        }
        unique.check("peer.name", name);
    }
    if let Some(key) = &public_key {
        unique.check("peer.public_key", key);
    }
    table.finish();
    Some(Peer {
        // A peer with a bad key still counts for the checks of network.peers.
        name: name?.value,
        public_key: public_key.map_or(PublicKey([0; 32]), |at| at.value),
        addresses: address.into_iter().chain(addresses.into_iter().flatten()).map(|at| at.value).collect(),
    })
}

fn network(
    mut table: Table<'_, '_>,
    own_name: &str,
    peers: &[Peer],
    unique: &mut Unique<'_>,
) -> Option<Network> {
    let name = table.parsed("name", node_name);
    let vni = table.number("vni", 1..=u64::from(Vni::MAX.get()));
    let bridge = table.parsed("bridge", interface_name);
    let create_bridge = table.flag("create_bridge").unwrap_or(false);
    let endpoint = table.parsed("endpoint", interface_name);
    let mode = table.parsed("mode", |text| match text {
        "rewrite" => Ok(Mode::Rewrite),
        "preserve" => Ok(Mode::Preserve),
        _ => Err(format!("{text:?} is not allowed: use \"rewrite\" or \"preserve\"")),
    });
    let endpoint_mac = table.parsed("endpoint_mac", unicast_mac);
    let mtu = table.number("mtu", MTUS);
    let offloads = table.flag("offloads").unwrap_or(true);
    let dhcp = table.parsed("dhcp", dhcp);
    let anti_spoof = table.parsed("anti_spoof", |text| match text {
        "learn" => Ok(AntiSpoof::Learn),
        "strict" => Ok(AntiSpoof::Strict),
        _ => Err(format!("{text:?} is not allowed: use \"learn\" or \"strict\"")),
    });
    let mss_clamp = table.flag("mss_clamp").unwrap_or(true);
    let carriage = table.parsed("carriage", carriage);
    let broadcast_rate = table.number("broadcast_rate", RATES);
    let broadcast_burst = table.number("broadcast_burst", RATES);
    let max_macs = table.number("max_macs", TABLE_LIMITS);
    let max_ips = table.number("max_ips", TABLE_LIMITS);
    let mac_age = table.duration("mac_age", AGES);
    let ip_age = table.duration("ip_age", AGES);
    let gateways = table.list("gateways", |item| instance_ip(item.as_str()));
    let member_peers = table.list("peers", |item| match item.as_str() {
        Some(text) if peers.iter().any(|peer| peer.name == text) => Ok(text.to_owned()),
        Some(text) if text == own_name => Err(format!("{text:?} is this node itself: list other nodes only")),
        Some(text) => Err(format!("{text:?} is not a [[peer]]: {}", known_names(peers))),
        None => Err("expected names of peers in quotes".to_owned()),
    });
    let member_peers: Option<Vec<String>> =
        member_peers.map(|names| names.into_iter().map(|at| at.value).collect());
    let mut seen = HashMap::new();
    let bindings = table
        .tables("binding", "[[network.binding]]")
        .into_iter()
        .filter_map(|row| binding(row, own_name, peers, member_peers.as_deref(), &mut seen))
        .collect();
    table.missing("name", "name = \"blue\"");
    table.missing("vni", "vni = 100 (the same on every node)");
    table.missing("bridge", "bridge = \"br-blue\"");
    let span = table.span();
    if let Some(name) = &name {
        unique.check("network.name", name);
    }
    if let Some(bridge) = &bridge {
        unique.check("interface", bridge);
    }
    let vni = vni.and_then(|vni| {
        unique.check("network.vni", &vni);
        u32::try_from(vni.value).ok().and_then(|value| Vni::new(value).ok())
    });
    let endpoint = match (endpoint, vni) {
        (None, Some(vni)) => Some(At { value: super::network::endpoint_name(vni), span }),
        (endpoint, _) => endpoint,
    };
    if let Some(endpoint) = &endpoint {
        unique.check("interface", endpoint);
    }
    table.finish();
    let vni = vni?;
    Some(Network {
        name: name?.value,
        vni,
        bridge: bridge?.value,
        create_bridge,
        endpoint: endpoint?.value,
        mode: mode.map_or(Mode::Rewrite, |at| at.value),
        endpoint_mac: endpoint_mac.map_or_else(|| super::network::endpoint_mac(vni), |at| at.value),
        mtu: narrow(mtu, MTU),
        offloads,
        dhcp: dhcp.map_or(Dhcp::Forward, |at| at.value),
        anti_spoof: anti_spoof.map_or(AntiSpoof::Learn, |at| at.value),
        mss_clamp,
        carriage: carriage.map(|at| at.value),
        broadcast_rate: narrow(broadcast_rate, BROADCAST_RATE),
        broadcast_burst: narrow(broadcast_burst, BROADCAST_BURST),
        max_macs: narrow(max_macs, MAX_MACS),
        max_ips: narrow(max_ips, MAX_IPS),
        mac_age: mac_age.map_or(MAC_AGE, |at| at.value),
        ip_age: ip_age.map_or(IP_AGE, |at| at.value),
        gateways: gateways.into_iter().flatten().map(|at| at.value).collect(),
        peers: member_peers,
        bindings,
        host: None,
    })
}

/// What the bindings of one network have claimed: text of a MAC or an IP, with its VLANs.
type Claims = HashMap<(String, Tags), ()>;

fn binding(
    mut table: Table<'_, '_>,
    own_name: &str,
    peers: &[Peer],
    members: Option<&[String]>,
    claims: &mut Claims,
) -> Option<StaticBinding> {
    let mac = table.parsed("mac", unicast_mac);
    let ips = table.list("ips", |item| instance_ip(item.as_str()));
    let node = table.parsed("node", |text| {
        if text == own_name {
            return Ok(text.to_owned());
        }
        if !peers.iter().any(|peer| peer.name == text) {
            return Err(format!(
                "{text:?} is neither this node ({own_name:?}) nor a [[peer]]: {}",
                known_names(peers)
            ));
        }
        if members.is_some_and(|members| !members.iter().any(|name| name == text)) {
            return Err(format!("{text:?} is not in network.peers: add it there"));
        }
        Ok(text.to_owned())
    });
    let vlans = table.list("vlans", |item| match item {
        DeValue::Integer(vid) => match u16::from_str_radix(vid.as_str(), vid.radix()) {
            Ok(vid @ 1..=4094) => Ok(vid),
            _ => Err(format!("{} is not a VLAN id: use 1 to 4094", vid.as_str())),
        },
        _ => Err("expected numbers, 1 to 4094".to_owned()),
    });
    let generation = table.number("generation", 0..=i64::MAX as u64);
    table.missing("mac", "mac = \"02:00:00:00:00:01\"");
    table.missing("node", "the name of the node where the instance lives");
    let vids: Vec<u16> = vlans.iter().flatten().map(|at| at.value).collect();
    let tags = Tags::from_vids(&vids);
    if tags.is_none() {
        table.wrong(
            "vlans",
            table.span(),
            format!("{} tags are too many: use at most 2, outermost first", vids.len()),
        );
    }
    let tags = tags.unwrap_or(Tags::NONE);
    let mut claim = |text: String, key: &str, span: &Range<usize>| {
        if claims.insert((text.clone(), tags), ()).is_some() {
            table.wrong(key, span.clone(), format!("{text} has a binding in this network already"));
        }
    };
    if let Some(mac) = &mac {
        claim(mac.value.to_string(), "mac", &mac.span);
    }
    for ip in ips.iter().flatten() {
        claim(ip.value.to_string(), "ips", &ip.span);
    }
    table.finish();
    Some(StaticBinding {
        mac: mac?.value,
        ips: ips.into_iter().flatten().map(|at| at.value).collect(),
        node: node?.value,
        vlans: tags,
        generation: Generation(generation.map_or(1, |at| at.value)),
    })
}

/// Refuses values that must differ between tables.
struct Unique<'s> {
    source: &'s Source<'s>,
    seen: HashMap<(&'static str, String), ()>,
}

impl Unique<'_> {
    fn check<T: Display + Hash>(&mut self, what: &'static str, at: &At<T>) {
        if self.seen.insert((what, at.value.to_string()), ()).is_some() {
            let message = match what {
                "interface" => format!(
                    "interface {:?} is used twice: bridges and endpoints need a name each",
                    at.value.to_string()
                ),
                _ => format!("{what}: {} is used twice", at.value),
            };
            self.source.problem(at.span.clone(), message);
        }
    }
}

fn peer_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address)
            if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 =>
        {
            Err(format!("{text:?} cannot be dialled"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "{text:?} is not an address and a port: write it like \"192.0.2.2:4840\" or \"[2001:db8::2]:4840\""
        )),
    }
}

/// An address or a name, and a port.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let named = || {
        let (host, port) = text.rsplit_once(':')?;
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        (!host.is_empty() && host.chars().all(ok)).then_some(port.parse::<u16>().ok()?)
    };
    let port = text.parse::<SocketAddr>().ok().map(|address| address.port()).or_else(named);
    match port {
        Some(1..) => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} is not a host and a port: write it like \"192.0.2.1:7443\" or \"controller.example:7443\""
        )),
    }
}

fn instance_ip(text: Option<&str>) -> Result<IpAddr, String> {
    match text.map(str::parse::<IpAddr>) {
        Some(Ok(ip)) if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() => {
            Err(format!("{ip} cannot be an instance's address"))
        }
        Some(Ok(ip)) => Ok(ip),
        _ => Err("expected IPv4 and IPv6 addresses in quotes, without a prefix length".to_owned()),
    }
}

pub(crate) fn dhcp(text: &str) -> Result<Dhcp, String> {
    match text {
        "forward" => Ok(Dhcp::Forward),
        "local-only" => Ok(Dhcp::LocalOnly),
        _ => match text.strip_prefix("trusted:") {
            Some(mac) => unicast_mac(mac).map(Dhcp::Trusted),
            None => {
                Err(format!("{text:?} is not allowed: use \"forward\", \"local-only\" or \"trusted:<mac>\""))
            }
        },
    }
}

fn carriage(text: &str) -> Result<Carriage, String> {
    match text {
        "sealed" => Ok(Carriage::Sealed),
        "quic" => Ok(Carriage::Quic),
        _ => Err(format!("{text:?} is not allowed: use \"sealed\" or \"quic\"")),
    }
}

fn unicast_mac(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|error| format!("{text:?} is {error}"))?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(format!("{mac} is not a unicast address: its first byte must be even, such as 02"))
    }
}

pub(super) fn node_name(text: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&text.len()) && text.chars().all(ok) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a name: use 1 to 63 letters, digits, '-', '_' and '.'"))
    }
}

/// What the kernel's `dev_valid_name` takes (net/core/dev.c).
pub(super) fn interface_name(text: &str) -> Result<String, String> {
    if text.len() > 15 {
        return Err(format!("{text:?} has {} bytes: an interface's name has at most 15", text.len()));
    }
    if text.is_empty()
        || matches!(text, "." | "..")
        || text.contains(|c: char| c == '/' || c == ':' || c == '%' || !c.is_ascii_graphic())
    {
        return Err(format!("{text:?} is not an interface's name: use letters, digits, '-', '_' and '.'"));
    }
    Ok(text.to_owned())
}

fn absolute_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not an absolute path: begin with /"))
    }
}

fn known_names(peers: &[Peer]) -> String {
    let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
    if names.is_empty() { "there is none".to_owned() } else { format!("the peers are {}", names.join(", ")) }
}

fn host_name() -> String {
    uname()
        .ok()
        .and_then(|uts| uts.nodename().to_str().map(str::to_owned))
        .unwrap_or_else(|| "localhost".to_owned())
}

fn narrow<T: TryFrom<u64>>(number: Option<At<u64>>, default: T) -> T {
    number.and_then(|at| T::try_from(at.value).ok()).unwrap_or(default)
}

const IDLE_AGES: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(86_400);
const DEFAULT_PORT: u16 = 4840;
