//! The command line's end of the admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{AdminAnswer, AdminRequest};

/// A connection to a running controller.
#[derive(Debug)]
pub struct AdminClient {
    stream: UnixStream,
    path: PathBuf,
}

impl AdminClient {
    /// `None` if no controller listens there.
    pub fn connect(path: &Path) -> Result<Option<AdminClient>, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Some(AdminClient { stream, path: path.to_owned() })),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(source) => Err(ClientError::Io { path: path.to_owned(), source }),
        }
    }

    /// Asks, and takes the answer with what follows it.
    pub fn ask(self, request: &AdminRequest) -> Result<(AdminAnswer, Vec<u8>), ClientError> {
        let at = |source| ClientError::Io { path: self.path.clone(), source };
        let mut text = serde_json::to_vec(request).expect("a request is always JSON");
        text.push(b'\n');
        (&self.stream).write_all(&text).map_err(at)?;
        let mut reader = BufReader::new(&self.stream);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(at)?;
        let answer: AdminAnswer = serde_json::from_str(&line).map_err(|_| ClientError::NoAnswer)?;
        if !answer.error.is_empty() {
            return Err(ClientError::Refused(answer.error));
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(at)?;
        if bytes.len() as u64 != answer.backup_bytes {
            return Err(ClientError::NoAnswer);
        }
        Ok((answer, bytes))
    }
}

/// Why the controller did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("could not talk to the controller at {path} (are you in its group?)", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended in the middle.
    #[error("the controller did not answer to the end: see its log")]
    NoAnswer,
    /// It refused.
    #[error("{0}")]
    Refused(String),
}
