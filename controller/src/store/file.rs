//! The store in one file, by redb. Each commit is on the disk before it is confirmed; a crash at any point leaves
//! the last confirmed state.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};
use tokio::sync::broadcast;

use super::{Change, Listing, Record, Revision, Store, StoreError, Transaction, Watch};

/// The newest schema that this program reads and writes.
pub const SCHEMA: u64 = 1;

/// A store in one file. One process at a time has it open; the kernel drops the lock with the process.
#[derive(Debug)]
pub struct FileStore {
    database: Database,
    path: PathBuf,
    changes: broadcast::Sender<Arc<Change>>,
}

impl FileStore {
    /// Makes a new store, mode 0600, its directory's owner's if root makes it. The directory must be there.
    pub fn create(path: &Path) -> Result<FileStore, StoreError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(path.to_owned()),
            io::ErrorKind::StorageFull => StoreError::Full(path.to_owned()),
            _ => StoreError::Io { step: "create", path: path.to_owned(), source },
        })?;
        // A default ACL can add bits to what the mode says.
        let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Made by root, it is the service's, as the rest of its directory.
        let private = file
            .set_permissions(std::fs::Permissions::from_mode(0o600))
            .and_then(|()| node_session::file::hand_over(&file, directory));
        private.map_err(|source| StoreError::Io { step: "protect", path: path.to_owned(), source })?;
        let store = FileStore::open_database(path)?;
        store.with_transaction("create", |transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_SCHEMA, SCHEMA)?;
            meta.insert(META_REVISION, 0)?;
            transaction.open_table(RECORDS)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// Opens a store, brings an older schema up to date and refuses a newer one.
    pub fn open(path: &Path) -> Result<FileStore, StoreError> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing(path.to_owned()));
            }
            Err(source) => return Err(StoreError::Io { step: "find", path: path.to_owned(), source }),
            // redb would make a new database of it; a store is never empty, so this one was cut short.
            Ok(metadata) if metadata.len() == 0 => {
                return Err(StoreError::Damaged { path: path.to_owned(), detail: "it is empty".to_owned() });
            }
            Ok(_) => {}
        }
        let store = FileStore::open_database(path)?;
        store.migrate()?;
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_database(path: &Path) -> Result<FileStore, StoreError> {
        let mut builder = Database::builder();
        // Without the check, a file that something else altered could make redb panic later.
        builder.set_check_integrity_on_open(true).set_cache_size(CACHE_BYTES);
        let database = builder.create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
            redb::DatabaseError::Storage(StorageError::Io(source))
                if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                StoreError::Damaged { path: path.to_owned(), detail: source.to_string() }
            }
            other => explain("open", path, other.into()),
        })?;
        Ok(FileStore { database, path: path.to_owned(), changes: broadcast::channel(WATCH_BACKLOG).0 })
    }

    fn migrate(&self) -> Result<(), StoreError> {
        let found = self.with_transaction("read the schema of", |transaction| {
            let meta = transaction.open_table(META)?;
            Ok(meta.get(META_SCHEMA)?.map(|value| value.value()))
        })?;
        let found = found.ok_or_else(|| StoreError::Damaged {
            path: self.path.clone(),
            detail: "it has no schema record".to_owned(),
        })?;
        if found > SCHEMA {
            return Err(StoreError::Newer { found, known: SCHEMA });
        }
        for migration in MIGRATIONS.iter().filter(|migration| migration.from >= found) {
            self.with_transaction("migrate", |transaction| {
                (migration.run)(transaction)?;
                transaction.open_table(META)?.insert(META_SCHEMA, migration.from + 1)?;
                Ok(())
            })?;
            tracing::info!(schema = migration.from + 1, "the store was migrated");
        }
        Ok(())
    }

    fn with_transaction<T>(
        &self,
        step: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let explain = |error: redb::Error| explain(step, &self.path, error);
        let mut transaction = self.database.begin_write().map_err(|error| explain(error.into()))?;
        transaction.set_durability(Durability::Immediate).map_err(|error| explain(error.into()))?;
        let result = work(&transaction).map_err(explain)?;
        transaction.commit().map_err(|error| explain(error.into()))?;
        Ok(result)
    }
}

