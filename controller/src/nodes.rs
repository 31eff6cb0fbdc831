//! The controller's side of node sessions: gRPC over the TLS of `node-session`.

mod agent;
mod convert;
mod counters;
mod enrol;
mod limits;
mod mailbox;
mod observed;
mod outbox;
mod relays;
mod served;
mod session;
mod sessions;
mod shared;
mod state;
mod switch;
#[cfg(test)]
mod tests;
mod volumes;

use std::pin::Pin;
use std::sync::Arc;

use controller_api::node::{self as proto, node_service_server::NodeService};
use controller_registry::{CloseReason, Effect, KeyStatus, NodeId, PublicKey};
use node_session::key::PrivateKey;
use node_session::server::ConnectInfo;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::config::Limits;
use crate::engine::Engine;
use crate::relay::Announcer;
pub use counters::NodeCounters;
pub use observed::{NodeReports, Observed};
use outbox::Closing;
use proto::goodbye::Reason;
use sessions::Sessions;
use volumes::Volumes;

/// Serves all nodes. Cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    limits: Limits,
    enrolments: limits::PerAddress,
    pushes: shared::Shared,
    switches: Sessions<served::ToSwitch>,
    agents: Sessions<proto::ControllerToAgent>,
    volumes: Volumes,
    relays: Arc<Announcer>,
    observed: Arc<Observed>,
    counters: Arc<NodeCounters>,
}

impl Nodes {
    /// Nothing is served yet, and no relay announced.
    pub fn new(engine: Engine, limits: Limits) -> Nodes {
        Nodes::with_relays(engine, limits, Arc::new(Announcer::none()))
    }

    /// Tells switches of these relays.
    pub fn with_relays(engine: Engine, limits: Limits, relays: Arc<Announcer>) -> Nodes {
        let counters = Arc::new(NodeCounters::default());
        Nodes {
            shared: Arc::new(Shared {
                engine,
                limits,
                enrolments: limits::PerAddress::new(limits.enrolments_per_minute),
                pushes: shared::Shared::default(),
                switches: Sessions::default(),
                agents: Sessions::default(),
                volumes: Volumes::new(counters.clone()),
                relays,
                observed: Arc::default(),
                counters,
            }),
        }
    }

    /// Serves on a bound listener until `stop` completes; then each session gets a Goodbye.
    pub async fn serve(
        &self,
        listener: TcpListener,
        key: &PrivateKey,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let tls = node_session::tls::server_config(key)?;
        let limits = node_session::server::Limits {
            connections: self.shared.limits.connections,
            ..node_session::server::Limits::default()
        };
        let engine = self.shared.engine.clone();
        let known = move |key: &node_session::key::PublicKey| engine.is_member_key(&PublicKey(key.0));
        let incoming = node_session::server::incoming(listener, tls, limits, known);
        let (close, on_close) = tokio::sync::oneshot::channel::<()>();
        let server = node_session::server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(served::Served::new(self.clone()))
            .serve_with_incoming_shutdown(incoming, async { drop(on_close.await) });
        tokio::pin!(server);
        tokio::select! {
            result = &mut server => return Ok(result?),
            () = stop => {}
        }
        let goodbye = Closing::Goodbye(Reason::Stopping, "the controller stops; come again".to_owned());
        self.shared.switches.close_all(&goodbye);
        self.shared.agents.close_all(&goodbye);
        drop(close);
        match tokio::time::timeout(STOP_TIMEOUT, server).await {
            Ok(result) => Ok(result?),
            // Somebody does not read; the process ends without them.
            Err(_) => Ok(()),
        }
    }

