//! `controller backup` and `controller restore`.

use std::path::Path;

use anyhow::Context;
use controller_registry::{Counters, Input, Record, RecordKey, Registry};

use crate::admin::{AdminClient, AdminRequest, back_up};
use crate::config::Config;
use crate::engine;
use crate::state_dir::StateDir;
use crate::store::{Backup, FileStore, Store, restore_records, save_backup};

pub(super) fn backup(config: &Config, file: &Path) -> anyhow::Result<()> {
    let text = match AdminClient::connect(&config.admin_socket)? {
        Some(client) => client.ask(&AdminRequest::Backup)?.1,
        None => {
            let store = FileStore::open(&config.store_path())?;
            back_up(&store, &StateDir::new(&config.state_dir))?
        }
    };
    // What came by the socket is checked before an older backup is replaced.
    let backup = Backup::from_bytes(&text).context("the backup that was made is not good")?;
    save_backup(file, &text)?;
    eprintln!(
        "cluster {:?}, revision {} of its store, {} record(s): written to {}; it holds the cluster's private key",
        backup.cluster,
        backup.revision,
        backup.records.len(),
        file.display()
    );
    Ok(())
}

pub(super) fn restore(config: &Config, file: &Path, force: bool) -> anyhow::Result<()> {
    let backup = Backup::load(file)?;
    anyhow::ensure!(
        AdminClient::connect(&config.admin_socket)?.is_none(),
        "a controller runs here: stop it first (its admin socket {} answers)",
        config.admin_socket.display()
    );
    let records = with_new_epoch(&backup, counters_of(&config.store_path()))
        .context("the backup's records are not good; nothing was changed")?;
    let state_dir = StateDir::new(&config.state_dir);
    state_dir.make()?;
    let count = records.len();
    restore_records(&config.store_path(), records, force)?;
    state_dir.restore_files(&backup.files)?;
    eprintln!("cluster {:?}, {count} record(s): restored to {}", backup.cluster, config.state_dir.display());
    Ok(())
}

/// Nodes may have seen changes that the backup has not: in a new epoch they take everything anew, and no generation
/// that they know is given out again.
fn with_new_epoch(backup: &Backup, replaced: Counters) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut records = Vec::new();
    for (key, value) in &backup.records {
        let record: Record = serde_json::from_slice(value).with_context(|| format!("record {key}"))?;
        records.push(record);
    }
    let mut registry = Registry::restore(records.into_iter())?;
    registry.handle(Input::Restored { epoch: node_session::random(), replaced }, engine::now())?;
    let encode = |record: Record| Ok((record.key().to_string(), serde_json::to_vec(&record)?));
    registry.records().map(encode).collect()
}

/// What the store that is replaced has given out, if it can be read.
fn counters_of(store: &Path) -> Counters {
    let read = || FileStore::open(store).ok()?.get(&RecordKey::Counters.to_string()).ok()?;
    let record = read().and_then(|record| serde_json::from_slice(&record.value).ok());
    match record {
        Some(Record::Counters(counters)) => counters,
        _ => Counters::default(),
    }
}
