//! Volumes there and back.

use std::collections::VecDeque;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

use super::*;

fn sent(volume: &Volume) -> VecDeque<Chunk> {
    let mut chunks = VecDeque::new();
    let bytes = send(volume, |chunk| {
        chunks.push_back(chunk);
        true
    });
    assert_eq!(bytes.unwrap(), chunks.iter().map(|chunk| chunk.data.len() as u64).sum::<u64>());
    chunks
}

#[test]
fn a_directory_comes_back_with_owners_modes_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/big"), vec![7; CHUNK * 2 + 13]).unwrap();
    fs::write(from.join("a/locked"), "x").unwrap();
    fs::set_permissions(from.join("a/locked"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/passwd", from.join("a/link")).unwrap();
    fs::hard_link(from.join("a/locked"), from.join("hard")).unwrap();
    fs::create_dir(from.join("sealed")).unwrap();
    fs::write(from.join("sealed/inside"), "y").unwrap();
    fs::set_permissions(from.join("sealed"), fs::Permissions::from_mode(0o500)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let root = nix::unistd::geteuid().is_root();
    if root {
        chown(from.join("a/b"), Some(1234), Some(4321)).unwrap();
        lchown(from.join("a/link"), Some(1234), Some(4321)).unwrap();
    }
    // What was there before is replaced.
    fs::create_dir(&to).unwrap();
    fs::write(to.join("old"), "old").unwrap();

    let mut chunks = sent(&Volume::Directory(from));
    assert!(chunks.len() > 3 && chunks[0].total > (CHUNK * 2) as u64);
    receive(&Volume::Directory(to.clone()), || chunks.pop_front()).unwrap();
    assert_eq!(fs::read(to.join("a/b/big")).unwrap(), vec![7; CHUNK * 2 + 13]);
    assert_eq!(fs::read_link(to.join("a/link")).unwrap(), Path::new("/etc/passwd"));
    let locked = fs::metadata(to.join("a/locked")).unwrap();
    assert_eq!(locked.permissions().mode() & 0o777, 0o711);
    assert_eq!(fs::metadata(to.join("sealed")).unwrap().mode() & 0o7777, 0o500);
    assert_eq!(fs::read(to.join("hard")).unwrap(), b"x");
    assert!(!to.join("old").exists() && !to.join("socket").exists());
    if root {
        assert_eq!(fs::metadata(to.join("a/b")).unwrap().uid(), 1234);
        assert_eq!(fs::symlink_metadata(to.join("a/link")).unwrap().gid(), 4321);
    }
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside them: {names:?}");
}

#[test]
fn a_file_comes_back_as_it_was_and_none_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let content: Vec<u8> = (0..CHUNK * 3 + 1).map(|n| (n % 251) as u8).collect();
    fs::write(&from, &content).unwrap();
    let mut chunks = sent(&Volume::File(from.clone()));
    receive(&Volume::File(to.clone()), || chunks.pop_front()).unwrap();
    assert_eq!(fs::read(&to).unwrap(), content);
    fs::remove_file(&from).unwrap();
    fs::remove_file(&to).unwrap();
    let mut chunks = sent(&Volume::File(from));
    receive(&Volume::File(to.clone()), || chunks.pop_front()).unwrap();
    assert!(!to.exists());
}

#[test]
fn what_breaks_off_or_is_damaged_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), vec![1; CHUNK * 3]).unwrap();
    let whole = sent(&Volume::Directory(from.clone()));
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("old"), "old").unwrap();
    for length in 0..whole.len() {
        let mut chunks: VecDeque<_> = whole.iter().take(length).cloned().collect();
        let error = receive(&Volume::Directory(to.clone()), || chunks.pop_front()).unwrap_err();
        assert!(matches!(error, VolumeError::Broken), "{length}: {error:?}");
    }
    let mut damaged = whole.clone();
    damaged[1].data[5] ^= 1;
    let error = receive(&Volume::Directory(to.clone()), || damaged.pop_front()).unwrap_err();
    assert!(matches!(error, VolumeError::Digest), "{error:?}");
    assert_eq!(fs::read(to.join("old")).unwrap(), b"old");
    assert!(!dir.path().join("to.part").exists());

    let error = send(&Volume::Directory(from), |_| false).unwrap_err();
    assert!(matches!(error, VolumeError::Broken), "{error:?}");
}

#[test]
fn an_archive_cannot_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let (outside, to) = (dir.path().join("outside"), dir.path().join("to"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&to).unwrap();
    let mut tar = Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "way", &outside).unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(1);
    tar.append_data(&mut file, "way/out", &b"!"[..]).unwrap();
    unpack(&tar.into_inner().unwrap()[..], &to).unwrap_err();
    assert!(!outside.join("out").exists());
}
