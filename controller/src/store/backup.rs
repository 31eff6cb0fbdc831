//! A backup: everything the controller needs to be the same controller again, in one file of text.
//!
//! One JSON object a line: the header, then each file of the state directory, then each record, and last the SHA-256
//! of every byte before that line. The file holds the cluster's private key, so its mode is 0600.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

use super::{FileStore, Store, StoreError, Transaction};

/// What a backup holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Backup {
    /// The cluster's name.
    pub cluster: String,
    /// The schema of the records.
    pub schema: u64,
    /// The store's revision when it was made.
    pub revision: u64,
    /// Files of the state directory: name and content. Secrets among them.
    pub files: Vec<(String, Vec<u8>)>,
    /// The records of the store: key and value.
    pub records: Vec<(String, Vec<u8>)>,
}

impl Backup {
    /// Takes the records of a store as they are at one moment.
    pub fn of_store(
        store: &dyn Store,
        cluster: String,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<Backup, StoreError> {
        let listing = store.list("")?;
        let records = listing.records.into_iter().map(|(key, record)| (key, record.value)).collect();
        Ok(Backup { cluster, schema: super::SCHEMA, revision: listing.revision.0, files, records })
    }

    /// The backup as text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let header = Line::Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            schema: self.schema,
            cluster: self.cluster.clone(),
            revision: self.revision,
            files: self.files.len(),
            records: self.records.len(),
        };
        push(&mut text, &header);
        for (name, content) in &self.files {
            push(&mut text, &Line::File { name: name.clone(), content: BASE64_STANDARD.encode(content) });
        }
        for (key, value) in &self.records {
            push(&mut text, &Line::Record { key: key.clone(), value: BASE64_STANDARD.encode(value) });
        }
        let sum = Line::Sum { sha256: sha256_hex(&text) };
        push(&mut text, &sum);
        text
    }

    /// Checks the sum and the counts, then reads the content. Nothing of a damaged backup is used.
    pub fn from_bytes(text: &[u8]) -> Result<Backup, BackupError> {
        let body = text.strip_suffix(b"\n").ok_or(BackupError::CutShort)?;
        // The header decides first: a newer format may end in another way.
        let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let header = serde_json::from_slice(first).map_err(|_| BackupError::NotABackup)?;
        let Line::Header {
            format,
            version,
            schema,
            cluster,
            revision,
            files: file_count,
            records: record_count,
        } = header
        else {
            return Err(BackupError::NotABackup);
        };
        if format != FORMAT {
            return Err(BackupError::NotABackup);
        }
        if version > VERSION {
            return Err(BackupError::NewerFormat { found: version, known: VERSION });
        }
        if schema > super::SCHEMA {
            return Err(BackupError::NewerSchema { found: schema, known: super::SCHEMA });
        }
        let last = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let Ok(Line::Sum { sha256 }) = serde_json::from_slice(&body[last..]) else {
            return Err(BackupError::CutShort);
        };
        if sha256 != sha256_hex(&text[..last]) {
            return Err(BackupError::Sum);
        }
        let (mut files, mut records) = (Vec::new(), Vec::new());
        for line in body[..last].split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()) {
            let decode = |content: &str| BASE64_STANDARD.decode(content).map_err(|_| BackupError::Malformed);
            match serde_json::from_slice(line).map_err(|_| BackupError::Malformed)? {
                Line::File { name, content } => files.push((name, decode(&content)?)),
                Line::Record { key, value } => records.push((key, decode(&value)?)),
                Line::Header { .. } | Line::Sum { .. } => return Err(BackupError::Malformed),
            }
        }
        if (files.len(), records.len()) != (file_count, record_count) {
            return Err(BackupError::Malformed);
        }
        Ok(Backup { cluster, schema, revision, files, records })
    }

    /// Reads a backup file.
    pub fn load(path: &Path) -> Result<Backup, BackupError> {
        let at = |source| BackupError::Io { step: "read", path: path.to_owned(), source };
        let mut text = Vec::new();
        File::open(path).and_then(|mut file| file.read_to_end(&mut text)).map_err(at)?;
        Backup::from_bytes(&text)
    }
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backup(of {}, {} records)", self.cluster, self.records.len())
    }
}

