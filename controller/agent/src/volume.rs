//! Volumes as streams of bytes, and streams of bytes as chunks with a SHA-256 at the end. Blocking; whatever carries
//! the chunks is the caller's.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use tar::{Builder, EntryType, HeaderMode};

use crate::driver::Volume;

/// A piece of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes.
    pub data: Vec<u8>,
    /// Of the whole, about; with the first chunk.
    pub total: u64,
    /// SHA-256 of everything; with the last chunk, otherwise empty.
    pub digest: Vec<u8>,
}

/// Why a volume did not go or come.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The disk of this node.
    #[error("cannot {step}{}", if io_full(.source) { ": the disk is full; free space on the node's state directory" } else { "" })]
    Io {
        /// What was done.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The other side, or the way to it, went away.
    #[error("the transfer broke off before its end")]
    Broken,
    /// What came is not what was sent.
    #[error("the volume came damaged: its SHA-256 is another; it is taken again")]
    Digest,
    /// The archive names something outside of itself.
    #[error("the volume's archive has an entry that leads out of it: {0}")]
    Escape(String),
}

fn io_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn step<T>(step: &'static str, result: io::Result<T>) -> Result<T, VolumeError> {
    result.map_err(|source| {
        // A reader of chunks says by these kinds what its io::Error cannot carry.
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => VolumeError::Broken,
            _ => VolumeError::Io { step, source },
        }
    })
}

/// Sends the volume. `sink` takes each chunk and answers whether more is wanted. Gives the bytes sent.
pub fn send(volume: &Volume, sink: impl FnMut(Chunk) -> bool) -> Result<u64, VolumeError> {
    let total = match volume {
        Volume::Directory(dir) => size_of_tree(dir),
        Volume::File(file) => fs::metadata(file).map_or(0, |meta| meta.len()),
    };
    let mut writer = ChunkWriter::new(sink, total);
    match volume {
        Volume::Directory(dir) => step("read the volume", pack(dir, &mut writer))?,
        Volume::File(path) => match File::open(path) {
            Ok(mut file) => drop(step("read the volume", io::copy(&mut file, &mut writer))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(VolumeError::Io { step: "read the volume", source }),
        },
    }
    writer.finish()
}

/// Takes a volume in the place of what is there, which stays until all has come and is right. `source` gives the
/// chunks, `None` when there are no more. Gives the bytes taken.
pub fn receive(volume: &Volume, source: impl FnMut() -> Option<Chunk>) -> Result<u64, VolumeError> {
    let mut reader = ChunkReader::new(source);
    let (target, part) = match volume {
        Volume::Directory(path) | Volume::File(path) => (path, beside(path, "part")),
    };
    // An earlier one that was broken off may still be clearing its part away.
    let home = step("write the volume", File::open(target.parent().unwrap_or(Path::new("/"))))?;
    step("write the volume", home.lock())?;
    step("clear an earlier part", remove_any(&part))?;
    let result = receive_part(volume, &part, &mut reader);
    if result.is_err() {
        remove_any(&part).ok();
        return result;
    }
    let old = beside(target, "old");
    step("put the volume in place", remove_any(&old))?;
    let swap = || {
        if target.exists() {
            fs::rename(target, &old)?;
        }
        if part.exists() {
            fs::rename(&part, target)?;
        }
        if let Some(dir) = target.parent() {
            File::open(dir)?.sync_all()?;
        }
        remove_any(&old)
    };
    step("put the volume in place", swap())?;
    result
}

fn receive_part<F: FnMut() -> Option<Chunk>>(
    volume: &Volume,
    part: &Path,
    reader: &mut ChunkReader<F>,
) -> Result<u64, VolumeError> {
    match volume {
        Volume::Directory(_) => {
            step("write the volume", fs::create_dir(part))?;
            unpack(&mut *reader, part)?;
            // Past the archive's end: the rest of its padding and the digest.
            step("write the volume", io::copy(reader, &mut io::sink()))?;
            // Once it is said to be here, the only other copy goes.
            let whole = File::open(part).and_then(|dir| nix::unistd::syncfs(dir).map_err(io::Error::from));
            step("write the volume", whole)?;
        }
        Volume::File(_) => {
            let mut file = BufWriter::new(step("write the volume", File::create(part))?);
            step("write the volume", io::copy(reader, &mut file))?;
            let file = file.into_inner().map_err(io::IntoInnerError::into_error);
            step("write the volume", file.and_then(|file| file.sync_all()))?;
        }
    }
    let bytes = reader.finish()?;
    if bytes == 0 && matches!(volume, Volume::File(_)) {
        // A guest without a disk.
        step("write the volume", fs::remove_file(part))?;
    }
    Ok(bytes)
}

/// Writes the directory as a tar archive: files, directories, links; owners, modes, times. What else there is (sockets,
/// devices) means nothing elsewhere and stays behind.
pub fn pack(dir: &Path, to: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(BufWriter::with_capacity(64 << 10, to));
    tar.mode(HeaderMode::Complete);
    tar.follow_symlinks(false);
    tar.append_dir("./", dir)?;
    pack_into(&mut tar, dir, Path::new(""))?;
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn pack_into<W: Write>(tar: &mut Builder<W>, dir: &Path, inner: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(dir.join(inner))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), inner.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_file() || kind.is_symlink() {
            tar.append_path_with_name(&path, &name)?;
        } else if kind.is_dir() {
            tar.append_dir(&name, &path)?;
            pack_into(tar, dir, &name)?;
        }
    }
    Ok(())
}

