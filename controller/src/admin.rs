//! The admin socket of a running controller: what its command line needs of it. Whoever may open the socket is an
//! administrator; its file's mode decides.
//!
//! One request a connection, a JSON object on a line. The answer is one too; a backup's bytes follow its line.

mod client;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use controller_registry::{Command, Outcome, Role, SecretHash};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::engine::Engine;
use crate::state_dir::StateDir;
use crate::store::{Backup, Store};
pub use client::{AdminClient, ClientError};
pub use socket::{AdminError, AdminSocket};

/// What is asked for.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// A backup of everything.
    Backup,
    /// A new token of the REST API, whose secret stays with the caller.
    CreateToken {
        /// Its name.
        name: String,
        /// `reader`, `operator` or `admin`.
        role: Role,
        /// The hash of its secret.
        secret_hash: SecretHash,
        /// How long it is good, in milliseconds.
        ttl_ms: Option<u64>,
    },
    /// All tokens of the REST API.
    ListTokens,
    /// The end of one.
    RevokeToken {
        /// Its id or name.
        token: String,
    },
}

/// What is answered.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminAnswer {
    /// Why it was not done; empty if it was.
    pub error: String,
    /// The token that was made.
    pub id: String,
    /// The tokens, without their secrets.
    pub tokens: Vec<TokenLine>,
    /// How many bytes of a backup follow.
    pub backup_bytes: u64,
}

/// A token of the REST API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenLine {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// What requests are carried out with.
pub struct Admin {
    /// The registry.
    pub engine: Engine,
    /// Its store.
    pub store: Arc<dyn Store>,
    /// The keys' files.
    pub state_dir: StateDir,
}

impl Admin {
    /// Serves the socket for ever.
    pub async fn serve(self: Arc<Self>, socket: AdminSocket) {
        loop {
            match socket.accept().await {
                Ok(stream) => {
                    let admin = self.clone();
                    tokio::spawn(async move {
                        match tokio::time::timeout(TIMEOUT, admin.attend(stream)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => {
                                tracing::debug!(%error, "a client of the admin socket went away");
                            }
                            Err(_) => {
                                tracing::debug!("a client of the admin socket was too slow");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept on the admin socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn attend(&self, stream: UnixStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = Vec::new();
        BufReader::new(read.take(MAX_REQUEST)).read_until(b'\n', &mut line).await?;
        let (answer, bytes) = match serde_json::from_slice(&line) {
            Ok(request) => self.carry_out(request).await,
            Err(_) => (error("the request is malformed: use the command line of this version"), Vec::new()),
        };
        let mut text = serde_json::to_vec(&answer).expect("an answer is always JSON");
        text.push(b'\n');
        write.write_all(&text).await?;
        write.write_all(&bytes).await?;
        write.shutdown().await
    }

    async fn carry_out(&self, request: AdminRequest) -> (AdminAnswer, Vec<u8>) {
        let answer = match request {
            AdminRequest::Backup => return self.backup().await,
            AdminRequest::ListTokens => {
                AdminAnswer { tokens: self.engine.read(tokens).await, ..AdminAnswer::default() }
            }
            AdminRequest::CreateToken { name, role, secret_hash, ttl_ms } => {
                let command = Command::CreateApiToken { name, role, secret_hash, ttl_ms };
                match self.engine.command(command).await {
                    Ok(Outcome::ApiToken(id)) => AdminAnswer { id: id.to_string(), ..AdminAnswer::default() },
                    Ok(_) => AdminAnswer::default(),
                    Err(refusal) => error(refusal.message),
                }
            }
            AdminRequest::RevokeToken { token } => {
                match self.engine.command(Command::DeleteApiToken { token }).await {
                    Ok(_) => AdminAnswer::default(),
                    Err(refusal) => error(refusal.message),
                }
            }
        };
        (answer, Vec::new())
    }

    async fn backup(&self) -> (AdminAnswer, Vec<u8>) {
        let (store, state_dir) = (self.store.clone(), self.state_dir.clone());
        let made = tokio::task::spawn_blocking(move || back_up(&*store, &state_dir)).await;
        match made {
            Ok(Ok(text)) => (AdminAnswer { backup_bytes: text.len() as u64, ..AdminAnswer::default() }, text),
            Ok(Err(problem)) => (error(format!("{problem:#}")), Vec::new()),
            Err(problem) => (error(format!("the backup failed: {problem}")), Vec::new()),
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

/// The text of a backup: the store at one moment, and the files beside it.
pub fn back_up(store: &dyn Store, state_dir: &StateDir) -> anyhow::Result<Vec<u8>> {
    let backup = Backup::of_store(store, state_dir.setup()?.cluster, state_dir.files()?)?;
    Ok(backup.to_bytes())
}

/// The tokens of a registry, for people.
pub fn tokens(registry: &controller_registry::Registry) -> Vec<TokenLine> {
    let line = |token: &controller_registry::ApiToken| TokenLine {
        id: token.id.to_string(),
        name: token.name.clone(),
        role: token.role,
        expires_ms: token.expires.map(|at| at.0),
    };
    registry.api_tokens().values().map(line).collect()
}

fn error(text: impl Into<String>) -> AdminAnswer {
    AdminAnswer { error: text.into(), ..AdminAnswer::default() }
}

const MAX_REQUEST: u64 = 64 << 10;
/// A backup of a large cluster to a slow disk.
const TIMEOUT: Duration = Duration::from_secs(300);