/// Writes a finished backup to a file of mode 0600, which appears complete or not at all.
pub fn save(path: &Path, text: &[u8]) -> Result<(), BackupError> {
    let at = |source| BackupError::Io { step: "write", path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let write = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut file = BufWriter::new(file);
        file.write_all(text)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        at(source)
    })
}

/// Makes the store at `path` hold the records, in place of what was there. A store that opens and has records, or
/// does not open, is refused without `force`. The new one is made beside it and takes its place in one step.
pub fn restore_records(
    path: &Path,
    records: Vec<(String, Vec<u8>)>,
    force: bool,
) -> Result<(), RestoreError> {
    // Held to the end, so that no controller starts on the old store meanwhile.
    let _old = match FileStore::open(path) {
        Ok(old) if !force && !old.list("")?.records.is_empty() => {
            return Err(RestoreError::NotEmpty(path.to_owned()));
        }
        Ok(old) => Some(old),
        Err(StoreError::Missing(_)) => None,
        Err(error @ StoreError::InUse(_)) => return Err(error.into()),
        Err(_) if force => None,
        Err(error) => return Err(error.into()),
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".restoring");
    let temporary = PathBuf::from(name);
    let _ = std::fs::remove_file(&temporary);
    let fill = || -> Result<(), RestoreError> {
        let store = FileStore::create(&temporary)?;
        let transaction = records
            .into_iter()
            .fold(Transaction::default(), |transaction, (key, value)| transaction.put(key, value));
        store.commit(transaction)?;
        drop(store);
        let replace = || -> io::Result<()> {
            std::fs::rename(&temporary, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        replace().map_err(|source| StoreError::Io { step: "replace", path: path.to_owned(), source }.into())
    };
    fill().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

/// Why a backup file cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another kind of file.
    #[error("this is no backup of a controller: use a file that `controller backup` wrote")]
    NotABackup,
    /// Its end is missing.
    #[error("the backup is cut short: copy it again, or use another one")]
    CutShort,
    /// It was changed.
    #[error("the backup's checksum is wrong, it was altered or damaged: copy it again, or use another one")]
    Sum,
    /// The checksum is right and the content makes no sense.
    #[error("the backup is malformed: make it again with `controller backup`")]
    Malformed,
    /// Of a newer controller.
    #[error(
        "the backup has format {found}, this controller knows up to {known}: restore it with the newer controller"
    )]
    NewerFormat {
        /// The file's.
        found: u32,
        /// This program's.
        known: u32,
    },
    /// Of a newer controller.
    #[error(
        "the backup has schema {found}, this controller knows up to {known}: restore it with the newer controller"
    )]
    NewerSchema {
        /// The file's.
        found: u64,
        /// This program's.
        known: u64,
    },
    /// The file could not be read or written.
    #[error("could not {step} the backup {path}", path = path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a backup was not restored. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is a store with records.
    #[error("the store {path} is not empty: --force replaces it with the backup; back it up first", path = .0.display())]
    NotEmpty(PathBuf),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Header {
        format: String,
        version: u32,
        schema: u64,
        cluster: String,
        revision: u64,
        files: usize,
        records: usize,
    },
    File {
        name: String,
        content: String,
    },
    Record {
        key: String,
        value: String,
    },
    Sum {
        sha256: String,
    },
}

fn push(text: &mut Vec<u8>, line: &Line) {
    serde_json::to_writer(&mut *text, line).expect("plain text and numbers are always JSON");
    text.push(b'\n');
}

fn sha256_hex(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

const FORMAT: &str = "controller-backup";
const VERSION: u32 = 1;