    /// Does an effect of the registry, if it is about nodes' sessions.
    pub fn carry_out(&self, effect: &Effect) {
        match effect {
            Effect::CloseSession { node, session, reason } => {
                let closing = match reason {
                    CloseReason::Removed => removed(*node),
                    CloseReason::Superseded => Closing::Goodbye(
                        Reason::Superseded,
                        "a newer session of this node took over".to_owned(),
                    ),
                };
                self.shared.switches.close(*node, *session, &closing);
                self.shared.agents.close(*node, *session, &closing);
            }
            Effect::RevokeKeys { node, keys } => {
                let closing = match self.shared.engine.is_member(*node) {
                    true => Closing::Goodbye(Reason::Superseded, replaced_text(*node)),
                    false => removed(*node),
                };
                self.shared.switches.close_keys(*node, keys, &closing);
                self.shared.agents.close_keys(*node, keys, &closing);
                self.shared.volumes.end_of_keys(keys);
            }
            Effect::EndTransfer { transfer } => self.shared.volumes.end(transfer),
            Effect::CreateNode { .. } | Effect::DestroyNode { .. } => {}
        }
    }

    /// The session of a switch.
    async fn open_switch_session(
        &self,
        request: Request<Streaming<proto::SwitchMessage>>,
    ) -> Result<Response<Outgoing<served::ToSwitch>>, Status> {
        let caller = caller(&request)?;
        let (out, stream) = tokio::sync::mpsc::channel(OUT_MESSAGES);
        match self.shared.standing(&caller.key).await {
            Standing::Node(node) => {
                tokio::spawn(switch::run(self.shared.clone(), node, caller, request.into_inner(), out));
            }
            Standing::Removed(node) => refuse_removed(&self.shared, node, &out),
            Standing::Replaced(node) => return Err(refuse_replaced(&self.shared, node)),
            Standing::Unknown => return Err(refuse_unknown(&self.shared)),
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    /// What switches reported of links and networks.
    pub fn observed(&self) -> &Arc<Observed> {
        &self.shared.observed
    }

    /// What is counted here.
    pub fn counters(&self) -> &Arc<NodeCounters> {
        &self.shared.counters
    }

    /// Live sessions: of switches and of agents.
    pub fn sessions(&self) -> (usize, usize) {
        (self.shared.switches.len(), self.shared.agents.len())
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nodes")
    }
}

/// Why nodes are not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The cluster's key is not usable.
    #[error("the cluster's key cannot be used for TLS: restore it from a backup")]
    Key(#[from] rustls::Error),
    /// The server failed.
    #[error("the server for nodes failed")]
    Server(#[from] tonic::transport::Error),
}

/// Who a call comes from.
#[derive(Clone, Copy, Debug)]
struct Caller {
    key: PublicKey,
    remote: std::net::SocketAddr,
}

/// A key that may have a session, or the reason why it may not.
enum Standing {
    Node(NodeId),
    /// The node is gone.
    Removed(NodeId),
    /// The node has another key now.
    Replaced(NodeId),
    Unknown,
}

impl Shared {
    async fn standing(&self, key: &PublicKey) -> Standing {
        match self.engine.read(|registry| registry.key_status(key)).await {
            KeyStatus::Node(node) => Standing::Node(node),
            KeyStatus::Revoked(node) if self.engine.is_member(node) => Standing::Replaced(node),
            KeyStatus::Revoked(node) => Standing::Removed(node),
            KeyStatus::Unknown => Standing::Unknown,
        }
    }

    /// For calls that are no session: only a node may make them.
    async fn node_of(&self, key: &PublicKey) -> Result<NodeId, Status> {
        match self.standing(key).await {
            Standing::Node(node) => Ok(node),
            Standing::Removed(node) => Err(Status::permission_denied(removed_text(node))),
            Standing::Replaced(node) => Err(Status::permission_denied(replaced_text(node))),
            Standing::Unknown => Err(unknown()),
        }
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let info = request.extensions().get::<ConnectInfo>().copied();
    let info = info.ok_or_else(|| Status::unauthenticated("the connection proved no key"))?;
    Ok(Caller { key: PublicKey(info.key.0), remote: info.remote })
}

fn unknown() -> Status {
    Status::unauthenticated(
        "this key is no node's: ask for a token with `skippy node add`, then switchd join TOKEN",
    )
}

fn removed(node: NodeId) -> Closing {
    Closing::Goodbye(Reason::Removed, removed_text(node))
}

fn removed_text(node: NodeId) -> String {
    format!(
        "{node} was removed: to come back, it forgets its key (switchd leave --key) and joins again with a new token"
    )
}

fn replaced_text(node: NodeId) -> String {
    format!(
        "{node} has another key now: come with that one; if this machine is a copy, join it as a node of its own"
    )
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Nodes {
    type SwitchSessionStream = Outgoing<proto::ControllerToSwitch>;
    type AgentSessionStream = Outgoing<proto::ControllerToAgent>;
    type DownloadVolumeStream = Outgoing<proto::VolumeChunk>;

    async fn enrol(
        &self,
        request: Request<proto::EnrolRequest>,
    ) -> Result<Response<proto::EnrolResponse>, Status> {
        let caller = caller(&request)?;
        enrol::enrol(&self.shared, caller, request.into_inner()).await.map(Response::new)
    }

    /// The module `served` serves this path, so that sessions can share what they send.
    async fn switch_session(
        &self,
        _: Request<Streaming<proto::SwitchMessage>>,
    ) -> Result<Response<Self::SwitchSessionStream>, Status> {
        Err(Status::unimplemented("the sessions of switches are served elsewhere"))
    }

    async fn agent_session(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::AgentSessionStream>, Status> {
        let caller = caller(&request)?;
        let (out, stream) = tokio::sync::mpsc::channel(OUT_MESSAGES);
        match self.shared.standing(&caller.key).await {
            Standing::Node(node) => {
                tokio::spawn(agent::run(self.shared.clone(), node, caller, request.into_inner(), out));
            }
            Standing::Removed(node) => refuse_removed(&self.shared, node, &out),
            Standing::Replaced(node) => return Err(refuse_replaced(&self.shared, node)),
            Standing::Unknown => return Err(refuse_unknown(&self.shared)),
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn upload_volume(
        &self,
        request: Request<Streaming<proto::VolumeChunk>>,
    ) -> Result<Response<proto::VolumeReceipt>, Status> {
        let caller = caller(&request)?;
        let node = self.shared.node_of(&caller.key).await?;
        let transfer =
            request.metadata().get("transfer").and_then(|text| text.to_str().ok()).map(str::to_owned);
        let transfer =
            transfer.ok_or_else(|| Status::invalid_argument("the metadata \"transfer\" is missing"))?;
        volumes::check(&self.shared, node, &transfer, true).await?;
        let receipt = self.shared.volumes.upload(&transfer, caller.key, request.into_inner()).await?;
        Ok(Response::new(receipt))
    }

    async fn download_volume(
        &self,
        request: Request<proto::DownloadVolumeRequest>,
    ) -> Result<Response<Self::DownloadVolumeStream>, Status> {
        let caller = caller(&request)?;
        let node = self.shared.node_of(&caller.key).await?;
        let transfer = request.into_inner().transfer;
        volumes::check(&self.shared, node, &transfer, false).await?;
        let stream = self.shared.volumes.download(&transfer, caller.key);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// The node is told by a Goodbye, as in a session that stands, so that it stops for good.
fn refuse_removed<M: outbox::Outgoing>(
    shared: &Shared,
    node: NodeId,
    out: &tokio::sync::mpsc::Sender<Result<M, Status>>,
) {
    shared.counters.refused_revoked.add(1);
    // The channel is new: there is room.
    let _ = out.try_send(Ok(M::goodbye(Reason::Removed, removed_text(node))));
}

fn refuse_replaced(shared: &Shared, node: NodeId) -> Status {
    shared.counters.refused_revoked.add(1);
    Status::permission_denied(replaced_text(node))
}

fn refuse_unknown(shared: &Shared) -> Status {
    shared.counters.refused_unknown.add(1);
    unknown()
}

/// Messages that wait for a node's TCP window; state is made for a free place only, so it is always the newest.
const OUT_MESSAGES: usize = 4;
/// The largest message, either way. A full report of 16,000 stations has about 1 MiB.
const MAX_MESSAGE: usize = 2 << 20;
/// HTTP/2 windows: large enough for a volume's bandwidth, small enough for many sessions.
const WINDOW: u32 = 1 << 20;
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
