//! The store's promises: conditions, watches, the lock, damage, crashes, a full disk, backups.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

fn put(key: &str, value: &str) -> Transaction {
    Transaction::default().put(key, value)
}

fn value(store: &FileStore, key: &str) -> Option<String> {
    store.get(key).unwrap().map(|record| String::from_utf8(record.value).unwrap())
}

#[test]
fn values_lists_and_conditions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = FileStore::create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let first = store.commit(put("node/1", "a").put("node/2", "b").put("type/1", "c")).unwrap();
    assert_eq!(first, Revision(1));
    let listing = store.list("node/").unwrap();
    assert_eq!(listing.records.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["node/1", "node/2"]);

    let second = store.commit(put("node/1", "d").only_if("node/1", first)).unwrap();
    for stale in
        [put("node/1", "e").only_if("node/1", first), put("node/1", "e").only_if("node/1", Revision(0))]
    {
        assert!(matches!(store.commit(stale), Err(StoreError::Conflict { key }) if key == "node/1"));
    }
    assert_eq!(value(&store, "node/1").unwrap(), "d");
    store.commit(Transaction::default().delete("node/1").only_if("node/1", second)).unwrap();
    store.commit(put("node/1", "f").only_if("node/1", Revision(0))).unwrap();
    drop(store);
    let store = FileStore::open(&path).unwrap();
    assert_eq!(value(&store, "node/1").unwrap(), "f");
    assert_eq!(store.list("").unwrap().revision, Revision(4));
}

#[tokio::test]
async fn watches_see_their_prefix_and_say_when_they_lost_something() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::create(&dir.path().join("store")).unwrap();
    let mut watch = store.watch("node/");
    store.commit(put("type/1", "x")).unwrap();
    store.commit(put("type/1", "x").put("node/1", "a")).unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!(change.revision, Revision(2));
    assert_eq!(change.writes, [Write { key: "node/1".to_owned(), value: Some(b"a".to_vec()) }]);
    drop(store);
    assert!(watch.next().await.is_none());
}

#[test]
fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let dir = tempfile::tempdir().unwrap();
    // Only root can give a directory away; another user's file is that user's anyway.
    let _ = chown(dir.path(), Some(65534), None);
    let path = dir.path().join("store");
    drop(FileStore::create(&path).unwrap());
    let (owner, made) = (std::fs::metadata(dir.path()).unwrap(), std::fs::metadata(&path).unwrap());
    assert_eq!((made.uid(), made.permissions().mode() & 0o7777), (owner.uid(), 0o600));
}

#[test]
fn one_store_serves_one_controller() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(FileStore::open(&path), Err(StoreError::Missing(_))));
    let _store = FileStore::create(&path).unwrap();
    assert!(matches!(FileStore::create(&path), Err(StoreError::Exists(_))));
    let error = FileStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(FileStore::create(&path).unwrap());
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap();
        meta.insert("schema", SCHEMA + 1).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let error = FileStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("newer controller"), "{error}");
}

#[test]
fn a_damaged_file_gets_an_error_with_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = FileStore::create(&path).unwrap();
    for i in 0..200 {
        store.commit(put(&format!("node/{i}"), &"x".repeat(1000))).unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 100, 4096, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = FileStore::open(&path).err();
        assert!(error.is_some(), "a store cut to {length} bytes opened");
    }
    std::fs::write(&path, b"hunter2 hunter2 hunter2").unwrap();
    let error = FileStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("restore"), "{error}");
}

/// Run as a child by the next test: commits without end and says what was confirmed.
#[test]
fn child_that_commits() {
    let Ok(path) = std::env::var("STORE_TEST_CHILD") else { return };
    let store = FileStore::open(Path::new(&path)).unwrap();
    let start = store
        .get("count")
        .unwrap()
        .map_or(0, |record| String::from_utf8(record.value).unwrap().parse().unwrap());
    for i in start + 1.. {
        let count = i.to_string();
        store
            .commit(
                put("count", &count)
                    .put(format!("a/{i}"), count.as_str())
                    .put(format!("b/{i}"), "x".repeat(3000)),
            )
            .unwrap();
        println!("committed {i}");
    }
}

