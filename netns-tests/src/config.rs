//! Writes `switchd.toml`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::lab::{KEY_FILE, PORT, SOCKET_FILE};

/// A daemon's configuration, for [`SwitchdConfig::to_toml`]. Values in `extra` lists are TOML text.
#[derive(Clone, Debug)]
pub struct SwitchdConfig {
    /// Name of the node.
    pub node: String,
    /// Folder with key and socket.
    pub dir: PathBuf,
    /// `node.listen`.
    pub listen: String,
    /// Keys of `[link]`.
    pub link: Vec<(String, String)>,
    /// The networks.
    pub networks: Vec<NetworkConfig>,
    /// The peers.
    pub peers: Vec<PeerConfig>,
}

/// One `[[network]]`.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name; the bridge is `br-<name>`, the endpoint `sw-<name>`.
    pub name: String,
    /// The VNI.
    pub vni: u32,
    /// Whether the daemon makes the bridge.
    pub create_bridge: bool,
    /// Further keys.
    pub extra: Vec<(String, String)>,
    /// Static bindings.
    pub bindings: Vec<BindingConfig>,
}

/// One `[[network.binding]]`.
#[derive(Clone, Debug)]
pub struct BindingConfig {
    /// MAC of the instance.
    pub mac: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Its node.
    pub node: String,
}

/// One `[[peer]]`.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Name of the node.
    pub name: String,
    /// Its public key.
    pub public_key: String,
    /// Where it listens; without it the peer must dial.
    pub address: Option<String>,
}

impl SwitchdConfig {
    /// A node with its files in `dir`, no network and no peer. Keepalive and dead-peer time are short, so that tests
    /// of failures are.
    pub fn new(node: &str, dir: &Path) -> SwitchdConfig {
        let config = SwitchdConfig {
            node: node.to_owned(),
            dir: dir.to_owned(),
            listen: format!("[::]:{PORT}"),
            link: Vec::new(),
            networks: Vec::new(),
            peers: Vec::new(),
        };
        config.with_link("keepalive", "\"200ms\"").with_link("dead_after", "\"1s\"")
    }

    /// Sets a key of `[link]` to TOML text.
    pub fn with_link(mut self, key: &str, value: &str) -> SwitchdConfig {
        self.set_link(key, value);
        self
    }

    /// Sets a key of `[link]` to TOML text.
    pub fn set_link(&mut self, key: &str, value: &str) {
        set(&mut self.link, key, value);
    }

    /// Sets a key of every `[[network]]` to TOML text.
    pub fn set_network(&mut self, key: &str, value: &str) {
        for network in &mut self.networks {
            set(&mut network.extra, key, value);
        }
    }

    /// Adds a network.
    pub fn network(&mut self, name: &str, vni: u32) -> &mut NetworkConfig {
        self.networks.push(NetworkConfig {
            name: name.to_owned(),
            vni,
            create_bridge: false,
            extra: Vec::new(),
            bindings: Vec::new(),
        });
        let last = self.networks.len() - 1;
        &mut self.networks[last]
    }

    /// Adds a peer.
    pub fn peer(&mut self, name: &str, public_key: &str, address: &str) {
        self.peers.push(PeerConfig {
            name: name.to_owned(),
            public_key: public_key.to_owned(),
            address: Some(address.to_owned()),
        });
    }

    /// The text of the file.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let key = self.dir.join(KEY_FILE);
        let socket = self.dir.join(SOCKET_FILE);
        let mut line = |args: std::fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("writing to a String cannot fail");
        };
        line(format_args!("[node]\nname = {:?}", self.node));
        line(format_args!("private_key = {:?}\nlisten = {:?}", key.display().to_string(), self.listen));
        line(format_args!("\n[admin]\nsocket = {:?}", socket.display().to_string()));
        line(format_args!("\n[link]"));
        for (key, value) in &self.link {
            line(format_args!("{key} = {value}"));
        }
        for network in &self.networks {
            let NetworkConfig { name, vni, create_bridge, extra, bindings } = network;
            line(format_args!("\n[[network]]\nname = {name:?}\nvni = {vni}\nbridge = \"br-{name}\""));
            line(format_args!("endpoint = \"sw-{name}\"\ncreate_bridge = {create_bridge}"));
            for (key, value) in extra {
                line(format_args!("{key} = {value}"));
            }
            for BindingConfig { mac, ips, node } in bindings {
                line(format_args!("\n[[network.binding]]\nmac = {mac:?}\nips = {ips:?}\nnode = {node:?}"));
            }
        }
        for PeerConfig { name, public_key, address } in &self.peers {
            line(format_args!("\n[[peer]]\nname = {name:?}\npublic_key = {public_key:?}"));
            if let Some(address) = address {
                line(format_args!("address = {address:?}"));
            }
        }
        text
    }
}

fn set(list: &mut Vec<(String, String)>, key: &str, value: &str) {
    list.retain(|(k, _)| k != key);
    list.push((key.to_owned(), value.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_tables_in_order() {
        let mut config = SwitchdConfig::new("node-a", Path::new("d"));
        config.network("blue", 100).bindings.push(BindingConfig {
            mac: "02:00:00:00:00:01".into(),
            ips: vec!["10.0.0.1".into()],
            node: "node-b".into(),
        });
        config.peer("node-b", "key", "192.0.2.2:4840");
        config.set_network("mode", "\"preserve\"");
        config.set_link("keepalive", "\"1s\"");
        assert_eq!(
            config.to_toml(),
            "[node]\nname = \"node-a\"\nprivate_key = \"d/private.key\"\nlisten = \"[::]:4840\"\n\n\
             [admin]\nsocket = \"d/switchd.sock\"\n\n\
             [link]\ndead_after = \"1s\"\nkeepalive = \"1s\"\n\n\
             [[network]]\nname = \"blue\"\nvni = 100\nbridge = \"br-blue\"\nendpoint = \"sw-blue\"\n\
             create_bridge = false\nmode = \"preserve\"\n\n\
             [[network.binding]]\nmac = \"02:00:00:00:00:01\"\nips = [\"10.0.0.1\"]\nnode = \"node-b\"\n\n\
             [[peer]]\nname = \"node-b\"\npublic_key = \"key\"\naddress = \"192.0.2.2:4840\"\n"
        );
    }
}
