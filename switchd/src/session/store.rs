//! The last state, on disk: with it a node boots and forwards while the controller is down.
//!
//! `state.bin` is `skstate1`, the SHA-256 of the rest, and a `StateUpdate` that is one whole snapshot.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use controller_api::node::StateUpdate;
use node_session::file;
use prost::Message;

/// Where the file is, in a state directory.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("state.bin")
}

/// Reads it. A file that is no good is set aside as `state.bin.bad`, with a warning: it never stops the start.
pub(super) fn load(state_dir: &Path) -> Option<StateUpdate> {
    let path = path(state_dir);
    let bad = match read(&path) {
        Ok(state) => return Some(state),
        Err(Bad::Missing) => return None,
        Err(bad) => bad,
    };
    let aside = path.with_extension("bin.bad");
    let moved = std::fs::rename(&path, &aside);
    tracing::warn!(
        file = %path.display(), aside = %aside.display(), error = %bad, moved = moved.is_ok(),
        "the stored state is no good and set aside; this node waits for the controller"
    );
    None
}

/// Writes it, whole or not at all.
pub(super) fn save(state_dir: &Path, state: &StateUpdate) -> io::Result<()> {
    let body = state.encode_to_vec();
    let sum = digest(&SHA256, &body);
    file::write_private(&path(state_dir), &[MAGIC, sum.as_ref(), &body].concat())
}

/// Forgets it.
pub(super) fn forget(state_dir: &Path) -> io::Result<()> {
    file::remove(&path(state_dir))
}

#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error("there is none")]
    Missing,
    #[error("reading it: {0}")]
    Read(io::Error),
    #[error("it is cut short, changed, or no state")]
    Damaged,
    #[error("it is whole, but not understood: {0}")]
    Content(prost::DecodeError),
}

fn read(path: &Path) -> Result<StateUpdate, Bad> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Bad::Missing,
        _ => Bad::Read(error),
    })?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(Bad::Read)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or(Bad::Damaged)?;
    let (sum, body) = rest.split_first_chunk::<32>().ok_or(Bad::Damaged)?;
    if digest(&SHA256, body).as_ref() != sum {
        return Err(Bad::Damaged);
    }
    StateUpdate::decode(body).map_err(Bad::Content)
}

const MAGIC: &[u8] = b"skstate1";
/// A million bindings have some 100 MB.
const MAX_FILE: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use controller_api::node::Network;

    fn state() -> StateUpdate {
        let network = Network { vni: 100, name: "blue".into(), ..Network::default() };
        StateUpdate { epoch: 7, revision: 9, networks: vec![network; 50], ..StateUpdate::default() }
    }

    #[test]
    fn what_is_saved_is_loaded_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);
        save(dir.path(), &state()).unwrap();
        assert_eq!(load(dir.path()), Some(state()));
        forget(dir.path()).unwrap();
        assert_eq!(load(dir.path()), None);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state()).unwrap();
        let whole = std::fs::read(path(dir.path())).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let last = whole.len() - 1;
        for bytes in
            [Vec::new(), whole[..20].to_vec(), whole[..last].to_vec(), flipped(0), flipped(20), flipped(last)]
        {
            std::fs::write(path(dir.path()), &bytes).unwrap();
            assert_eq!(load(dir.path()), None);
            assert!(!path(dir.path()).exists());
            assert_eq!(std::fs::read(dir.path().join("state.bin.bad")).unwrap(), bytes);
        }
    }
}
