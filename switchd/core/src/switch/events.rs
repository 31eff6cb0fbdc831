//! What the switch tells the shell, beside verdicts.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::binding::{BindingKey, Place};
use crate::ids::Generation;
use crate::time::Time;

/// Something worth a log line or a word to the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A station, or a further IP of it, was learned.
    BindingLearned {
        /// The station.
        key: BindingKey,
        /// The IP; `None` when only the MAC is new.
        ip: Option<IpAddr>,
        /// Where it lives.
        at: Place,
    },
    /// A station changed its place.
    BindingMoved {
        /// The station.
        key: BindingKey,
        /// Where it lived.
        from: Place,
        /// Where it lives.
        to: Place,
        /// The newest that the controller gave it, 0 if none.
        generation: Generation,
    },
    /// An IP changed its station.
    IpMoved {
        /// The IP.
        ip: IpAddr,
        /// Whose it was.
        from: BindingKey,
        /// Whose it is.
        to: BindingKey,
    },
    /// A station was forgotten by age.
    BindingExpired {
        /// The station.
        key: BindingKey,
    },
    /// The endpoint's own frame came back from the bridge. At most one a second.
    Loop {
        /// The frame's source.
        key: BindingKey,
    },
    /// A station moves too often and is held where it is: a loop, or two instances with one MAC.
    Flapping {
        /// The station.
        key: BindingKey,
        /// Where it is held.
        at: Place,
    },
    /// A source contradicted a controller's binding. At most one a second.
    Spoof {
        /// The frame's source.
        key: BindingKey,
        /// The IP that it claimed, if that was the matter.
        ip: Option<IpAddr>,
        /// Where the frame came from.
        from: Place,
    },
    /// A local frame from a MAC that the controller binds elsewhere. At most one a second.
    BoundElsewhere {
        /// The frame's source.
        key: BindingKey,
        /// Where the frame came from.
        from: Place,
        /// Where the controller binds it.
        bound: Place,
    },
    /// A station of this bridge was learned, is gone or has other IPs, as [`super::Switch::local_station`] says
    /// now; or it was announced to be here and is not. A controller's are not meant. They wait in a queue of
    /// their own.
    LocalChanged {
        /// The station.
        key: BindingKey,
    },
    /// The MAC or the IP table was full: it evicted or refused an entry. At most one a second.
    TableFull,
}

/// A bounded queue of events; those that one bad guest can repeat at will are limited to one a second.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Event>,
    last: [Option<Time>; 4],
}

impl Events {
    /// `false` if the queue is full and the event lost.
    pub(super) fn push(&mut self, event: Event, now: Time) -> bool {
        let limited = match event {
            Event::Loop { .. } => Some(0),
            Event::Spoof { .. } => Some(1),
            Event::BoundElsewhere { .. } => Some(2),
            Event::TableFull => Some(3),
            _ => None,
        };
        if let Some(kind) = limited {
            if self.last[kind].is_some_and(|last| now.since(last) < REPEAT) {
                return true;
            }
            self.last[kind] = Some(now);
        }
        let room = self.queue.len() < MAX_EVENTS;
        if room {
            self.queue.push_back(event);
        }
        room
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}

const MAX_EVENTS: usize = 1024;
const REPEAT: Duration = Duration::from_secs(1);
