//! The image directory: root file systems and disks by name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Step};

/// The directory of images, and where archives are unpacked.
#[derive(Clone, Debug)]
pub struct Images {
    /// Where images are looked for.
    pub dir: PathBuf,
    /// Where a tar image is unpacked, once.
    pub unpacked: PathBuf,
}

impl Images {
    /// The directory with the root file system `name`: `<name>/`, or `<name>` or `<name>.tar` unpacked. Blocks.
    pub fn root(&self, name: &str) -> Result<PathBuf, Failure> {
        let plain = self.dir.join(name);
        if plain.is_dir() {
            return Ok(plain);
        }
        let archive = [plain, self.dir.join(format!("{name}.tar"))].into_iter().find(|path| path.is_file());
        let archive = archive.ok_or_else(|| self.missing(name))?;
        self.unpack(name, &archive)
    }

    /// The image `name` as it lies there: a disk, or a directory with a kernel.
    pub fn disk(&self, name: &str) -> Result<PathBuf, Failure> {
        let found = ["", ".qcow2", ".img", ".raw"]
            .iter()
            .map(|suffix| self.dir.join(format!("{name}{suffix}")))
            .find(|path| path.exists());
        found.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Failure {
        Failure::transient(format!("there is no image '{name}' in {}: put it there", self.dir.display()))
    }

    fn unpack(&self, name: &str, archive: &Path) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(archive).step(format!("look at {}", archive.display()))?;
        // A new archive under the old name is another image.
        let target = self.unpacked.join(format!("{name}-{:x}-{:x}", meta.mtime(), meta.len()));
        if target.is_dir() {
            return Ok(target);
        }
        let step = || format!("unpack {}", archive.display());
        fs::create_dir_all(&self.unpacked).step(step())?;
        let file = File::open(archive).step(step())?;
        let temporary = tempdir_in(&self.unpacked, name).step(step())?;
        let mut tar = tar::Archive::new(std::io::BufReader::new(file));
        tar.set_preserve_permissions(true);
        tar.set_preserve_ownerships(true);
        let done = tar.unpack(&temporary).and_then(|()| fs::rename(&temporary, &target));
        if done.is_err() {
            fs::remove_dir_all(&temporary).ok();
            // Another instance of the same image may have been faster.
            if target.is_dir() {
                return Ok(target);
            }
        }
        done.step(step())?;
        Ok(target)
    }
}

fn tempdir_in(dir: &Path, name: &str) -> std::io::Result<PathBuf> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".{name}-{}-{number}", std::process::id()));
    fs::create_dir(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images { dir: dir.path().join("images"), unpacked: dir.path().join("unpacked") };
        fs::create_dir(&images.dir).unwrap();
        assert!(images.root("small").unwrap_err().detail.contains("no image 'small'"));
        let mut tar = tar::Builder::new(File::create(images.dir.join("small.tar")).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o755);
        tar.append_data(&mut header, "bin/x", &b"hi"[..]).unwrap();
        tar.finish().unwrap();
        let root = images.root("small").unwrap();
        assert_eq!(fs::read(root.join("bin/x")).unwrap(), b"hi");
        assert_eq!(images.root("small").unwrap(), root);
    }
}
