//! Which stations of this bridge changed: learned, gone, or with other IPs. What the shell announces follows it.

use std::collections::VecDeque;

use super::{Active, BindingKey, StationIndex, Tables};

/// A bounded queue of stations, each in it once.
#[derive(Debug, Default)]
pub(super) struct LocalChanges {
    queue: VecDeque<BindingKey>,
    overflow: bool,
}

impl Tables {
    /// The next station that changed.
    pub(in crate::switch) fn pop_change(&mut self) -> Option<BindingKey> {
        let key = self.changes.queue.pop_front()?;
        if let Some(i) = self.find(&key) {
            self.station_mut(i).noted = false;
        }
        Some(key)
    }

    /// Whether a change was lost since the last call.
    pub(in crate::switch) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.changes.overflow)
    }

    /// Notes that a station changed, if it is one that the shell announces.
    pub(in crate::switch) fn note_change(&mut self, i: StationIndex) {
        if self.station(i).active.is_some_and(Active::is_ours) {
            self.push_change(i);
        }
    }

    /// Notes that a station became one that the shell announces, is no longer one, or must be withdrawn.
    pub(in crate::switch) fn push_change(&mut self, i: StationIndex) {
        let station = self.stations.get_mut(i.0).expect("the caller's index is a live station's");
        if station.noted {
            return;
        }
        if self.changes.queue.len() >= MAX_CHANGES {
            self.changes.overflow = true;
            return;
        }
        station.noted = true;
        self.changes.queue.push_back(station.key);
    }

    /// The same for a station that is not in the table.
    pub(in crate::switch) fn push_change_of(&mut self, key: BindingKey) {
        match self.find(&key) {
            Some(i) => self.push_change(i),
            None if self.changes.queue.len() >= MAX_CHANGES => self.changes.overflow = true,
            None => self.changes.queue.push_back(key),
        }
    }
}

const MAX_CHANGES: usize = 1024;
