//! One attempt at a session.

use std::path::Path;
use std::time::Duration;

use controller_api::node::node_service_client::NodeServiceClient;
use controller_api::node::switch_message::Message as ToController;
use controller_api::node::{ControllerToSwitch, RegisterSwitch, SwitchMessage};
use node_session::client::{self, ConnectError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::key::{PrivateKey, PublicKey};

/// Both directions of an open session.
pub(super) struct Opened {
    pub(super) to_controller: mpsc::Sender<SwitchMessage>,
    pub(super) from_controller: Streaming<ControllerToSwitch>,
}

/// Why there is no session, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The controller takes the key for nobody's.
    #[error("the controller does not know this node's key: {0}")]
    Refused(String),
    /// The stream broke.
    #[error("the session broke: {0}")]
    Broken(String),
    /// The controller took the connection and said nothing.
    #[error("the controller did not answer the registration")]
    Slow,
}

impl From<Status> for DialError {
    fn from(status: Status) -> DialError {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => DialError::Refused(status.message().to_owned()),
            code => DialError::Broken(format!("{} ({code:?})", status.message())),
        }
    }
}

/// Dials, and says who this is.
pub(super) async fn dial(
    addresses: Vec<String>,
    key: PrivateKey,
    controller: PublicKey,
    register: RegisterSwitch,
) -> Result<Opened, DialError> {
    let channel = client::connect(&addresses, &key, controller).await?;
    let (to_controller, outbox) = mpsc::channel(OUTBOX);
    let register = SwitchMessage { message: Some(ToController::Register(register)) };
    to_controller.try_send(register).expect("a new channel has room");
    let mut client = NodeServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let answer = client.switch_session(ReceiverStream::new(outbox));
    let answer = tokio::time::timeout(ANSWER, answer).await.map_err(|_| DialError::Slow)??;
    Ok(Opened { to_controller, from_controller: answer.into_inner() })
}

/// A hash of the machine's id: two of them with one key are a clone.
pub(super) fn machine() -> String {
    let id = std::fs::read(Path::new("/etc/machine-id")).unwrap_or_default();
    let hash = node_session::token::secret_hash(&[b"switchd machine ", id.as_slice()].concat());
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Messages that may wait for a slow controller; a session with more is given up.
const OUTBOX: usize = 256;
/// For a report of all stations, or a part of a snapshot.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
const ANSWER: Duration = Duration::from_secs(5);
