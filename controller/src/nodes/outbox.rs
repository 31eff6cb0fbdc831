//! The sending side of one session: what waits goes out as the node takes it, and an end goes before all of that.

use std::time::Duration;

use controller_api::node as proto;
use proto::goodbye::Reason;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// What both kinds of session send.
pub(super) trait Outgoing: Send + 'static {
    fn registered(registered: proto::Registered) -> Self;
    fn heartbeat(sequence: u64, answer: bool) -> Self;
    fn goodbye(reason: Reason, detail: String) -> Self;
}

impl Outgoing for proto::ControllerToAgent {
    fn registered(registered: proto::Registered) -> Self {
        proto::ControllerToAgent {
            message: Some(proto::controller_to_agent::Message::Registered(registered)),
        }
    }

    fn heartbeat(sequence: u64, answer: bool) -> Self {
        let heartbeat = proto::Heartbeat { sequence, answer };
        proto::ControllerToAgent { message: Some(proto::controller_to_agent::Message::Heartbeat(heartbeat)) }
    }

    fn goodbye(reason: Reason, detail: String) -> Self {
        let goodbye = proto::Goodbye { reason: reason.into(), detail };
        proto::ControllerToAgent { message: Some(proto::controller_to_agent::Message::Goodbye(goodbye)) }
    }
}

/// How a session ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Closing {
    /// The node is told why.
    Goodbye(Reason, String),
    /// The node is gone, or silent.
    Ended,
}

/// The way to the node.
pub(super) struct Outbox<M> {
    out: mpsc::Sender<Result<M, Status>>,
    closing: watch::Receiver<Option<Closing>>,
}

/// The session is to end: what is not sent yet stays unsent.
pub(super) struct Closed;

impl<M: Outgoing> Outbox<M> {
    pub(super) fn new(
        out: mpsc::Sender<Result<M, Status>>,
        closing: watch::Receiver<Option<Closing>>,
    ) -> Outbox<M> {
        Outbox { out, closing }
    }

    /// Waits until the node takes one more message.
    pub(super) async fn room(&mut self) -> Result<mpsc::Permit<'_, Result<M, Status>>, Closed> {
        let Outbox { out, closing } = self;
        tokio::select! {
            biased;
            _ = closing.wait_for(Option::is_some) => Err(Closed),
            permit = out.reserve() => permit.map_err(|_| Closed),
        }
    }

    pub(super) async fn send(&mut self, message: M) -> Result<(), Closed> {
        self.room().await.map(|permit| permit.send(Ok(message)))
    }

    /// Completes when the session is to end.
    pub(super) async fn closing(&mut self) -> Closing {
        match self.closing.wait_for(Option::is_some).await {
            Ok(closing) => closing.clone().unwrap_or(Closing::Ended),
            Err(_) => Closing::Ended,
        }
    }

    /// Says why, if there is something to say, and ends the stream. A node that does not read is not waited for.
    pub(super) async fn finish(mut self) {
        if let Closing::Goodbye(reason, detail) = self.closing().await {
            let goodbye = self.out.send(Ok(M::goodbye(reason, detail)));
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
        }
    }
}

const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
