//! Where the namespaces attach, and what runs in them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) underlay_namespace: String,
    pub(crate) underlay_bridge: String,
    pub(crate) addresses: String,
    pub(crate) first_address: u32,
    pub(crate) prefix: String,
    pub(crate) binaries: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Makes the machine the node; the join token comes on its stdin.
    pub(crate) join: Vec<String>,
    /// What runs for as long as the machine is there.
    pub(crate) run: Vec<Vec<String>>,
    /// Files in the machine's directory: name and content.
    pub(crate) files: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Config {
        let command = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
        Config {
            underlay_namespace: String::new(),
            underlay_bridge: "br-underlay".to_owned(),
            addresses: "10.99.0.0/24".to_owned(),
            first_address: 10,
            prefix: "node-".to_owned(),
            binaries: "/usr/bin".into(),
            state_dir: "/var/lib/controller/provider-netns".into(),
            join: command(&[
                "{binaries}/switchd",
                "join",
                "--no-start",
                "--config",
                "{dir}/switchd.toml",
                "-",
            ]),
            run: vec![
                command(&["{binaries}/switchd", "run", "--config", "{dir}/switchd.toml"]),
                command(&["{binaries}/node-agent", "run", "--config", "{dir}/agent.toml"]),
            ],
            files: BTreeMap::from([
                ("switchd.toml".to_owned(), SWITCHD.to_owned()),
                ("agent.toml".to_owned(), AGENT.to_owned()),
            ]),
        }
    }
}

impl Config {
    pub(crate) fn load(path: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("reading the configuration {} (another file: --config FILE)", path.display())
        })?;
        let config: Config = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        config.subnet()?;
        Ok(config)
    }

    /// The nodes' addresses: the first one's number and how many there are, and the prefix's length.
    pub(crate) fn subnet(&self) -> anyhow::Result<(u32, u32, u8)> {
        let wrong = || {
            format!(
                "addresses: {:?} is no IPv4 range with room for nodes, such as 10.99.0.0/24",
                self.addresses
            )
        };
        let (base, length) = self.addresses.split_once('/').with_context(wrong)?;
        let base: Ipv4Addr = base.parse().with_context(wrong)?;
        let length: u8 =
            length.parse().ok().filter(|length| (8..=30).contains(length)).with_context(wrong)?;
        let size = 1_u32 << (32 - length);
        let base = base.to_bits() & !(size - 1);
        // Neither the range's own address nor its broadcast address.
        let count = (size - 1)
            .checked_sub(self.first_address.max(1))
            .filter(|count| *count > 0)
            .with_context(wrong)?;
        Ok((base + self.first_address.max(1), count, length))
    }
}

const SWITCHD: &str = "\
[node]
name = \"{name}\"
private_key = \"{dir}/switchd/private.key\"
listen = \"0.0.0.0:4789\"

[controller]
state_dir = \"{dir}/switchd\"

[admin]
socket = \"{dir}/switchd.sock\"
";

const AGENT: &str = "\
state_dir = \"{dir}/agent\"
node_state_dir = \"{dir}/switchd\"
private_key = \"{dir}/switchd/private.key\"
";
