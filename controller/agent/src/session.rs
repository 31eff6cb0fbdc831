//! The session with the controller: brings what shall be, takes what is. Comes back by itself; the instances do not
//! notice.

use std::path::Path;
use std::time::{Duration, Instant};

use controller_api::node as wire;
use controller_api::node::agent_message::Message as ToController;
use controller_api::node::controller_to_agent::Message as FromController;
use controller_api::node::goodbye::Reason;
use controller_api::node::node_service_client::NodeServiceClient;
use node_session::backoff::Backoff;
use node_session::client::{ConnectError, connect};
use node_session::joined::{Joined, JoinedError};
use node_session::key::{KeyError, PrivateKey};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::engine::Wanted;
use crate::failure::chain;

/// What a session needs.
pub struct Session<'a> {
    /// Where `node.json` is.
    pub node_state_dir: &'a Path,
    /// The node's private key.
    pub private_key: &'a Path,
    /// What the node offers.
    pub capacity: wire::Capacity,
    /// The drivers, by name.
    pub drivers: Vec<String>,
    /// Gets what shall be.
    pub wanted: mpsc::Sender<Wanted>,
    /// How the instances are.
    pub statuses: watch::Receiver<Vec<wire::InstanceStatus>>,
    /// Gets the channel, for transfers, while there is one.
    pub channel: watch::Sender<Option<Channel>>,
}

/// Why there is no session, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No `node.json` yet.
    #[error("this node has not joined a controller yet: switchd join TOKEN")]
    NotJoined,
    /// It left, or was made to.
    #[error("the controller removed this node ({0})")]
    Removed(String),
    /// `node.json` cannot be read.
    #[error(transparent)]
    Joined(#[from] JoinedError),
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No controller at any address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The controller refused, or the connection broke.
    #[error("the controller ended the session: {0}")]
    Refused(String),
    /// The controller said goodbye.
    #[error("the controller said goodbye: {0}")]
    Goodbye(String),
    /// Three heartbeats without a word.
    #[error("the controller has been silent for {0:?}")]
    Silent(Duration),
    /// Something else than the protocol has.
    #[error("the controller broke the protocol: {0}; are agent and controller of the same version?")]
    Protocol(&'static str),
}

impl Session<'_> {
    /// Has one session after another until the engine is gone.
    pub async fn run(mut self) {
        let boot = node_session::random();
        let mut backoff = Backoff::new();
        let mut said = String::new();
        while !self.wanted.is_closed() {
            let mut up = None;
            let error = match self.once(boot, &mut up).await {
                Ok(()) => return,
                Err(error) => error,
            };
            self.channel.send_replace(None);
            // The time that dialling took is no session's.
            if let Some(since) = up {
                backoff.session_ended(Instant::now() - since);
            }
            let word = chain(&error);
            // The same reason again and again is said once.
            if word == said {
                tracing::debug!("{word}");
            } else {
                tracing::warn!("{word}; the instances run on");
            }
            said = word;
            let wait = match error {
                SessionError::NotJoined => JOINED_POLL,
                SessionError::Removed(_) => Backoff::MAX,
                _ => backoff.next(node_session::random()),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wanted.closed() => return,
            }
        }
    }

    /// One session; `up` gets the time when the controller took it.
    async fn once(&mut self, boot: u64, up: &mut Option<Instant>) -> Result<(), SessionError> {
        let joined = Joined::load(self.node_state_dir)?.ok_or(SessionError::NotJoined)?;
        if let Some(why) = joined.removed {
            return Err(SessionError::Removed(why));
        }
        // Read anew each time: keys rotate.
        let key = PrivateKey::load(self.private_key)?;
        let channel = connect(&joined.controller.addresses, &key, joined.controller.public_key).await?;
        drop(key);
        let mut client = NodeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
        let (to, outgoing) = mpsc::channel(QUEUE);
        let instances = self.statuses.borrow_and_update().clone();
        let register = wire::RegisterAgent {
            boot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(self.capacity.clone()),
            drivers: self.drivers.clone(),
            instances: instances.clone(),
        };
        send(&to, ToController::Register(register)).await?;
        let call = client.agent_session(ReceiverStream::new(outgoing));
        let called = tokio::time::timeout(ANSWER, call).await;
        let mut incoming = called.map_err(|_| SessionError::Silent(ANSWER))?.map_err(refused)?.into_inner();
        let first = tokio::time::timeout(ANSWER, incoming.message()).await;
        let first = first.map_err(|_| SessionError::Silent(ANSWER))?.map_err(refused)?;
        let registered = match first.and_then(|message| message.message) {
            Some(FromController::Registered(registered)) => registered,
            Some(FromController::Goodbye(goodbye)) => return Err(farewell(&goodbye)),
            _ => return Err(SessionError::Protocol("its first message is not Registered")),
        };
        tracing::info!(node = %registered.node_id, cluster = %registered.cluster, "the controller knows this node");
        self.channel.send_replace(Some(channel));
        *up = Some(Instant::now());
        let heartbeat = match registered.heartbeat_ms {
            0 => DEFAULT_HEARTBEAT,
            ms => Duration::from_millis(ms.into()).max(SHORTEST_HEARTBEAT),
        };
        self.talk(&to, &mut incoming, heartbeat, instances).await
    }

    async fn talk(
        &mut self,
        to: &mpsc::Sender<wire::AgentMessage>,
        incoming: &mut Streaming<wire::ControllerToAgent>,
        heartbeat: Duration,
        mut reported: Vec<wire::InstanceStatus>,
    ) -> Result<(), SessionError> {
        let mut beats = tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        let mut reports = tokio::time::interval_at(tokio::time::Instant::now() + REPORT, REPORT);
        let (mut sequence, mut heard) = (0, Instant::now());
        loop {
            tokio::select! {
                message = incoming.message() => {
                    heard = Instant::now();
                    let message = message.map_err(refused)?;
                    let message = message.ok_or_else(|| SessionError::Refused("it closed the stream".to_owned()))?;
                    match message.message {
                        Some(FromController::Desired(desired)) => {
                            tracing::debug!(revision = desired.revision, instances = desired.instances.len(), "desired");
                            if self.wanted.send(desired.into()).await.is_err() {
                                return Ok(());
                            }
                        }
                        Some(FromController::Heartbeat(beat)) if !beat.answer => {
                            send(to, ToController::Heartbeat(wire::Heartbeat { answer: true, ..beat })).await?;
                        }
                        Some(FromController::Goodbye(goodbye)) => return Err(farewell(&goodbye)),
                        Some(FromController::Heartbeat(_) | FromController::Registered(_)) | None => {}
                    }
                }
                changed = self.statuses.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = self.statuses.borrow_and_update().clone();
                    if differ(&reported, &now) {
                        reported.clone_from(&now);
                        send(to, report(now)).await?;
                    }
                }
                _ = reports.tick() => {
                    reported = self.statuses.borrow().clone();
                    send(to, report(reported.clone())).await?;
                }
                _ = beats.tick() => {
                    if heard.elapsed() > heartbeat * 3 {
                        return Err(SessionError::Silent(heartbeat * 3));
                    }
                    sequence += 1;
                    send(to, ToController::Heartbeat(wire::Heartbeat { sequence, answer: false })).await?;
                }
                () = self.wanted.closed() => return Ok(()),
            }
        }
    }
}