#[test]
fn a_killed_process_loses_nothing_confirmed_and_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(FileStore::create(&path).unwrap());
    let mut confirmed = 0_u64;
    for round in 0..15_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_commits", "--nocapture"])
            .env("STORE_TEST_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A different point each time, within a commit: the kill comes while the child works on the next one.
        let stop_after = 1 + (round * 7) % 11;
        let mut seen = 0;
        while seen < stop_after {
            let line = lines.next().unwrap().unwrap();
            if let Some(count) = line.trim().strip_prefix("committed ") {
                confirmed = count.parse().unwrap();
                seen += 1;
            }
        }
        let until = std::time::Instant::now() + std::time::Duration::from_micros(round * 173);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(count) = line.trim().strip_prefix("committed ").and_then(|count| count.parse().ok()) {
                confirmed = count;
            }
        }
        child.wait().unwrap();
        let store = FileStore::open(&path).unwrap();
        let count: u64 = value(&store, "count").unwrap().parse().unwrap();
        assert!(
            count == confirmed || count == confirmed + 1,
            "{confirmed} were confirmed, {count} are there"
        );
        assert_eq!(store.list("a/").unwrap().records.len() as u64, count);
        assert_eq!(store.list("b/").unwrap().records.len() as u64, count);
        confirmed = count;
    }
}

#[test]
fn a_full_disk_is_an_error_and_what_was_confirmed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        &mount,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=4m"),
    );
    if let Err(error) = mounted {
        eprintln!("skipped: cannot mount a tmpfs here: {error}");
        return;
    }
    let path = mount.join("store");
    let store = FileStore::create(&path).unwrap();
    let mut confirmed = 0;
    let error = loop {
        match store.commit(put(&format!("node/{confirmed}"), &"x".repeat(20_000))) {
            Ok(_) => confirmed += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    drop(store);
    let copy = dir.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    nix::mount::umount(&mount).unwrap();
    let store = FileStore::open(&copy).unwrap();
    assert_eq!(store.list("node/").unwrap().records.len(), confirmed);
}

#[test]
fn a_backup_restores_and_bad_ones_touch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("store"), dir.path().join("backup"));
    let store = FileStore::create(&path).unwrap();
    store.commit(put("node/1", "a").put("node/2", "b")).unwrap();
    let files = vec![("cluster.key".to_owned(), b"secret".to_vec())];
    let backup = Backup::of_store(&store, "lab".to_owned(), files).unwrap();
    save_backup(&file, &backup.to_bytes()).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(Backup::load(&file).unwrap(), backup);
    store.commit(put("node/3", "c")).unwrap();

    assert!(matches!(
        restore_records(&path, backup.records.clone(), true),
        Err(RestoreError::Store(StoreError::InUse(_)))
    ));
    drop(store);
    assert!(matches!(restore_records(&path, backup.records.clone(), false), Err(RestoreError::NotEmpty(_))));
    restore_records(&path, backup.records.clone(), true).unwrap();
    let store = FileStore::open(&path).unwrap();
    assert_eq!(store.list("").unwrap().records.len(), 2);

    let text = backup.to_bytes();
    for cut in [0, 1, 40, text.len() / 2, text.len() - 1] {
        assert!(Backup::from_bytes(&text[..cut]).is_err(), "{cut}");
    }
    for at in 0..text.len() {
        let mut altered = text.clone();
        altered[at] ^= 1;
        assert!(Backup::from_bytes(&altered).is_err(), "byte {at} altered");
    }
    let newer = String::from_utf8(text).unwrap().replace("\"version\":1", "\"version\":9");
    assert!(matches!(Backup::from_bytes(newer.as_bytes()), Err(BackupError::NewerFormat { found: 9, .. })));
}
