//! A model of a node's agent: it does what it is told and says so.

use std::collections::{BTreeMap, VecDeque};

use controller_registry::*;

#[derive(Debug, Default)]
pub struct ModelAgent {
    pub session: Option<u64>,
    pub copies: BTreeMap<InstanceId, Copy>,
    pub inbox: VecDeque<Vec<DesiredInstance>>,
    pub outbox: VecDeque<(u64, bool, Vec<InstanceStatus>)>,
    pub history: Vec<Vec<InstanceStatus>>,
    /// Nothing starts here.
    pub broken: bool,
    made: u64,
}

#[derive(Debug, Clone)]
pub struct Copy {
    pub generation: Generation,
    pub state: InstanceState,
    /// Which volume it has: the same one after a move.
    pub volume: u64,
    pub upload_to: Option<String>,
    pub uploaded: bool,
    pub download_from: Option<String>,
}

impl ModelAgent {
    pub fn apply(&mut self, desired: &[DesiredInstance]) {
        let mut said = Vec::new();
        for spec in desired {
            if self.copies.get(&spec.id).is_some_and(|c| c.generation > spec.generation) {
                continue;
            }
            if spec.desired == DesiredState::Absent {
                self.copies.remove(&spec.id);
                said.push(status(spec.id, spec.generation, InstanceState::Absent, false));
                continue;
            }
            self.made += 1;
            let fresh = self.made * 1000 + spec.id.0;
            let newer = self.copies.get(&spec.id).is_none_or(|c| c.generation < spec.generation);
            let copy = self.copies.entry(spec.id).or_insert(Copy {
                generation: spec.generation,
                state: InstanceState::Stopped,
                volume: fresh,
                upload_to: None,
                uploaded: false,
                download_from: None,
            });
            copy.generation = spec.generation;
            let again = copy.download_from.is_some() && spec.download_from.is_some();
            if (newer || again) && spec.download_from.is_some() {
                copy.download_from.clone_from(&spec.download_from);
                copy.state = InstanceState::Starting;
                copy.uploaded = false;
            } else if copy.download_from.is_none() || spec.download_from.is_none() {
                copy.download_from = None;
                copy.state = match (spec.desired, self.broken) {
                    (DesiredState::Running, true) => InstanceState::Failed,
                    (DesiredState::Running, false) => InstanceState::Running,
                    _ => InstanceState::Stopped,
                };
            }
            if copy.upload_to != spec.upload_to {
                copy.upload_to.clone_from(&spec.upload_to);
                copy.uploaded = false;
            }
            said.push(status(spec.id, copy.generation, copy.state, copy.uploaded));
        }
        self.say(false, said);
    }

    pub fn take_volume(&mut self, id: InstanceId, transfer: &str, volume: u64) -> bool {
        let Some(copy) = self.copies.get_mut(&id).filter(|c| c.download_from.as_deref() == Some(transfer))
        else {
            return false;
        };
        copy.volume = volume;
        copy.download_from = None;
        copy.state = InstanceState::Stopped;
        let said = status(id, copy.generation, copy.state, false);
        self.say(false, vec![said]);
        true
    }

    pub fn sent(&mut self, id: InstanceId) {
        if let Some(copy) = self.copies.get_mut(&id) {
            copy.uploaded = true;
            let said = status(id, copy.generation, copy.state, true);
            self.say(false, vec![said]);
        }
    }

    pub fn say_all(&mut self) {
        self.say(true, self.statuses());
    }

    pub fn statuses(&self) -> Vec<InstanceStatus> {
        self.copies.iter().map(|(id, c)| status(*id, c.generation, c.state, c.uploaded)).collect()
    }

    fn say(&mut self, full: bool, statuses: Vec<InstanceStatus>) {
        if let Some(session) = self.session {
            self.outbox.push_back((session, full, statuses));
        }
    }
}

pub fn status(
    id: InstanceId,
    generation: Generation,
    state: InstanceState,
    uploaded: bool,
) -> InstanceStatus {
    InstanceStatus { id, generation, state, uploaded, ..InstanceStatus::default() }
}
