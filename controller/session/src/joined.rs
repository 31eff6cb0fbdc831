//! `node.json`: which node of which cluster this is. Written by `switchd join`; read by every daemon of the node.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::key::PublicKey;

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// What the controller calls the node; never another's.
    pub node_id: String,
    /// What people call it.
    pub node_name: String,
    /// The cluster's name.
    pub cluster: String,
    /// Who it joined.
    pub controller: Controller,
    /// When, in seconds since 1970.
    pub joined_at: u64,
    /// Why it is no longer a node of the cluster, if the controller has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<String>,
}

/// A controller, as its nodes know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Controller {
    /// `host:port`, tried in this order.
    pub addresses: Vec<String>,
    /// The key that it must prove.
    pub public_key: PublicKey,
}

impl Joined {
    /// Where the file is, in a state directory.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("node.json")
    }

    /// Reads the file; `None` if the node has not joined.
    pub fn load(state_dir: &Path) -> Result<Option<Joined>, JoinedError> {
        let path = Joined::path(state_dir);
        let mut text = String::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JoinedError::Read { path, source }),
            Ok(_) => {}
        }
        let joined: Joined = match serde_json::from_str(&text) {
            Ok(joined) => joined,
            Err(source) => return Err(JoinedError::Malformed { path, source }),
        };
        if joined.node_id.is_empty() || joined.controller.addresses.is_empty() {
            return Err(JoinedError::Incomplete { path });
        }
        Ok(Some(joined))
    }

    /// Writes or replaces the file (mode 0600, whole or not at all), and makes its directory (mode 0755) if there is
    /// none.
    pub fn save(&self, state_dir: &Path) -> Result<(), JoinedError> {
        let path = Joined::path(state_dir);
        let mut text = serde_json::to_string_pretty(self).expect("text and numbers are always JSON");
        text.push('\n');
        std::fs::create_dir_all(state_dir)
            .and_then(|()| file::write_private(&path, text.as_bytes()))
            .map_err(|source| JoinedError::Write { path, source })
    }

    /// Forgets the controller. Nothing to forget is fine.
    pub fn forget(state_dir: &Path) -> Result<(), JoinedError> {
        let path = Joined::path(state_dir);
        file::remove(&path).map_err(|source| JoinedError::Write { path, source })
    }
}

/// Which step with the file failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinedError {
    /// Permissions, say.
    #[error("{path}: could not read what this node joined; run as root or as the service's user", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not JSON, or a key is missing.
    #[error("{path} is damaged; join again: switchd join --force TOKEN", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What, and where.
        source: serde_json::Error,
    },
    /// A key is empty.
    #[error("{path} names no node or no controller; join again: switchd join --force TOKEN", path = path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// A full disk, or permissions.
    #[error("{path}: could not write it; run as root or as the service's user, on a disk with space", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Far more than any content needs.
const MAX_FILE: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn joined() -> Joined {
        Joined {
            node_id: "node-7".into(),
            node_name: "a".into(),
            cluster: "lab".into(),
            controller: Controller {
                addresses: vec!["ctl.example:7443".into()],
                public_key: PublicKey([7; 32]),
            },
            joined_at: 1_700_000_000,
            removed: None,
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert_eq!(Joined::load(&state).unwrap(), None);
        joined().save(&state).unwrap();
        assert_eq!(Joined::load(&state).unwrap(), Some(joined()));
        assert_eq!(std::fs::metadata(Joined::path(&state)).unwrap().mode() & 0o7777, 0o600);
        let removed = Joined { removed: Some("by an operator".into()), ..joined() };
        removed.save(&state).unwrap();
        assert_eq!(Joined::load(&state).unwrap(), Some(removed));
        Joined::forget(&state).unwrap();
        assert_eq!(Joined::load(&state).unwrap(), None);
    }

    #[test]
    fn a_damaged_file_names_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        joined().save(dir.path()).unwrap();
        let whole = std::fs::read_to_string(Joined::path(dir.path())).unwrap();
        for text in ["", "{}", &whole[..whole.len() / 2], &whole.replace("node-7", "")] {
            std::fs::write(Joined::path(dir.path()), text).unwrap();
            let error = Joined::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("switchd join --force"), "{error}");
        }
    }
}
