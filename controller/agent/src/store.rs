//! The state directory: what the agent knows without the controller, and each instance's home.
//!
//! ```text
//! desired.json                 what the controller last said
//! instances/<id>/spec.json     the record
//! instances/<id>/run/          processes, exit status, sockets
//! instances/<id>/volume/       a container's /data
//! instances/<id>/disk.qcow2    a guest's disk
//! instances/<id>/console.log   what it printed, the newest part
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::spec::{InstanceId, Spec};

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Makes the directory, for root's eyes only, if it is not there.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let store = Store { root: root.to_owned() };
        private_dir(root)?;
        private_dir(&store.instances())?;
        Ok(store)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The home of an instance, which need not be there.
    pub fn home(&self, id: &InstanceId) -> Home {
        Home { dir: self.instances().join(id.as_str()) }
    }

    /// What the controller last said; `None` before it said anything.
    pub fn desired(&self) -> Result<Option<DesiredFile>, StoreError> {
        read_json(&self.root.join("desired.json"))
    }

    /// Keeps what the controller said.
    pub fn save_desired(&self, desired: &DesiredFile) -> Result<(), StoreError> {
        write_json(&self.root.join("desired.json"), desired)
    }

    /// Drops what the controller said before: by an old word, an instance that has moved away could be made anew.
    pub fn forget_desired(&self) {
        let path = self.root.join("desired.json");
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!("cannot remove {}: {error}", path.display());
        }
    }

    /// Every instance that has a home, with its record or why it cannot be read. One that cannot be read takes none
    /// of the others along.
    pub fn records(&self) -> Result<Vec<FoundRecord>, StoreError> {
        let dir = self.instances();
        let entries = fs::read_dir(&dir).map_err(|source| StoreError::read(&dir, source))?;
        let mut records = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::read(&dir, source))?;
            let Some(id) = entry.file_name().to_str().and_then(|name| InstanceId::parse(name).ok()) else {
                continue;
            };
            let home = self.home(&id);
            // A home without a record is one whose making was cut short: it holds nothing yet.
            if let Some(record) = home.record().transpose() {
                records.push((id, record));
            }
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(records)
    }

    fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }
}

/// An instance that has a home: its record, or why it cannot be read.
pub type FoundRecord = (InstanceId, Result<Record, StoreError>);

/// The last word of the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredFile {
    /// Of the controller's store.
    pub epoch: u64,
    /// In the epoch.
    pub revision: u64,
    /// What shall be.
    pub instances: Vec<Spec>,
}

/// What the agent remembers of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The spec that was last taken over.
    pub spec: Spec,
    /// The spec that it was last started with.
    #[serde(default)]
    pub started_with: Option<Spec>,
    /// The transfer that its volume was last uploaded to.
    #[serde(default)]
    pub uploaded_to: Option<String>,
    /// Its volume came, or need not come, from a transfer.
    #[serde(default)]
    pub has_volume: bool,
}

/// The directory of one instance.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// The home in this directory.
    pub fn at(dir: &Path) -> Home {
        Home { dir: dir.to_owned() }
    }

    /// Makes it, if it is not there.
    pub fn make(&self) -> Result<(), StoreError> {
        private_dir(&self.dir)?;
        private_dir(&self.run_dir())
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files of the running instance.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// A container's volume.
    pub fn volume(&self) -> PathBuf {
        self.dir.join("volume")
    }

    /// A guest's disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// What it printed.
    pub fn log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Its record; `None` if there is none.
    pub fn record(&self) -> Result<Option<Record>, StoreError> {
        read_json(&self.dir.join("spec.json"))
    }

    /// Replaces its record.
    pub fn save_record(&self, record: &Record) -> Result<(), StoreError> {
        write_json(&self.dir.join("spec.json"), record)
    }

    /// A file in the run directory.
    pub(crate) fn read_run<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        read_json(&self.run_dir().join(name))
    }

    /// Writes a file into the run directory.
    pub(crate) fn write_run<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        write_json(&self.run_dir().join(name), value)
    }

    /// Removes a file of the run directory, if it is there.
    pub(crate) fn remove_run(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.run_dir().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes everything; that it was not there is no error. The record goes first: what is left after a crash is
    /// a home without a record, which is made again or removed again.
    pub fn remove(&self) -> io::Result<()> {
        let missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        missing(fs::remove_file(self.dir.join("spec.json")))?;
        missing(fs::remove_dir_all(&self.dir))
    }
}

/// What can go wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {path}: {}", if *full { "the disk is full; free space there" } else { "see the cause" })]
    Write {
        /// Which.
        path: PathBuf,
        /// There is no space left.
        full: bool,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file was cut short or edited.
    #[error("{path} is damaged ({detail}): restore it, or remove its directory to give the instance up")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl StoreError {
    fn read(path: &Path, source: io::Error) -> StoreError {
        StoreError::Read { path: path.to_owned(), source }
    }

    fn write(path: &Path, source: io::Error) -> StoreError {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        StoreError::Write { path: path.to_owned(), full, source }
    }
}

fn private_dir(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError::write(path, source))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::read(path, source)),
    };
    let damaged = |error: serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        detail: if error.is_eof() { "it is cut short".to_owned() } else { error.to_string() },
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Whole or not at all, also when the machine stops: a new file, its bytes on the disk, then renamed, then the
/// directory on the disk.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let write = || {
        use std::os::unix::fs::OpenOptionsExt;
        let temporary = path.with_extension("json.new");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(value).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| StoreError::write(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Desired, DriverKind};

    fn record(id: &str) -> Record {
        let spec = Spec {
            id: InstanceId::parse(id).unwrap(),
            name: id.into(),
            generation: 1,
            desired: Desired::Running,
            driver: DriverKind::Container,
            cores_milli: 0,
            memory_bytes: 0,
            disk_bytes: 0,
            image: None,
            command: Vec::new(),
            environment: Default::default(),
            nics: Vec::new(),
            upload_to: None,
            download_from: None,
        };
        Record { spec, started_with: None, uploaded_to: None, has_volume: true }
    }

    #[test]
    fn a_file_that_was_cut_short_is_told_and_takes_no_other_along() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        for id in ["inst-1", "inst-2", "inst-3"] {
            let record = record(id);
            let home = store.home(&record.spec.id);
            home.make().unwrap();
            home.save_record(&record).unwrap();
        }
        let file = store.root().join("instances/inst-2/spec.json");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        fs::create_dir(store.root().join("instances/inst-4")).unwrap();

        let records = store.records().unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0].1.as_ref().unwrap(), &record("inst-1"));
        let error = records[1].1.as_ref().unwrap_err().to_string();
        assert!(error.contains("inst-2/spec.json is damaged (it is cut short)"), "{error}");
        assert!(records[2].1.is_ok());
    }

    #[test]
    fn what_the_controller_said_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.desired().unwrap(), None);
        let desired = DesiredFile { epoch: 7, revision: 9, instances: vec![record("inst-1").spec] };
        store.save_desired(&desired).unwrap();
        assert_eq!(store.desired().unwrap(), Some(desired));
    }

    #[test]
    fn a_full_disk_is_named() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let error = File::options().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        let error = StoreError::write(Path::new("/x"), error).to_string();
        assert_eq!(error, "cannot write /x: the disk is full; free space there");
    }
}