/// Unpacks an archive of [`pack`] into an empty directory.
pub fn unpack(from: impl Read, dir: &Path) -> Result<(), VolumeError> {
    let what = "write the volume";
    let mut tar = tar::Archive::new(BufReader::with_capacity(64 << 10, from));
    tar.set_preserve_permissions(true);
    tar.set_preserve_ownerships(true);
    tar.set_preserve_mtime(true);
    // A directory's mode and time come last: what is in it would change them, or not fit.
    let mut directories = Vec::new();
    for entry in step(what, tar.entries())? {
        let mut entry = step(what, entry)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => directories.push(entry),
            EntryType::Regular | EntryType::Symlink | EntryType::Link | EntryType::Continuous => {
                unpack_one(&mut entry, dir)?;
            }
            _ => {}
        }
    }
    for mut entry in directories.into_iter().rev() {
        unpack_one(&mut entry, dir)?;
    }
    Ok(())
}

fn unpack_one<R: Read>(entry: &mut tar::Entry<'_, R>, dir: &Path) -> Result<(), VolumeError> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    if step("write the volume", entry.unpack_in(dir))? { Ok(()) } else { Err(VolumeError::Escape(name)) }
}

/// Cuts what is written into chunks.
struct ChunkWriter<F> {
    sink: F,
    buffer: Vec<u8>,
    digest: digest::Context,
    total: u64,
    sent: u64,
}

impl<F: FnMut(Chunk) -> bool> ChunkWriter<F> {
    fn new(sink: F, total: u64) -> ChunkWriter<F> {
        let digest = digest::Context::new(&digest::SHA256);
        ChunkWriter { sink, buffer: Vec::with_capacity(CHUNK), digest, total, sent: 0 }
    }

    fn finish(mut self) -> Result<u64, VolumeError> {
        step("send the volume", self.emit())?;
        let digest = self.digest.finish().as_ref().to_vec();
        let last = Chunk { data: Vec::new(), total: if self.sent == 0 { self.total } else { 0 }, digest };
        if (self.sink)(last) { Ok(self.sent) } else { Err(VolumeError::Broken) }
    }

    fn emit(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.digest.update(&data);
        let total = if self.sent == 0 { self.total } else { 0 };
        self.sent += data.len() as u64;
        let more = (self.sink)(Chunk { data, total, digest: Vec::new() });
        if more { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl<F: FnMut(Chunk) -> bool> Write for ChunkWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.emit()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Chunks as one stream, which ends only if the digest came and is right.
struct ChunkReader<F> {
    source: F,
    chunk: Vec<u8>,
    position: usize,
    digest: Option<digest::Context>,
    verdict: Option<bool>,
    taken: u64,
}

impl<F: FnMut() -> Option<Chunk>> ChunkReader<F> {
    fn new(source: F) -> ChunkReader<F> {
        let digest = Some(digest::Context::new(&digest::SHA256));
        ChunkReader { source, chunk: Vec::new(), position: 0, digest, verdict: None, taken: 0 }
    }

    fn finish(&self) -> Result<u64, VolumeError> {
        match self.verdict {
            Some(true) => Ok(self.taken),
            Some(false) => Err(VolumeError::Digest),
            None => Err(VolumeError::Broken),
        }
    }
}

impl<F: FnMut() -> Option<Chunk>> Read for ChunkReader<F> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.position == self.chunk.len() {
            if self.verdict.is_some() {
                return Ok(0);
            }
            let chunk = (self.source)().ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Some(digest) = &mut self.digest {
                digest.update(&chunk.data);
            }
            self.taken += chunk.data.len() as u64;
            if !chunk.digest.is_empty() {
                let own = self.digest.take().map(digest::Context::finish);
                self.verdict = Some(own.is_some_and(|own| own.as_ref() == chunk.digest));
            }
            (self.chunk, self.position) = (chunk.data, 0);
        }
        let length = to.len().min(self.chunk.len() - self.position);
        to[..length].copy_from_slice(&self.chunk[self.position..self.position + length]);
        self.position += length;
        Ok(length)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// About what the archive will have: contents and a header each.
fn size_of_tree(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => 512 + size_of_tree(&entry.path()),
        Ok(meta) => 512 + meta.len().next_multiple_of(512),
        Err(_) => 0,
    };
    1536 + entries.flatten().map(one).sum::<u64>()
}

/// Well under gRPC's bound of 4 MiB a message.
const CHUNK: usize = 256 << 10;

#[cfg(test)]
mod tests;
