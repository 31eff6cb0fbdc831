//! One instance in the engine: its record, what is seen of it and done to it, and how that is reported.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use controller_api::node as wire;
use controller_api::node::instance_status::State;
use tokio::task::JoinHandle;

use super::{Action, Failed, Failure, FailureClass, InstanceId, Observed, Record, Sight};
use crate::spec::Desired;
use crate::transfer::Progress;

pub(super) struct Live {
    pub(super) record: Record,
    /// It is on the disk.
    pub(super) created: bool,
    pub(super) busy: Option<(Action, JoinHandle<()>)>,
    pub(super) failure: Option<Failed>,
    pub(super) progress: Progress,
    /// Of the step that was begun last.
    pub(super) number: u64,
    sight: Sight,
    /// Since when it has been seen running, while nobody stopped it.
    running_since: Option<Duration>,
    /// How often in a row it ended soon after its start.
    exits: u32,
}

impl Live {
    pub(super) fn new(record: Record, created: bool) -> Live {
        Live {
            record,
            created,
            busy: None,
            failure: None,
            progress: Progress::default(),
            number: 0,
            sight: Sight::Stopped(None),
            running_since: None,
            exits: 0,
        }
    }

    pub(super) fn observed(&self) -> Observed {
        Observed {
            spec: self.record.spec.clone(),
            created: self.created,
            started_with: self.record.started_with.clone(),
            running: matches!(self.sight, Sight::Running(_)),
            busy: self.busy.as_ref().map(|(action, _)| action.clone()),
            uploaded_to: self.record.uploaded_to.clone(),
            has_volume: self.record.has_volume,
            failure: self.failure.clone(),
        }
    }

    /// Takes in what the driver sees; an end that nobody asked for is a failure.
    pub(super) fn saw(&mut self, sight: Sight, now: Duration) {
        self.sight = sight;
        if self.busy.is_some() {
            return;
        }
        match &self.sight {
            Sight::Running(_) => {
                self.running_since.get_or_insert(now);
            }
            Sight::Stopped(why) => {
                let Some(since) = self.running_since.take() else { return };
                if self.record.spec.desired != Desired::Running {
                    return;
                }
                self.exits = if now.saturating_sub(since) >= LASTED { 1 } else { self.exits + 1 };
                self.failure = Some(Failed {
                    class: FailureClass::Transient,
                    attempts: self.exits,
                    at: now,
                    spec: self.record.spec.clone(),
                    detail: why.clone().unwrap_or_else(|| "it ended without a word".to_owned()),
                });
            }
        }
    }

