//! What agents say of instances.

use std::collections::BTreeSet;

use crate::{
    changes::EventKind,
    command::{InstanceState, InstanceStatus},
    ids::{InstanceId, NodeId},
    operations::stage_step,
    records::{DesiredState, Instance, OperationState, Phase, Stage},
    registry::Registry,
    restored::is_leftover,
};

/// Words of an agent that are kept.
const DETAIL_MAX: usize = 512;

impl Registry {
    pub(crate) fn take_report(&mut self, node: NodeId, full: bool, statuses: &[InstanceStatus]) {
        self.take_sightings(node, full, statuses);
        for status in statuses {
            self.take_status(node, status);
        }
        if full {
            self.find_lost(node, statuses);
        }
        self.take_strays(node, full, statuses);
    }

    fn take_status(&mut self, node: NodeId, status: &InstanceStatus) {
        // One that is not known, after a restore say, is the operator's.
        let Some(instance) = self.instances.get(&status.id).cloned() else { return };
        if instance.unconfirmed.is_some() && !is_leftover(&instance, node, status) {
            return;
        }
        let absent = status.state == InstanceState::Absent;
        if let Some(told) = instance.leftovers.get(&node).copied() {
            return self.take_leftover(instance, node, told, status);
        }
        let migration = instance.migration.clone().filter(|m| m.from == node || m.to == node);
        match migration {
            Some(m) if node == m.from && m.stage > Stage::Prepare => self.take_source(instance, status),
            Some(m) if node == m.to && m.stage == Stage::Transfer => self.take_destination(instance, status),
            _ if node == instance.node => self.take_home(instance, status),
            Some(m) if node == m.to && m.stage > Stage::Prepare && absent => {}
            _ if absent => {}
            // A copy of an older placement: it has to go. A newer one than we know of is not ours to judge.
            _ if status.generation < instance.generation => {
                let mut instance = instance;
                instance.leftovers.insert(node, status.generation);
                self.put_instance(instance);
            }
            _ => {}
        }
    }

    fn take_leftover(
        &mut self,
        mut instance: Instance,
        node: NodeId,
        told: crate::ids::Generation,
        status: &InstanceStatus,
    ) {
        if status.state == InstanceState::Absent {
            if status.generation >= told {
                instance.leftovers.remove(&node);
                self.put_instance(instance);
            }
        } else if status.generation > told && status.generation < instance.generation {
            // An agent leaves alone what is newer than what it was told.
            instance.leftovers.insert(node, status.generation);
            self.put_instance(instance);
        }
    }

    /// The node where it lives. What it says of an older generation it said before it knew this one.
    fn take_home(&mut self, mut instance: Instance, status: &InstanceStatus) {
        if status.generation != instance.generation {
            return;
        }
        let phase = match status.state {
            InstanceState::Starting => Phase::Starting,
            InstanceState::Running => Phase::Running,
            InstanceState::Stopping => Phase::Stopping,
            InstanceState::Stopped => Phase::Stopped,
            InstanceState::Failed => Phase::Failed,
            InstanceState::Absent => Phase::Lost,
        };
        self.observed.insert(instance.id, status.clone());
        if phase == Phase::Lost && instance.desired != DesiredState::Absent {
            self.report_lost(&instance);
        } else if phase != instance.phase {
            let message = format!("instance {} is {}", instance.name, phase_word(phase));
            self.event(EventKind::InstanceChanged, instance.id, message);
        }
        instance.phase = phase;
        instance.detail = short(&status.detail);
        if let Some(operation) = instance.operation.filter(|_| instance.migration.is_none()) {
            let step = self.operations.get(&operation).map(|o| o.step.clone()).unwrap_or_default();
            let percent = u8::try_from(status.progress_percent.min(99)).unwrap_or(99);
            self.progress(operation, &step, percent, &instance.detail);
        }
        self.put_instance(instance);
    }

    /// The source of a move, from the moment on when it is to stop it.
    fn take_source(&mut self, mut instance: Instance, status: &InstanceStatus) {
        let Some(migration) = &mut instance.migration else { return };
        if status.generation != migration.from_generation {
            return;
        }
        let id = instance.id;
        let from = migration.from;
        match (migration.stage, status.state) {
            (Stage::Stop, InstanceState::Stopped) => self.source_stopped(instance, true),
            (Stage::Stop, InstanceState::Absent) => self.source_stopped(instance, false),
            (Stage::Stop | Stage::Transfer, InstanceState::Failed) => {
                let why = format!("{from} could not stop or send it: {}", short(&status.detail));
                self.roll_back(id, OperationState::Failed, &why);
            }
            (Stage::Transfer, InstanceState::Absent) if migration.from_has_copy => {
                instance.phase = Phase::Lost;
                self.put_instance(instance);
                self.roll_back(id, OperationState::Failed, &format!("{from} lost its copy"));
            }
            (Stage::Transfer, InstanceState::Stopped) => self.transfer_progress(&instance, status),
            (Stage::Start, InstanceState::Absent) => {
                migration.from_has_copy = false;
                self.put_instance(instance);
            }
            _ => {}
        }
    }