impl Store for FileStore {
    fn bytes(&self) -> Option<u64> {
        std::fs::metadata(&self.path).ok().map(|file| file.len())
    }

    fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let read = || -> Result<Option<Record>, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            Ok(table.get(key)?.map(|value| record(value.value())))
        };
        read().map_err(|error| explain("read", &self.path, error))
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let read = || -> Result<Listing, redb::Error> {
            let transaction = self.database.begin_read()?;
            let revision = transaction.open_table(META)?.get(META_REVISION)?.map_or(0, |value| value.value());
            let table = transaction.open_table(RECORDS)?;
            let mut records = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                records.push((key.value().to_owned(), record(value.value())));
            }
            Ok(Listing { revision: Revision(revision), records })
        };
        read().map_err(|error| explain("read", &self.path, error))
    }

    fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        let conflict = |key: &str| Err(StoreError::Conflict { key: key.to_owned() });
        let explain = |error: redb::Error| explain("write to", &self.path, error);
        let mut write = self.database.begin_write().map_err(|error| explain(error.into()))?;
        write.set_durability(Durability::Immediate).map_err(|error| explain(error.into()))?;
        {
            let table = write.open_table(RECORDS).map_err(|error| explain(error.into()))?;
            for condition in &transaction.conditions {
                let found = table.get(condition.key.as_str()).map_err(|error| explain(error.into()))?;
                let found = found.map_or(Revision(0), |value| record(value.value()).revision);
                if found != condition.revision {
                    return conflict(&condition.key);
                }
            }
        }
        let revision = put(&write, &transaction).map_err(explain)?;
        write.commit().map_err(|error| explain(error.into()))?;
        // No watcher is no error.
        let _ = self.changes.send(Arc::new(Change { revision, writes: transaction.writes }));
        Ok(revision)
    }

    fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), changes: self.changes.subscribe() }
    }
}

fn put(write: &WriteTransaction, transaction: &Transaction) -> Result<Revision, redb::Error> {
    let mut meta = write.open_table(META)?;
    let revision = meta.get(META_REVISION)?.map_or(0, |value| value.value()) + 1;
    meta.insert(META_REVISION, revision)?;
    let mut table = write.open_table(RECORDS)?;
    let mut stamped = Vec::new();
    for one in &transaction.writes {
        match &one.value {
            Some(value) => {
                stamped.clear();
                stamped.extend_from_slice(&revision.to_be_bytes());
                stamped.extend_from_slice(value);
                table.insert(one.key.as_str(), stamped.as_slice())?;
            }
            None => {
                table.remove(one.key.as_str())?;
            }
        }
    }
    Ok(Revision(revision))
}

/// A stored value is its revision, 8 bytes, and the value proper.
fn record(stored: &[u8]) -> Record {
    match stored.split_first_chunk() {
        Some((revision, value)) => {
            Record { value: value.to_vec(), revision: Revision(u64::from_be_bytes(*revision)) }
        }
        None => Record { value: Vec::new(), revision: Revision(0) },
    }
}

fn explain(step: &'static str, path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            StoreError::Full(path)
        }
        redb::Error::Io(source) => StoreError::Io { step, path, source },
        redb::Error::Corrupted(detail) => StoreError::Damaged { path, detail },
        redb::Error::TableDoesNotExist(name) => {
            StoreError::Damaged { path, detail: format!("it has no table {name}") }
        }
        other => StoreError::Database { step, path, detail: other.to_string() },
    }
}

/// Brings a store from one schema to the next, in one transaction with the schema record.
struct Migration {
    from: u64,
    run: fn(&WriteTransaction) -> Result<(), redb::Error>,
}

/// In ascending order, one for each schema that was ever released but the newest.
const MIGRATIONS: &[Migration] = &[];

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";
const META_REVISION: &str = "revision";
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// The registry itself is in memory; the cache only serves writes.
const CACHE_BYTES: usize = 16 << 20;
/// Transactions that a watcher may lag behind.
const WATCH_BACKLOG: usize = 1024;
