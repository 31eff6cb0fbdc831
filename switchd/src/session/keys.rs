//! The key's file while the key is replaced.
//!
//! The new key waits in `<file>.next` until the controller has confirmed it, and then takes the file's place. After
//! a crash in between, the controller knows one of the two: who finds `.next` tries the old key, then the new one.

use std::io;
use std::path::{Path, PathBuf};

use node_session::file;

use crate::key::{KeyError, PrivateKey};

/// The node's key, and the one that may replace it.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    current: PrivateKey,
    next: Option<PrivateKey>,
}

impl KeyFile {
    /// Of `current`, as read from `path`. A next key that cannot be read is left alone, with a warning.
    pub(super) fn new(path: PathBuf, current: PrivateKey) -> KeyFile {
        let next = match PrivateKey::load(&next_path(&path)) {
            Ok(next) => Some(next),
            Err(KeyError::Missing { .. }) => None,
            Err(error) => {
                tracing::warn!(%error, "the key of an unfinished rotation is no good and not tried");
                None
            }
        };
        KeyFile { path, current, next }
    }

    /// The key in force.
    pub(super) fn current(&self) -> &PrivateKey {
        &self.current
    }

    /// The key of a rotation that is not confirmed.
    pub(super) fn next(&self) -> Option<&PrivateKey> {
        self.next.as_ref()
    }

    /// Makes the next key, on disk before anybody hears of it.
    pub(super) fn begin(&mut self) -> Result<&PrivateKey, KeyError> {
        let key = PrivateKey::generate()?;
        key.save(&next_path(&self.path), true)?;
        Ok(self.next.insert(key))
    }

    /// The next key is the node's now.
    pub(super) fn confirm(&mut self) -> io::Result<()> {
        if let Some(next) = self.next.take() {
            // In memory whatever the disk says: the controller knows no other key any more.
            self.current = next;
            file::replace(&next_path(&self.path), &self.path)?;
        }
        Ok(())
    }

    /// The next key will never be the node's.
    pub(super) fn abandon(&mut self) -> io::Result<()> {
        match self.next.take() {
            Some(_) => file::remove(&next_path(&self.path)),
            None => Ok(()),
        }
    }
}

/// Beside the key: the same directory, so that taking its place is atomic.
fn next_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a start finds after a crash at each point.
    #[test]
    fn a_crash_at_any_point_leaves_the_key_that_the_controller_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private.key");
        let old = PrivateKey::generate().unwrap();
        old.save(&path, false).unwrap();
        let start = || KeyFile::new(path.clone(), PrivateKey::load(&path).unwrap());

        let mut file = start();
        assert!(file.next().is_none());
        let new = file.begin().unwrap().public();
        // Not confirmed: both are there.
        let mut file = start();
        assert_eq!((file.current().public(), file.next().unwrap().public()), (old.public(), new));
        file.abandon().unwrap();
        assert!(start().next().is_none());

        let mut file = start();
        let new = file.begin().unwrap().public();
        let mut file = { start() };
        file.confirm().unwrap();
        assert_eq!(file.current().public(), new);
        let file = start();
        assert_eq!((file.current().public(), file.next().is_none()), (new, true));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
