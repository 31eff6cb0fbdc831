//! The configuration: `agent.toml`, every key with a default that serves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::cgroup::Hierarchies;
use crate::container::ContainerDriver;
use crate::driver::Driver;
use crate::image::Images;
use crate::qemu::{Accelerator, QemuDriver};
use crate::spec::DriverKind;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/node-agent/agent.toml";

/// The configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where instances live.
    pub state_dir: PathBuf,
    /// Where images lie.
    pub image_dir: PathBuf,
    /// Where `switchd join` left `node.json`.
    pub node_state_dir: PathBuf,
    /// The node's private key, which `switchd` has too.
    pub private_key: PathBuf,
    /// The drivers to offer.
    pub drivers: Vec<DriverKind>,
    /// What makes guests' CPUs.
    pub accelerator: Accelerator,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The control group under which instances get theirs; default: `node-agent`, with a number for a state directory
    /// that is not the usual one.
    pub cgroup_parent: Option<String>,
    /// Bytes of each instance's log.
    pub log_bytes: u64,
    /// Paths that a container on the host's root does not see, besides the usual ones.
    pub hidden: Vec<PathBuf>,
    /// What the node says it has, where it is not to be found out.
    pub capacity: CapacityConfig,
}

/// What the node offers; found out where it is not said.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacityConfig {
    /// Whole cores.
    pub cores: Option<u32>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes on the disk of the state directory.
    pub disk_bytes: Option<u64>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state_dir: DEFAULT_STATE.into(),
            image_dir: "/var/lib/node-agent/images".into(),
            node_state_dir: "/var/lib/switchd".into(),
            private_key: "/etc/switchd/private.key".into(),
            drivers: vec![DriverKind::Container, DriverKind::Qemu],
            accelerator: Accelerator::Auto,
            qemu: "qemu-system-x86_64".into(),
            cgroup_parent: None,
            log_bytes: 1 << 20,
            hidden: Vec::new(),
            capacity: CapacityConfig::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not there, or not to be read.
    #[error("cannot read {path}; without the option --config and without the file, the defaults serve")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, or an unknown key.
    #[error("{path} is wrong: {detail}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where and what.
        detail: String,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// Reads the file; the default one need not be there.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
                String::new()
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let wrong = |detail: String| ConfigError::Wrong { path: path.to_owned(), detail };
        let config: Config = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let paths = [
            ("state_dir", &self.state_dir),
            ("image_dir", &self.image_dir),
            ("node_state_dir", &self.node_state_dir),
            ("private_key", &self.private_key),
        ];
        let relative = paths.into_iter().find(|(_, path)| !path.is_absolute());
        if let Some((name, path)) = relative {
            return Err(ConfigError::Value(format!(
                "{name} = \"{}\" is relative: give the whole path, from /",
                path.display()
            )));
        }
        let parent = self.cgroup_parent();
        if parent.is_empty() || parent.starts_with('/') || parent.split('/').any(|part| part == "..") {
            return Err(ConfigError::Value(format!(
                "cgroup_parent = \"{parent}\" is no group's name, such as \"node-agent\""
            )));
        }
        if self.log_bytes < 4096 {
            return Err(ConfigError::Value("log_bytes is too small: 4096 at least".to_owned()));
        }
        if self.drivers.is_empty() {
            return Err(ConfigError::Value("drivers is empty: name container, qemu, or both".to_owned()));
        }
        Ok(())
    }

    /// The control group under which instances get theirs.
    pub fn cgroup_parent(&self) -> String {
        if let Some(parent) = &self.cgroup_parent {
            return parent.clone();
        }
        if self.state_dir == Path::new(DEFAULT_STATE) {
            return "node-agent".to_owned();
        }
        // Two agents on one machine must not meet in one group: a number of the directory, by FNV-1a.
        let bytes = self.state_dir.as_os_str().as_encoded_bytes();
        let hash = bytes
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        format!("node-agent-{hash:08x}")
    }

    /// The drivers that are configured. `shim` is the program of which `<program> shim` is the shim.
    pub fn make_drivers(&self, shim: &Path) -> io::Result<BTreeMap<DriverKind, Arc<dyn Driver>>> {
        let hierarchies = Hierarchies::detect(&self.cgroup_parent())?;
        let images = Images { dir: self.image_dir.clone(), unpacked: self.state_dir.join("unpacked") };
        let make = |kind: &DriverKind| {
            let driver: Arc<dyn Driver> = match kind {
                DriverKind::Container => Arc::new(ContainerDriver {
                    images: images.clone(),
                    hierarchies: hierarchies.clone(),
                    shim: shim.to_owned(),
                    hidden: self.hidden(),
                    log_bytes: self.log_bytes,
                }),
                DriverKind::Qemu => Arc::new(QemuDriver {
                    images: images.clone(),
                    hierarchies: hierarchies.clone(),
                    shim: shim.to_owned(),
                    program: self.qemu.clone(),
                    accelerator: self.accelerator,
                    log_bytes: self.log_bytes,
                }),
            };
            (*kind, driver)
        };
        Ok(self.drivers.iter().map(make).collect())
    }

    /// Keys, passwords, and what is other instances'.
    fn hidden(&self) -> Vec<PathBuf> {
        let mut hidden: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).collect();
        hidden.extend([&self.state_dir, &self.node_state_dir, &self.private_key].map(Clone::clone));
        hidden.extend(self.hidden.iter().cloned());
        hidden
    }
}

const DEFAULT_STATE: &str = "/var/lib/node-agent";
const HIDDEN: [&str; 10] = [
    "/etc/switchd",
    "/etc/node-agent",
    "/etc/controller",
    "/var/lib/switchd",
    "/var/lib/controller",
    "/var/lib/node-agent",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/ssh",
    "/etc/ssl/private",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_are_told_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let cases = [
            ("state_dri = \"/x\"", "state_dri"),
            ("state_dir = \"x\"", "is relative"),
            ("accelerator = \"xen\"", "xen"),
            ("drivers = []", "drivers is empty"),
            ("cgroup_parent = \"../x\"", "no group's name"),
            ("log_bytes = 1", "too small"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let error = Config::load(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(&path, "accelerator = \"tcg\"\ndrivers = [\"qemu\"]\n[capacity]\ncores = 4\n")
            .unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!((config.accelerator, config.capacity.cores), (Accelerator::Tcg, Some(4)));
        assert!(Config::load(&dir.path().join("none")).is_err());
    }

    #[test]
    fn agents_of_one_machine_have_groups_of_their_own() {
        let other = Config { state_dir: "/tmp/a".into(), ..Config::default() };
        assert_eq!(Config::default().cgroup_parent(), "node-agent");
        assert_ne!(
            other.cgroup_parent(),
            Config { state_dir: "/tmp/b".into(), ..Config::default() }.cgroup_parent()
        );
    }
}