/// Whether a change is worth a report of its own: not what grows all the time.
fn differ(old: &[wire::InstanceStatus], new: &[wire::InstanceStatus]) -> bool {
    let lasting = |status: &wire::InstanceStatus| wire::InstanceStatus {
        cpu_usec: 0,
        memory_bytes: 0,
        // "tried again in 7 s" counts down.
        detail: status.detail.split("; tried again in").next().unwrap_or("").to_owned(),
        ..status.clone()
    };
    old.len() != new.len() || old.iter().zip(new).any(|(old, new)| lasting(old) != lasting(new))
}

fn report(instances: Vec<wire::InstanceStatus>) -> ToController {
    ToController::Instances(wire::InstanceReport { full: true, instances })
}

async fn send(to: &mpsc::Sender<wire::AgentMessage>, message: ToController) -> Result<(), SessionError> {
    let message = wire::AgentMessage { message: Some(message) };
    match tokio::time::timeout(ANSWER, to.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionError::Refused("the stream is closed".to_owned())),
        Err(_) => Err(SessionError::Silent(ANSWER)),
    }
}

fn farewell(goodbye: &wire::Goodbye) -> SessionError {
    match goodbye.reason() {
        Reason::Removed => SessionError::Removed(goodbye.detail.clone()),
        reason => SessionError::Goodbye(format!("{} {}", reason.as_str_name(), goodbye.detail)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn refused(status: tonic::Status) -> SessionError {
    SessionError::Refused(format!("{}: {}", status.code(), status.message()))
}

const QUEUE: usize = 64;
const ANSWER: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(10);
const JOINED_POLL: Duration = Duration::from_secs(2);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
/// Thousands of specs.
const LARGEST_MESSAGE: usize = 64 << 20;
