//! What an instance shall be, checked: the wire's `InstanceSpec` parsed once, and kept in files as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use controller_api::node as wire;
use serde::{Deserialize, Serialize};

/// An instance's id: 1 to 64 of `a-z A-Z 0-9 - _ .`, not beginning with a dot, so that it is safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// Checks and takes an id.
    pub fn parse(text: &str) -> Result<InstanceId, SpecError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(good) {
            return Err(SpecError::Id(text.chars().take(80).collect()));
        }
        Ok(InstanceId(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = SpecError;

    fn try_from(text: String) -> Result<InstanceId, SpecError> {
        InstanceId::parse(&text)
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.0
    }
}

/// How an instance is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// Linux namespaces.
    Container,
    /// A QEMU guest.
    Qemu,
}

impl DriverKind {
    /// The word that configuration and protocol use.
    pub fn as_str(self) -> &'static str {
        match self {
            DriverKind::Container => "container",
            DriverKind::Qemu => "qemu",
        }
    }
}

/// Whether an instance shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// It shall run.
    Running,
    /// It shall be there and not run.
    Stopped,
    /// It shall not be there, nor its volume.
    Absent,
}

/// One instance as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its id.
    pub id: InstanceId,
    /// What people call it; its hostname, as far as it is one.
    pub name: String,
    /// Rises with each move.
    pub generation: u64,
    /// Whether it shall run.
    pub desired: Desired,
    /// How it is run.
    pub driver: DriverKind,
    /// CPU time that it may take, in thousandths of a core; 0 for no limit.
    pub cores_milli: u32,
    /// Memory that it may take; 0 for no limit.
    pub memory_bytes: u64,
    /// The size of a guest's disk; 0 for the image's own.
    pub disk_bytes: u64,
    /// Its image, by the name in the image directory; none for a container on the host's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What a container runs, or a guest's kernel arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// A container's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Its network interfaces, `eth0` first.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// The transfer that its volume goes to once it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_to: Option<String>,
    /// The transfer that its volume comes from before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_from: Option<String>,
}

impl Spec {
    /// Whether an instance made by `self` may go on running by `other`: they differ in nothing that is fixed when an
    /// instance starts.
    pub fn runs_like(&self, other: &Spec) -> bool {
        let running = |spec: &Spec| Spec {
            name: String::new(),
            generation: 0,
            desired: Desired::Running,
            upload_to: None,
            download_from: None,
            ..spec.clone()
        };
        running(self) == running(other)
    }

    /// The name as a hostname: the id, where the name has none of its letters.
    pub fn hostname(&self) -> String {
        let word: String = self
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(63)
            .collect();
        let word = word.trim_matches('-');
        if word.is_empty() { self.id.to_string() } else { word.to_owned() }
    }

    /// Whole virtual CPUs: the cores, rounded up.
    pub fn vcpus(&self) -> u32 {
        self.cores_milli.div_ceil(1000).max(1)
    }
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The network's VNI.
    pub vni: u32,
    /// The bridge whose port it is.
    pub bridge: String,
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<Prefix>,
    /// Its MTU, bytes of layer 3.
    pub mtu: u32,
    /// Where everything else goes.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
}

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub length: u8,
}

impl TryFrom<String> for Prefix {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Prefix, SpecError> {
        let parse = || {
            let (ip, length) = text.split_once('/')?;
            let (ip, length): (IpAddr, u8) = (ip.parse().ok()?, length.parse().ok()?);
            (length <= if ip.is_ipv4() { 32 } else { 128 }).then_some(Prefix { ip, length })
        };
        parse().ok_or_else(|| SpecError::Address(text.clone()))
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        format!("{}/{}", prefix.ip, prefix.length)
    }
}

/// Why a spec cannot be carried out, whoever sent it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Not an id.
    #[error("'{0}' is no instance id: 1 to 64 letters, digits, '-', '_' or '.', not beginning with a dot")]
    Id(String),
    /// An unknown driver.
    #[error("unknown driver '{0}': the agent has container and qemu")]
    Driver(String),
    /// No word on whether it shall run.
    #[error("the spec does not say whether the instance shall run, stop or be absent")]
    Desired,
    /// Not a name in the image directory.
    #[error("'{0}' is no image name: a name in the image directory, without '/'")]
    Image(String),
    /// Not an address.
    #[error("'{0}' is no address with a prefix length, such as 10.0.0.2/24")]
    Address(String),
    /// Not a gateway's address.
    #[error("'{0}' is no gateway's address")]
    Gateway(String),
    /// Not a MAC.
    #[error("interface {0} has no unicast MAC of 6 bytes")]
    Mac(usize),
    /// Not a device name.
    #[error("'{0}' is no name of a bridge: 1 to 15 characters without '/' or blanks")]
    Bridge(String),
    /// Not an MTU.
    #[error("MTU {0} is out of range: 576 to 65535")]
    Mtu(u32),
    /// A NUL or `=` where none may stand.
    #[error("the command or the environment has a character that cannot stand there ('{0}')")]
    Word(String),
    /// Too much of something.
    #[error("too many {0}")]
    Many(&'static str),
}

