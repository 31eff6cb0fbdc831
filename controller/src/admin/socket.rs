//! The listening socket: where it is, who may use it, and what a killed daemon left behind.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, chown};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

/// A bound admin socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Binds `path` with mode 0660 and the group. A socket that nobody listens on is replaced; a missing group is
    /// a warning, since root can always use the socket. Must run inside a tokio runtime.
    pub fn bind(path: &Path, group: &str) -> Result<AdminSocket, AdminError> {
        let error = |step| move |source| AdminError::Io { step, path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(error("create the directory of"))?;
        }
        refuse_occupied(path)?;
        // Bound under another name and renamed, so that it is never there with the wrong mode.
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let temporary = PathBuf::from(name);
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(error("bind"))?;
        let placed = give_to_group(&temporary, group)
            .and_then(|()| std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o660)))
            .and_then(|()| std::fs::metadata(&temporary))
            .and_then(|metadata| std::fs::rename(&temporary, path).map(|()| metadata.ino()));
        match placed {
            Ok(inode) => Ok(AdminSocket { listener, path: path.to_owned(), inode }),
            Err(source) => {
                let _ = std::fs::remove_file(&temporary);
                Err(error("set the mode of")(source))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Another daemon may have taken the path meanwhile; its socket stays.
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why the admin socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody answers there.
    #[error("another controller listens on {path}: stop it, or set admin.socket to another path", path = .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{path} is not a socket: move it away, or set admin.socket to another path", path = .0.display())]
    NotASocket(PathBuf),
    /// A step failed.
    #[error("could not {step} the admin socket {path}", path = path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn refuse_occupied(path: &Path) -> Result<(), AdminError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(AdminError::NotASocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(AdminError::InUse(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn give_to_group(path: &Path, group: &str) -> io::Result<()> {
    match Group::from_name(group) {
        Ok(Some(found)) => {
            if let Err(error) = chown(path, None, Some(found.gid)) {
                warn!(group, %error, "could not give the admin socket to its group: only this user can use it");
            }
        }
        _ => warn!(group, "no such group: only root can use it; mend: groupadd --system {group}"),
    }
    Ok(())
}
