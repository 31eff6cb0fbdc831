//! A log that keeps the newest part: a file and its predecessor, each up to half of the bound.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The log. Writes that fail, for a full disk, are lost and not an error: the instance goes on.
pub(crate) struct BoundedLog {
    path: PathBuf,
    file: Option<File>,
    length: u64,
    half: u64,
}

impl BoundedLog {
    /// Goes on with the log at `path`, of `bound` bytes in all.
    pub(crate) fn open(path: &Path, bound: u64) -> BoundedLog {
        let file = append(path).ok();
        let length = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        BoundedLog { path: path.to_owned(), file, length, half: (bound / 2).max(1) }
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.length >= self.half {
            fs::rename(&self.path, self.path.with_extension("log.1")).ok();
            self.file = append(&self.path).ok();
            self.length = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes).ok();
        }
        self.length += bytes.len() as u64;
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = BoundedLog::open(&path, 1000);
        for number in 0..1000 {
            log.write(format!("line {number:04}\n").as_bytes());
        }
        log = BoundedLog::open(&path, 1000);
        log.write(b"the last\n");
        let (new, old) = (fs::read(&path).unwrap(), fs::read(path.with_extension("log.1")).unwrap());
        assert!(new.len() + old.len() <= 1020);
        assert!(new.ends_with(b"line 0999\nthe last\n") || old.ends_with(b"line 0999\n"));
    }
}