impl TryFrom<wire::InstanceSpec> for Spec {
    type Error = SpecError;

    fn try_from(spec: wire::InstanceSpec) -> Result<Spec, SpecError> {
        use wire::instance_spec::Desired as Wire;
        let desired = match spec.desired() {
            Wire::Running => Desired::Running,
            Wire::Stopped => Desired::Stopped,
            Wire::Absent => Desired::Absent,
            Wire::Unspecified => return Err(SpecError::Desired),
        };
        let driver = match spec.driver.as_str() {
            "container" => DriverKind::Container,
            "qemu" => DriverKind::Qemu,
            _ => return Err(SpecError::Driver(spec.driver)),
        };
        for word in &spec.command {
            if word.contains('\0') {
                return Err(SpecError::Word(word.escape_default().to_string()));
            }
        }
        for (key, value) in &spec.environment {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(SpecError::Word(key.escape_default().to_string()));
            }
        }
        if spec.nics.len() > MAX_NICS {
            return Err(SpecError::Many("network interfaces"));
        }
        let nics = spec.nics.into_iter().enumerate().map(|(index, nic)| Nic::parse(index, nic));
        Ok(Spec {
            id: InstanceId::parse(&spec.id)?,
            name: spec.name,
            generation: spec.generation,
            desired,
            driver,
            cores_milli: spec.cores_milli,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
            image: optional(spec.image).map(image_name).transpose()?,
            command: spec.command,
            environment: spec.environment.into_iter().collect(),
            nics: nics.collect::<Result<_, _>>()?,
            upload_to: optional(spec.upload_to),
            download_from: optional(spec.download_from),
        })
    }
}

impl Nic {
    fn parse(index: usize, nic: wire::Nic) -> Result<Nic, SpecError> {
        let mac: [u8; 6] = nic.mac.as_slice().try_into().map_err(|_| SpecError::Mac(index))?;
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(SpecError::Mac(index));
        }
        let good = |c: char| c.is_ascii_graphic() && c != '/';
        if nic.bridge.is_empty() || nic.bridge.len() > 15 || !nic.bridge.chars().all(good) {
            return Err(SpecError::Bridge(nic.bridge));
        }
        let mtu = if nic.mtu == 0 { 1500 } else { nic.mtu };
        if !(576..=65535).contains(&mtu) {
            return Err(SpecError::Mtu(mtu));
        }
        let gateways = [nic.gateway_v4, nic.gateway_v6].into_iter().filter_map(optional);
        Ok(Nic {
            vni: nic.vni,
            bridge: nic.bridge,
            mac,
            addresses: nic.addresses.into_iter().map(Prefix::try_from).collect::<Result<_, _>>()?,
            mtu,
            gateways: gateways
                .map(|text| text.parse().map_err(|_| SpecError::Gateway(text)))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn image_name(name: String) -> Result<String, SpecError> {
    if name.contains(['/', '\0']) || name.starts_with('.') || name.len() > 200 {
        return Err(SpecError::Image(name));
    }
    Ok(name)
}

fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

const MAX_NICS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> wire::InstanceSpec {
        wire::InstanceSpec {
            id: "inst-1".into(),
            name: "Web Server".into(),
            generation: 3,
            desired: wire::instance_spec::Desired::Running.into(),
            driver: "container".into(),
            nics: vec![wire::Nic {
                vni: 100,
                bridge: "br-100".into(),
                mac: vec![2, 0x73, 0x69, 0, 0, 1],
                addresses: vec!["10.0.0.2/24".into(), "fd00::2/64".into()],
                gateway_v4: "10.0.0.1".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_good_spec_is_taken_and_survives_its_file() {
        let spec = Spec::try_from(good()).unwrap();
        assert_eq!((spec.hostname().as_str(), spec.nics[0].mtu), ("web-server", 1500));
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
    }

    #[test]
    fn bad_specs_are_refused_by_name() {
        type Change = fn(&mut wire::InstanceSpec);
        let cases: [(Change, &str); 10] = [
            (|s| s.id = "../etc".into(), "no instance id"),
            (|s| s.id = String::new(), "no instance id"),
            (|s| s.driver = "lxc".into(), "unknown driver"),
            (|s| s.desired = 0, "does not say"),
            (|s| s.image = "../shadow".into(), "no image name"),
            (|s| s.nics[0].mac = vec![1, 0, 0, 0, 0, 1], "no unicast MAC"),
            (|s| s.nics[0].bridge = "a/b".into(), "no name of a bridge"),
            (|s| s.nics[0].addresses[0] = "10.0.0.2/33".into(), "no address"),
            (|s| s.nics[0].mtu = 100, "out of range"),
            (|s| s.command = vec!["a\0b".into()], "cannot stand there"),
        ];
        for (change, expected) in cases {
            let mut spec = good();
            change(&mut spec);
            let error = Spec::try_from(spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_what_is_fixed_at_the_start_needs_one() {
        let spec = Spec::try_from(good()).unwrap();
        let moved = Spec { generation: 9, desired: Desired::Stopped, ..spec.clone() };
        assert!(spec.runs_like(&moved));
        assert!(!spec.runs_like(&Spec { memory_bytes: 1, ..spec.clone() }));
    }
}
