//! One session's order of messages: registration first, heartbeats both ways, an end after silence. Pure.
//!
//! ```text
//!  opened --Registered--> live --Goodbye | three silent intervals | out of order--> over
//!     '----Goodbye | nothing for REGISTRATION----------------------------------------^
//! ```

use std::time::{Duration, Instant};

use controller_api::node::controller_to_switch::Message as FromController;
use controller_api::node::switch_message::Message as ToController;
use controller_api::node::{self as wire, Heartbeat};

/// The state of one session.
#[derive(Debug)]
pub(super) struct Conversation {
    live: Option<Duration>,
    last_heard: Instant,
    next_heartbeat: Option<Instant>,
    sequence: u64,
}

/// What a message means for the caller.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Event {
    /// The session is live.
    Registered(wire::Registered),
    /// To be sent, in answer.
    Answer(ToController),
    /// State.
    Update(wire::StateUpdate),
    /// Another node's word.
    Signal(wire::Signal),
    /// Claims that were refused.
    Refused(wire::BindingAnswer),
    /// What became of the new key.
    KeyRotated(wire::KeyRotated),
    /// STUN and TURN servers, in place of those before.
    Relays(wire::RelayServers),
    /// The controller's last word.
    Goodbye(wire::Goodbye),
    /// Nothing to do: it was a sign of life.
    Alive,
}

/// Why a session ended from this side.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Ended {
    /// Nothing came for too long.
    #[error("the controller was silent for {} ms", .0.as_millis())]
    Silent(Duration),
    /// The other end broke the order of messages.
    #[error("the controller broke the protocol: {0}")]
    Protocol(&'static str),
}

impl Conversation {
    /// Opened at `now`, when the registration was sent.
    pub(super) fn new(now: Instant) -> Conversation {
        Conversation { live: None, last_heard: now, next_heartbeat: None, sequence: 0 }
    }

    /// Registered, and not yet over.
    pub(super) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// When the controller was last heard.
    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Takes what the controller sent.
    pub(super) fn handle(&mut self, message: wire::ControllerToSwitch, now: Instant) -> Result<Event, Ended> {
        self.last_heard = now;
        match (message.message, self.live) {
            (Some(FromController::Goodbye(goodbye)), _) => Ok(Event::Goodbye(goodbye)),
            (Some(FromController::Registered(registered)), None) => {
                let interval = Duration::from_millis(registered.heartbeat_ms.into()).clamp(FASTEST, SLOWEST);
                self.live = Some(interval);
                self.next_heartbeat = Some(now + interval);
                Ok(Event::Registered(registered))
            }
            (_, None) => Err(Ended::Protocol("it spoke before it registered this node")),
            (Some(FromController::Registered(_)), Some(_)) => {
                Err(Ended::Protocol("it registered this node twice"))
            }
            (Some(FromController::Heartbeat(Heartbeat { sequence, answer: false })), _) => {
                Ok(Event::Answer(ToController::Heartbeat(Heartbeat { sequence, answer: true })))
            }
            (Some(FromController::Update(update)), _) => Ok(Event::Update(update)),
            (Some(FromController::Signal(signal)), _) => Ok(Event::Signal(signal)),
            (Some(FromController::Bindings(answer)), _) => Ok(Event::Refused(answer)),
            (Some(FromController::KeyRotated(rotated)), _) => Ok(Event::KeyRotated(rotated)),
            (Some(FromController::Relays(relays)), _) => Ok(Event::Relays(relays)),
            // A newer controller's words are left alone.
            (Some(FromController::Heartbeat(_)) | None, _) => Ok(Event::Alive),
        }
    }

    /// Takes the time: the heartbeat that is due, or the end.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<Option<ToController>, Ended> {
        let patience = self.live.map_or(REGISTRATION, |interval| interval * SILENT_INTERVALS);
        if now >= self.last_heard + patience {
            return Err(Ended::Silent(patience));
        }
        match (self.live, self.next_heartbeat) {
            (Some(interval), Some(due)) if now >= due => {
                self.next_heartbeat = Some(now + interval);
                self.sequence += 1;
                Ok(Some(ToController::Heartbeat(Heartbeat { sequence: self.sequence, answer: false })))
            }
            _ => Ok(None),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub(super) fn poll_timeout(&self) -> Instant {
        let patience = self.live.map_or(REGISTRATION, |interval| interval * SILENT_INTERVALS);
        let end = self.last_heard + patience;
        self.next_heartbeat.map_or(end, |heartbeat| heartbeat.min(end))
    }
}

const SILENT_INTERVALS: u32 = 3;
/// For the answer to the registration.
const REGISTRATION: Duration = Duration::from_secs(5);
/// Bounds of the controller's wish.
const FASTEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
