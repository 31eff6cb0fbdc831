//! What to do next: what shall be against what is there, instance by instance. Pure: time is an argument.
//!
//! ```text
//!             download_from            RUNNING                 not RUNNING
//!   nothing --Create--> new --Download--> stopped --Start--> running --Stop--> stopped --Upload--> uploaded
//!                                                                       ABSENT: --Remove--> nothing
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::spec::{Desired, InstanceId, Spec};

/// One instance as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The spec that is recorded with it: the last one that was taken over.
    pub spec: Spec,
    /// It is on the disk. Not so when making it failed, or has not been done yet.
    pub created: bool,
    /// The spec that it was last started with.
    pub started_with: Option<Spec>,
    /// Whether it runs.
    pub running: bool,
    /// What is being done to it now.
    pub busy: Option<Action>,
    /// The transfer that its volume was last uploaded to.
    pub uploaded_to: Option<String>,
    /// Its volume came, or need not come, from a transfer.
    pub has_volume: bool,
    /// What went wrong last.
    pub failure: Option<Failed>,
}

/// A failed step, and when it may be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What kind of failure.
    pub class: FailureClass,
    /// How often in a row.
    pub attempts: u32,
    /// When, by the caller's clock.
    pub at: Duration,
    /// The spec that it happened with.
    pub spec: Spec,
    /// A sentence.
    pub detail: String,
}

/// What becomes of a failed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// Something that comes by itself is not there yet: the bridge, the controller or the other end of a transfer.
    /// Every second, then every 10 s after a minute.
    Waiting,
    /// It may work next time: the command ended, the disk was full, an image was not there. After
    /// 1 s, doubled each time up to a minute.
    Transient,
    /// It cannot work with this spec: a command that is not there, a bad value. Only a changed spec helps.
    Permanent,
}

impl Failed {
    /// How long after the failure the step is tried again; `None`: not with this spec.
    pub fn delay(&self) -> Option<Duration> {
        match self.class {
            FailureClass::Waiting if self.attempts <= WAITING_ATTEMPTS => Some(Duration::from_secs(1)),
            FailureClass::Waiting => Some(Duration::from_secs(10)),
            FailureClass::Transient => {
                Some(Duration::from_secs(1 << self.attempts.saturating_sub(1).min(6)).min(LONGEST_DELAY))
            }
            FailureClass::Permanent => None,
        }
    }

    /// The wait is within its bounds: no failure to report yet.
    pub fn is_waiting(&self) -> bool {
        self.class == FailureClass::Waiting && self.attempts <= WAITING_ATTEMPTS
    }

    fn holds_back(&self, spec: &Spec, now: Duration) -> bool {
        self.spec == *spec && self.delay().is_none_or(|delay| now < self.at + delay)
    }
}

/// One step for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make it, with an empty volume or one of its image, by the spec.
    Create,
    /// Record a newer spec of what is there.
    Record,
    /// Take its volume from this transfer.
    Download(String),
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Send its volume to this transfer.
    Upload(String),
    /// Break off the transfer that is under way.
    Cancel,
    /// Remove it with its volume.
    Remove,
}

/// The next step of each instance that needs one. At most one an instance: what follows is decided when it is done.
/// Instances that are there and not named are left alone.
pub fn reconcile(
    desired: &BTreeMap<InstanceId, Spec>,
    observed: &BTreeMap<InstanceId, Observed>,
    now: Duration,
) -> Vec<(InstanceId, Action)> {
    let step = |(id, spec): (&InstanceId, &Spec)| {
        let action = match observed.get(id) {
            None => missing(spec),
            Some(there) if there.spec.generation > spec.generation => None,
            Some(there) => next(spec, there, now),
        };
        Some((id.clone(), action?))
    };
    desired.iter().filter_map(step).collect()
}

fn missing(spec: &Spec) -> Option<Action> {
    (spec.desired != Desired::Absent).then_some(Action::Create)
}

fn next(spec: &Spec, there: &Observed, now: Duration) -> Option<Action> {
    if let Some(busy) = &there.busy {
        let wanted = match busy {
            Action::Upload(transfer) => {
                spec.desired == Desired::Stopped && spec.upload_to.as_ref() == Some(transfer)
            }
            Action::Download(transfer) => {
                spec.desired != Desired::Absent && spec.download_from.as_ref() == Some(transfer)
            }
            _ => true,
        };
        return (!wanted).then_some(Action::Cancel);
    }
    if there.created && there.spec != *spec {
        return Some(Action::Record);
    }
    let step = if there.created { wanted_step(spec, there)? } else { missing(spec)? };
    let held = there.failure.as_ref().is_some_and(|failure| failure.holds_back(spec, now));
    (!held).then_some(step)
}

fn wanted_step(spec: &Spec, there: &Observed) -> Option<Action> {
    let changed = || there.started_with.as_ref().is_some_and(|started| !started.runs_like(spec));
    match (spec.desired, there.running) {
        (Desired::Running, true) => changed().then_some(Action::Stop),
        (_, true) => Some(Action::Stop),
        (Desired::Absent, false) => Some(Action::Remove),
        (_, false) => match (&spec.download_from, &spec.upload_to) {
            (Some(transfer), _) if !there.has_volume => Some(Action::Download(transfer.clone())),
            _ if spec.desired == Desired::Running => Some(Action::Start),
            (_, Some(transfer)) if there.uploaded_to.as_ref() != Some(transfer) => {
                Some(Action::Upload(transfer.clone()))
            }
            _ => None,
        },
    }
}

/// What comes by itself may be late by so many seconds before its absence is a failure.
const WAITING_ATTEMPTS: u32 = 60;
const LONGEST_DELAY: Duration = Duration::from_secs(60);
