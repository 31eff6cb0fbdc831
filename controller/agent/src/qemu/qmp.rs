//! QMP, as far as it is needed: JSON lines over QEMU's UNIX socket (QEMU's docs/interop/qmp-spec).

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// A connection that has negotiated its capabilities. QEMU serves one at a time.
pub struct Qmp {
    lines: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Qmp {
    /// Connects to the socket.
    pub async fn connect(socket: &Path) -> Result<Qmp, QmpError> {
        let stream = limited(UnixStream::connect(socket)).await?;
        let (from, to) = stream.into_split();
        let mut qmp = Qmp { lines: BufReader::new(from).lines(), to };
        let greeting = qmp.message().await?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Protocol("no greeting".to_owned()));
        }
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// `running`, `paused`, `shutdown` and so on.
    pub async fn status(&mut self) -> Result<String, QmpError> {
        let status = self.execute("query-status").await?;
        match status.get("status").and_then(Value::as_str) {
            Some(word) => Ok(word.to_owned()),
            None => Err(QmpError::Protocol("query-status without a status".to_owned())),
        }
    }

    /// Presses the guest's power button.
    pub async fn powerdown(&mut self) -> Result<(), QmpError> {
        self.execute("system_powerdown").await.map(drop)
    }

    /// Holds the guest's CPUs.
    pub async fn stop(&mut self) -> Result<(), QmpError> {
        self.execute("stop").await.map(drop)
    }

    /// Lets the guest's CPUs go on.
    pub async fn cont(&mut self) -> Result<(), QmpError> {
        self.execute("cont").await.map(drop)
    }

    /// Ends QEMU, its disks written.
    pub async fn quit(&mut self) -> Result<(), QmpError> {
        self.execute("quit").await.map(drop)
    }

    async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        limited(self.to.write_all(line.as_bytes())).await?;
        loop {
            let mut message = self.message().await?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let detail = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
                return Err(QmpError::Refused { command: command.to_owned(), detail: detail.to_owned() });
            }
            // Anything else is an event, told to whoever is connected.
        }
    }

    async fn message(&mut self) -> Result<Value, QmpError> {
        let line = limited(self.lines.next_line()).await?.ok_or(QmpError::Closed)?;
        serde_json::from_str(&line).map_err(|error| QmpError::Protocol(error.to_string()))
    }
}

/// Why QEMU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket.
    #[error("QEMU's control socket fails: {0}")]
    Io(#[from] std::io::Error),
    /// No answer.
    #[error("QEMU does not answer within {LIMIT:?}")]
    Slow,
    /// It hung up.
    #[error("QEMU closed its control socket")]
    Closed,
    /// Not QMP.
    #[error("QEMU's control socket does not speak QMP ({0})")]
    Protocol(String),
    /// An error for a command.
    #[error("QEMU refuses {command}: {detail}")]
    Refused {
        /// The command.
        command: String,
        /// Its word.
        detail: String,
    },
}

async fn limited<T>(future: impl Future<Output = std::io::Result<T>>) -> Result<T, QmpError> {
    timeout(LIMIT, future).await.map_err(|_| QmpError::Slow)?.map_err(QmpError::Io)
}

const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn events_between_a_command_and_its_answer_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (from, mut to) = stream.into_split();
            let mut lines = BufReader::new(from).lines();
            to.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            for answer in [
                "{\"return\": {}}\n",
                "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n",
            ] {
                lines.next_line().await.unwrap().unwrap();
                to.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut qmp = Qmp::connect(&path).await.unwrap();
        assert_eq!(qmp.status().await.unwrap(), "running");
        assert_eq!(qmp.powerdown().await.unwrap_err().to_string(), "QEMU refuses system_powerdown: not now");
        server.await.unwrap();
        assert!(matches!(qmp.status().await.unwrap_err(), QmpError::Closed | QmpError::Io(_)));
    }
}
