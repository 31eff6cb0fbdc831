//! Where the controller keeps what it knows: keys with values, transactions that compare and set, and watches.
//! The trait is what etcd offers too, so that several controllers can serve one cluster one day; [`FileStore`] is
//! one file of this host.

mod backup;
mod error;
mod file;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::broadcast;

pub use backup::{Backup, BackupError, RestoreError, restore_records, save as save_backup};
pub use error::StoreError;
pub use file::{FileStore, SCHEMA};

/// Counts the transactions of a store: each that changes something takes the next one. 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

/// A key-value store with transactions and watches. All calls block on the disk or the network: they have no
/// place on an async thread.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> Result<Option<Record>, StoreError>;

    /// All records whose key begins with `prefix`, in the order of the keys, and the revision at which they were so.
    fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Carries out all writes or none. It is on the disk when this returns. [`StoreError::Conflict`] if one of the
    /// conditions does not hold; nothing has changed then.
    fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError>;

    /// All transactions after this call, as far as they concern keys that begin with `prefix`.
    fn watch(&self, prefix: &str) -> Watch;

    /// Bytes that it takes on this machine's disk; none if it is elsewhere.
    fn bytes(&self) -> Option<u64> {
        None
    }
}

/// A value and when it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The value.
    pub value: Vec<u8>,
    /// The transaction that wrote it last.
    pub revision: Revision,
}

/// The records of one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// The moment.
    pub revision: Revision,
    /// Keys with their records, in the order of the keys.
    pub records: Vec<(String, Record)>,
}

/// Writes that happen together, if all conditions hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is written; of two writes to one key the later one counts.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// Adds a value for a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Transaction {
        self.writes.push(Write { key: key.into(), value: Some(value.into()) });
        self
    }

    /// Adds the removal of a key; one that is not there is no error.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Transaction {
        self.writes.push(Write { key: key.into(), value: None });
        self
    }

    /// Demands that the key was last written by this revision; [`Revision`] 0: that it is not there.
    #[must_use]
    pub fn only_if(mut self, key: impl Into<String>, revision: Revision) -> Transaction {
        self.conditions.push(Condition { key: key.into(), revision });
        self
    }
}

/// The key was last written by the revision, or is not there for revision 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The key.
    pub key: String,
    /// The revision.
    pub revision: Revision,
}

/// A new value for a key, or its removal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The value; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

/// A committed transaction, as watches see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The transaction's revision.
    pub revision: Revision,
    /// What it wrote under the watch's prefix.
    pub writes: Vec<Write>,
}

/// Yields the transactions under a prefix.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<Arc<Change>>,
}

impl Watch {
    /// The next change under the prefix. `None` when the store is closed. [`StoreError::WatchLagged`] if the watcher
    /// was so slow that changes are lost: list again. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Change, StoreError>> {
        loop {
            let change = match self.changes.recv().await {
                Ok(change) => change,
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Err(StoreError::WatchLagged)),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            let writes: Vec<Write> =
                change.writes.iter().filter(|write| write.key.starts_with(&self.prefix)).cloned().collect();
            if !writes.is_empty() {
                return Some(Ok(Change { revision: change.revision, writes }));
            }
        }
    }
}
