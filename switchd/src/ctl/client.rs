//! The client's end of the admin socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::admin::protocol::{Answer, Request};

/// A connection.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    line: String,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Result<Client, CtlError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CtlError::NotRunning(path.to_owned()),
            io::ErrorKind::ConnectionRefused => CtlError::Dead(path.to_owned()),
            io::ErrorKind::PermissionDenied => CtlError::Permission(path.to_owned()),
            _ => CtlError::Connection(source),
        })?;
        Ok(Client { stream: BufReader::new(stream), line: String::new() })
    }

    /// Asks once and reads the one answer, or the first of a stream.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, CtlError> {
        let mut line = serde_json::to_vec(request).map_err(|error| CtlError::Connection(error.into()))?;
        line.push(b'\n');
        let socket = self.stream.get_mut();
        socket.set_read_timeout(Some(ANSWER)).map_err(CtlError::Connection)?;
        // A refused client is told why before it could ask: read that even if writing fails.
        let written = socket.write_all(&line);
        let answer = self.read()?;
        match answer {
            Some(answer) => Ok(answer),
            None => Err(CtlError::Connection(
                written.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            )),
        }
    }

    /// The next answer of a stream, however long it takes; `None` at its end.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CtlError> {
        self.stream.get_mut().set_read_timeout(None).map_err(CtlError::Connection)?;
        self.read()
    }

    /// Another answer is here already.
    pub(crate) fn has_buffered(&self) -> bool {
        self.stream.buffer().contains(&b'\n')
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CtlError> {
        self.line.clear();
        let read = self.stream.read_line(&mut self.line).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CtlError::Silent,
            _ => CtlError::Connection(source),
        })?;
        if read == 0 {
            return Ok(None);
        }
        match serde_json::from_str(&self.line) {
            Ok(Answer::Ok(value)) => Ok(Some(value)),
            Ok(Answer::Error(message)) => Err(CtlError::Refused(message)),
            Err(error) => Err(CtlError::Protocol(error)),
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error(
        "switchd is not running: there is no socket {path}; start it (switchd run, or systemctl start switchd), or name its socket: --socket PATH",
        path = .0.display()
    )]
    NotRunning(PathBuf),
    #[error(
        "switchd is not running: nobody listens on {path}; start it: switchd run, or systemctl start switchd",
        path = .0.display()
    )]
    Dead(PathBuf),
    #[error(
        "no permission for {path}: use sudo, or join the socket's group: sudo usermod -aG switchd $USER, then log in again",
        path = .0.display()
    )]
    Permission(PathBuf),
    #[error("the connection with switchd failed: {0}")]
    Connection(io::Error),
    #[error("switchd did not answer within 15 s: see its log (journalctl -u switchd)")]
    Silent,
    #[error("{0}")]
    Refused(String),
    #[error("switchd's answer was not understood ({0}): are switchctl and switchd of one version?")]
    Protocol(serde_json::Error),
    #[error("could not write the output: {0}")]
    Output(io::Error),
    #[error("{0}")]
    Usage(String),
}

impl CtlError {
    /// As `--help` says.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CtlError::Refused(_) | CtlError::Protocol(_) | CtlError::Output(_) => 1,
            CtlError::Usage(_) => 2,
            CtlError::NotRunning(_)
            | CtlError::Dead(_)
            | CtlError::Permission(_)
            | CtlError::Connection(_)
            | CtlError::Silent => 3,
        }
    }
}

/// Longer than the daemon waits for its worker.
const ANSWER: Duration = Duration::from_secs(15);