    /// A new step: its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.number += 1;
        self.progress = Arc::default();
        self.number
    }

    pub(super) fn cancel(&mut self) {
        if let Some((_, task)) = self.busy.take() {
            task.abort();
        }
        // What it still says is another step's word.
        self.number += 1;
    }

    pub(super) fn failed(&mut self, failure: Failure, now: Duration) {
        let before = self.failure.as_ref().filter(|f| f.class == failure.class && f.spec == self.record.spec);
        self.failure = Some(Failed {
            class: failure.class,
            attempts: before.map_or(0, |failed| failed.attempts) + 1,
            at: now,
            spec: self.record.spec.clone(),
            detail: failure.detail,
        });
    }

    pub(super) fn succeeded(&mut self, action: &Action, now: Duration) {
        match action {
            Action::Create => self.created = true,
            Action::Start => self.running_since = Some(now),
            Action::Stop => (self.running_since, self.exits) = (None, 0),
            _ => {}
        }
    }

    pub(super) fn status(&self, id: &InstanceId, now: Duration) -> wire::InstanceStatus {
        let (state, detail) = self.state(now);
        let spec = &self.record.spec;
        let uploaded = self.record.uploaded_to.is_some() && self.record.uploaded_to == spec.upload_to;
        let mut status = wire::InstanceStatus {
            id: id.to_string(),
            generation: spec.generation,
            state: state.into(),
            detail,
            uploaded,
            progress_percent: self.progress.load(Ordering::Relaxed),
            ..Default::default()
        };
        if let Sight::Running(running) = &self.sight {
            status.cpu_usec = running.usage.cpu_usec;
            status.memory_bytes = running.usage.memory_bytes;
            status.cores_milli_limit = running.limits.cores_milli;
            status.memory_bytes_limit = running.limits.memory_bytes;
            status.runtime.clone_from(&running.runtime);
        }
        status
    }

    fn state(&self, now: Duration) -> (State, String) {
        match self.busy.as_ref().map(|(action, _)| action) {
            Some(Action::Create) => return (State::Starting, "being made".to_owned()),
            Some(Action::Download(_)) => return (State::Starting, "its volume comes".to_owned()),
            // A wait goes on while it is tried again: its reason stays.
            Some(Action::Start) => match self.failure.as_ref().filter(|failure| failure.is_waiting()) {
                Some(failure) => return (State::Starting, failure.detail.clone()),
                None => return (State::Starting, "starting".to_owned()),
            },
            Some(Action::Stop) => return (State::Stopping, "stopping".to_owned()),
            Some(Action::Remove) => return (State::Stopping, "being removed".to_owned()),
            Some(Action::Upload(_)) => return (State::Stopped, "its volume goes".to_owned()),
            Some(Action::Record | Action::Cancel) | None => {}
        }
        // What failed by an earlier spec says nothing of this one, which may be fulfilled as it is.
        if let Some(failure) = self.failure.as_ref().filter(|failure| failure.spec == self.record.spec) {
            if failure.is_waiting() {
                let sends = self.record.spec.upload_to.is_some();
                return (if sends { State::Stopped } else { State::Starting }, failure.detail.clone());
            }
            let again = failure.delay().map(|delay| {
                let left = (failure.at + delay).saturating_sub(now).as_secs() + 1;
                format!("; tried again in {left} s")
            });
            return (State::Failed, format!("{}{}", failure.detail, again.unwrap_or_default()));
        }
        match &self.sight {
            Sight::Running(seen) => (State::Running, seen.detail.clone()),
            // Between two tries. The controller takes "stopped" for the word that the volume has come, and the source's
            // goes.
            _ if self.created && !self.record.has_volume && self.record.spec.download_from.is_some() => {
                (State::Starting, "its volume has not come yet".to_owned())
            }
            Sight::Stopped(Some(why))
                if self.running_since.is_none() && self.record.started_with.is_some() =>
            {
                (State::Stopped, why.clone())
            }
            _ if !self.created => (State::Starting, "to be made".to_owned()),
            _ => (State::Stopped, String::new()),
        }
    }
}

/// An instance that ran so long had started well: its next end is the first again.
const LASTED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DriverKind, Spec};

    fn live(desired: Desired, download_from: Option<&str>) -> Live {
        let spec = Spec {
            id: InstanceId::parse("inst-1").unwrap(),
            name: "one".into(),
            generation: 7,
            desired,
            driver: DriverKind::Container,
            cores_milli: 0,
            memory_bytes: 0,
            disk_bytes: 0,
            image: None,
            command: Vec::new(),
            environment: Default::default(),
            nics: Vec::new(),
            upload_to: None,
            download_from: download_from.map(str::to_owned),
        };
        let has_volume = spec.download_from.is_none();
        Live::new(Record { spec, started_with: None, uploaded_to: None, has_volume }, true)
    }

    #[test]
    fn it_is_not_stopped_before_its_volume_has_come() {
        let mut live = live(Desired::Stopped, Some("move-1"));
        assert_eq!(live.state(Duration::ZERO).0, State::Starting);
        live.cancel();
        assert_eq!(live.state(Duration::ZERO).0, State::Starting);
        live.record.has_volume = true;
        assert_eq!(live.state(Duration::ZERO).0, State::Stopped);
    }

    #[test]
    fn what_failed_while_it_should_run_is_no_failure_to_stop() {
        let mut live = live(Desired::Running, None);
        live.failed(Failure::transient("it ended"), Duration::ZERO);
        assert_eq!(live.state(Duration::ZERO).0, State::Failed);
        live.record.spec.desired = Desired::Stopped;
        assert_eq!(live.state(Duration::ZERO).0, State::Stopped);
    }
}