    /// The destination of a move, while the volume comes.
    fn take_destination(&mut self, mut instance: Instance, status: &InstanceStatus) {
        let Some(migration) = &mut instance.migration else { return };
        if status.generation != migration.generation {
            return;
        }
        match status.state {
            InstanceState::Stopped => {
                migration.downloaded = true;
                self.put_instance(instance);
            }
            InstanceState::Failed => {
                let why = format!("{} could not take it: {}", migration.to, short(&status.detail));
                self.roll_back(instance.id, OperationState::Failed, &why);
            }
            _ => self.transfer_progress(&instance, status),
        }
    }

    fn transfer_progress(&mut self, instance: &Instance, status: &InstanceStatus) {
        let Some(migration) = &instance.migration else { return };
        self.heard.insert(instance.id, self.now);
        let (step, from) = stage_step(Stage::Transfer);
        let (_, to) = stage_step(Stage::Start);
        let share = u32::from(to - from) * status.progress_percent.min(100) / 100;
        let percent = from.saturating_add(u8::try_from(share).unwrap_or(0));
        // Both ends report: the bar does not go back.
        let so_far = self.operations.get(&migration.operation).map_or(0, |o| o.percent);
        self.progress(migration.operation, step, percent.max(so_far), "its volume goes to the destination");
    }

    /// Instances that a full report leaves out. A report may be older than what was desired since: it shows that one
    /// which ran is gone, and desired state makes it again, but not that one which is to go has gone.
    fn find_lost(&mut self, node: NodeId, statuses: &[InstanceStatus]) {
        for mut instance in self.not_named(node, statuses) {
            let was_there = !matches!(instance.phase, Phase::Pending | Phase::Lost);
            let idle = instance.node == node && instance.migration.is_none();
            if idle && was_there && instance.desired != DesiredState::Absent {
                self.report_lost(&instance);
                instance.phase = Phase::Lost;
                instance.detail.clear();
                self.observed.remove(&instance.id);
                self.put_instance(instance);
            }
        }
    }

    /// An agent that has just come says what is there before it does anything: what it does not name is not there.
    pub(crate) fn take_absences(&mut self, node: NodeId, statuses: &[InstanceStatus]) {
        for mut instance in self.not_named(node, statuses) {
            let committed = instance.migration.as_ref().is_some_and(|m| m.stage == Stage::Start);
            let source = instance.migration.as_mut().filter(|m| m.from == node && m.stage == Stage::Start);
            if instance.leftovers.remove(&node).is_some() {
            } else if let Some(migration) = source {
                migration.from_has_copy = false;
            } else if instance.node == node
                && (instance.desired == DesiredState::Absent
                    || (committed && instance.phase != Phase::Pending))
            {
                instance.phase = Phase::Lost;
            }
            self.put_instance(instance);
        }
    }

    /// After a report of an agent that has just come: volumes that did not arrive are sent again.
    pub(crate) fn renew_transfers(&mut self, node: NodeId) {
        let known = self.index.instances_at.get(&node).into_iter().flatten();
        let awaited = |i: &&Instance| {
            let migration = i.migration.as_ref();
            migration.is_some_and(|m| m.to == node && m.stage == Stage::Transfer && !m.downloaded)
        };
        let awaited: Vec<Instance> =
            known.filter_map(|id| self.instances.get(id)).filter(awaited).cloned().collect();
        for instance in awaited {
            self.transfer_again(instance);
        }
    }

    fn not_named(&self, node: NodeId, statuses: &[InstanceStatus]) -> Vec<Instance> {
        let named: BTreeSet<InstanceId> =
            statuses.iter().filter(|s| s.state != InstanceState::Absent).map(|s| s.id).collect();
        let known = self.index.instances_at.get(&node).into_iter().flatten();
        known.filter(|id| !named.contains(id)).filter_map(|id| self.instances.get(id)).cloned().collect()
    }

    fn report_lost(&mut self, instance: &Instance) {
        let message =
            format!("instance {} is not on {} any more and is made again", instance.name, instance.node);
        self.event(EventKind::InstanceLost, instance.id, message);
    }
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Failed => "failed",
        Phase::Lost => "gone",
    }
}

/// As much of an agent's or a provider's words as is kept.
pub(crate) fn short(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > DETAIL_MAX {
        let end = (0..=DETAIL_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
