//! Instance types.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// What runs an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Linux namespaces and control groups.
    #[default]
    Container,
    /// A virtual machine.
    Qemu,
}

impl Driver {
    /// As in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an instance may take, and how it runs unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceType {
    /// Never reused.
    #[schema(example = "type-2")]
    pub id: String,
    /// Unique among types.
    #[schema(example = "small")]
    pub name: String,
    /// Cores, to the thousandth.
    #[schema(example = 0.5)]
    pub cores: f64,
    /// Memory in MiB.
    #[schema(example = 256)]
    pub memory_mib: u64,
    /// Disk in GiB; 0 for none of its own.
    #[schema(example = 1)]
    pub disk_gib: u64,
    /// What runs it.
    pub driver: Driver,
    /// A root file system or a disk image, by its name in the nodes' image directory; empty for a container with
    /// its host's root, read-only.
    #[schema(example = "")]
    pub image: String,
    /// For people.
    #[schema(example = "half a core for small services")]
    pub description: String,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Adds a type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddType {
    /// Unique among types: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        example = "small"
    )]
    pub name: String,
    /// Cores, to the thousandth.
    #[schema(minimum = 0.001, maximum = 1024, example = 0.5)]
    pub cores: f64,
    /// Memory in MiB, at least 4.
    #[schema(minimum = 4, maximum = 16_777_216, example = 256)]
    pub memory_mib: u64,
    /// Disk in GiB; absent or 0 for none of its own.
    #[serde(default)]
    #[schema(maximum = 1_048_576, default = 0, example = 1)]
    pub disk_gib: u64,
    /// What runs it; absent for `container`.
    #[serde(default)]
    #[schema(inline, default = "container")]
    pub driver: Driver,
    /// A root file system or a disk image, by its name in the nodes' image directory; absent for a container with
    /// its host's root, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255, example = "debian.qcow2")]
    pub image: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000, example = "half a core for small services")]
    pub description: Option<String>,
}
