//! Files that are whole or not there.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes or replaces the file, mode 0600: after a crash it holds either what it held or `content`. Its directory
/// must be there; the file gets that one's owner if root writes it, so that a service can read what `sudo` made.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    // Left by a crash of a process that had the same number.
    remove(&temporary)?;
    let written = write_new(&temporary, directory, content).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_directory(directory)
}

/// Removes the file for good; one that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves a file over another one of the same directory, for good.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_directory(directory_of(to))
}

/// Gives a file that root made to the owner of its directory.
pub fn hand_over(file: &File, directory: &Path) -> io::Result<()> {
    let (owner, own) = (std::fs::metadata(directory)?, file.metadata()?);
    if own.uid() == 0 && owner.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Writes a new file, mode 0600, with its directory's owner if root writes it.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    write_new(path, directory, content)?;
    sync_directory(directory)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_new(path: &Path, directory: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // The umask can only take bits away, but a default ACL can add some.
    file.set_permissions(Permissions::from_mode(0o600))?;
    hand_over(&file, directory)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A rename is lasting only once its directory is.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_replaced_whole_and_leave_nothing_else_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        write_private(&path, b"first and longer").unwrap();
        write_private(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(write_private(&dir.path().join("missing/node.json"), b"").is_err());
    }
}
