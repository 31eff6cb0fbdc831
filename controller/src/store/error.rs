//! What can go wrong with the store, with the mends.

use std::io;
use std::path::PathBuf;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such file.
    #[error("no store at {path}: make the cluster with `controller init`", path = .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a store at {path} already; it is kept", path = .0.display())]
    Exists(PathBuf),
    /// Another process has it open.
    #[error("the store {path} is in use: another controller runs on it; stop that one, or talk to it through its admin socket", path = .0.display())]
    InUse(PathBuf),
    /// The store was written by a newer controller.
    #[error(
        "the store has schema {found}, this controller knows up to {known}: install the newer controller again, or restore a backup made by this version"
    )]
    Newer {
        /// The schema of the file.
        found: u64,
        /// The newest that this program knows.
        known: u64,
    },
    /// The file is damaged.
    #[error("the store {path} is damaged ({detail}): move it away and restore the last backup: controller restore FILE", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system has no room.
    #[error("the store {path} cannot grow, the disk is full: make room and start the controller again; what was confirmed is kept", path = .0.display())]
    Full(PathBuf),
    /// A step with the file failed.
    #[error("could not {step} the store {path}", path = path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database refused otherwise.
    #[error("could not {step} the store {path}: {detail}", path = path.display())]
    Database {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why, in the database's words.
        detail: String,
    },
    /// A condition of the transaction does not hold.
    #[error("{key} was changed meanwhile")]
    Conflict {
        /// The key whose revision is another one.
        key: String,
    },
    /// The watcher was too slow.
    #[error("changes were lost to a slow watcher")]
    WatchLagged,
}
