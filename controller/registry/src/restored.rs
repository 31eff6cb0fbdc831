//! After a restore from a backup: what happened since the backup is not known here, so instances may have moved. None
//! is run, stopped or removed before it is clear where it lives.
//!
//! Each instance is *unconfirmed* until one of these happens; meanwhile its node is told nothing about it, and agents
//! leave alone what is not named:
//!
//! - its node's agent names it, running, or with a generation that it had before the backup. A move begins with a new
//!   generation at the source, so such a copy has never been left for another one;
//! - its node's agent does not run it, and exactly one other agent runs a newer copy: it lives there now;
//! - the operator starts or deletes it.
//!
//! A generation that is newer than all others then ends copies elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    changes::EventKind,
    command::{InstanceState, InstanceStatus, Outcome},
    ids::{Generation, InstanceId, NodeId, OperationId},
    records::{Counters, DesiredState, Instance, NodeState, OperationState, Phase, RecordKey, Stage},
    refusal::Refusal,
    registry::Registry,
};

/// How far the revision jumps: more than the lost part can have used.
const REVISIONS: u64 = 1 << 32;
/// How far the counters of ids, MACs and VNIs jump. Fewer than the revision: an id is read by people.
const NUMBERS: u32 = 100_000;
const WHY: &str = "the controller was restored from a backup";

/// A copy of an unconfirmed instance, by an agent's word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting {
    generation: Generation,
    running: bool,
}

/// The copies of unconfirmed instances. Not persisted: agents name what they have whenever they connect.
pub(crate) type Sightings = BTreeMap<InstanceId, BTreeMap<NodeId, Sighting>>;

impl Counters {
    fn jump(&mut self, replaced: &Counters) {
        self.revision.0 = self.revision.max(replaced.revision).0.saturating_add(REVISIONS);
        let ids = [
            (&mut self.node, replaced.node),
            (&mut self.token, replaced.token),
            (&mut self.instance_type, replaced.instance_type),
            (&mut self.instance, replaced.instance),
            (&mut self.operation, replaced.operation),
            (&mut self.api_token, replaced.api_token),
        ];
        for (counter, replaced) in ids {
            *counter = replaced.max(*counter).saturating_add(u64::from(NUMBERS));
        }
        // Past the last one there is none to give out, which their users say.
        self.mac = self.mac.max(replaced.mac).saturating_add(NUMBERS);
        self.vni = self.vni.max(replaced.vni).saturating_add(NUMBERS);
    }
}

impl Registry {
    pub(crate) fn handle_restored(&mut self, epoch: u64, replaced: &Counters) -> Result<Outcome, Refusal> {
        let Some(cluster) = &mut self.cluster else {
            return Err(Refusal::not_ready("there is nothing that could have been restored"));
        };
        cluster.epoch = epoch;
        self.mark(RecordKey::Cluster);
        self.counters.jump(replaced);
        self.mark(RecordKey::Counters);
        self.log.start_at(self.counters.revision);
        self.changes.revision_changed = true;
        self.event(EventKind::Warning, "cluster", "the store was restored from a backup");
        for instance in self.instances.values().cloned().collect::<Vec<_>>() {
            self.put_instance(unconfirmed(instance));
        }
        for mut node in self.nodes.values().filter(|n| n.operation.is_some()).cloned().collect::<Vec<_>>() {
            if node.state == NodeState::Draining {
                node.state = NodeState::Enrolled;
            }
            node.operation = None;
            self.put_node(node);
        }
        for operation in self.index.running.iter().copied().collect::<Vec<OperationId>>() {
            self.end(operation, OperationState::Failed, Some(WHY.to_owned()));
        }
        Ok(Outcome::Done)
    }

    /// What an agent says of unconfirmed instances.
    pub(crate) fn take_sightings(&mut self, node: NodeId, full: bool, statuses: &[InstanceStatus]) {
        let mut concerned = BTreeSet::new();
        if full {
            self.forget_sightings(node);
            concerned.extend(self.instances_on(node).filter(|i| i.unconfirmed.is_some()).map(|i| i.id));
        }
        for status in statuses {
            let known = self.instances.get(&status.id).filter(|i| i.unconfirmed.is_some());
            if known.is_none_or(|i| is_leftover(i, node, status)) {
                continue;
            }
            let sightings = self.sightings.entry(status.id).or_default();
            if status.state == InstanceState::Absent {
                sightings.remove(&node);
            } else {
                let running = status.state == InstanceState::Running;
                sightings.insert(node, Sighting { generation: status.generation, running });
            }
            concerned.insert(status.id);
        }
        for id in concerned {
            self.find_home(id);
        }
    }

    /// The node has gone, or names anew what it has.
    pub(crate) fn forget_sightings(&mut self, node: NodeId) {
        for sightings in self.sightings.values_mut() {
            sightings.remove(&node);
        }
    }

    fn find_home(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id).cloned() else { return };
        let Some(untouched) = instance.unconfirmed else { return };
        let sightings = self.sightings.get(&id).cloned().unwrap_or_default();
        let home = instance.node;
        let newer = |s: &Sighting| s.running && s.generation > instance.generation;
        let elsewhere: Vec<NodeId> =
            sightings.iter().filter(|(node, s)| **node != home && newer(s)).map(|(node, _)| *node).collect();
        let here = sightings.get(&home).copied();
        if self.agent_session(home).is_none() {
            // What runs elsewhere may have gone back since.
            if !elsewhere.is_empty() {
                let detail = format!(
                    "{WHY}: a newer copy runs on {}, and the agent of {home}, where it lived, is not connected; \
                     start that agent",
                    list(&elsewhere)
                );
                self.say_unconfirmed(instance, Phase::Pending, detail);
            }
            return;
        }
        if let Some(here) = here
            && (here.running || (here.generation <= untouched && elsewhere.is_empty()))
        {
            return self.confirm(instance, home, here.running);
        }
        if let [node] = elsewhere[..]
            && self.has_networks(node, &instance)
        {
            return self.confirm(instance, node, true);
        }
        let (phase, what) = match here {
            Some(_) => {
                (Phase::Pending, "has a copy of it that does not run and may be older than another one")
            }
            None => (Phase::Lost, "has no copy of it"),
        };
        let start = match here {
            Some(_) => "goes on with that copy",
            None => "makes it anew, with an empty volume",
        };
        let advice = if elsewhere.is_empty() {
            "if it runs elsewhere, start that node's agent".to_owned()
        } else {
            format!("a newer copy runs on {}; delete it there, or add its networks there", list(&elsewhere))
        };
        let detail = format!(
            "{WHY}, and {home} {what}: {advice}; `skippy instance start` {start}, and other copies are removed"
        );
        self.say_unconfirmed(instance, phase, detail);
    }

    /// Once for each thing that there is to say.
    fn say_unconfirmed(&mut self, mut instance: Instance, phase: Phase, detail: String) {
        if (instance.phase, &instance.detail) == (phase, &detail) {
            return;
        }
        let kind = if phase == Phase::Lost { EventKind::InstanceLost } else { EventKind::Warning };
        self.event(kind, instance.id, format!("instance {}: {detail}", instance.name));
        instance.phase = phase;
        instance.detail = detail;
        self.put_instance(instance);
    }

    /// It lives there.
    fn confirm(&mut self, mut instance: Instance, node: NodeId, running: bool) {
        let (id, moved) = (instance.id, instance.node != node);
        instance.node = node;
        self.place_anew(&mut instance);
        if running {
            instance.phase = Phase::Running;
        }
        if moved {
            let message = format!("instance {} runs on {node}: it moved after the backup", instance.name);
            self.event(EventKind::InstanceMoved, id, message);
        }
        self.put_instance(instance);
    }

    /// At its node, by the operator's or an agent's word; copies elsewhere have to go.
    pub(crate) fn place_anew(&mut self, instance: &mut Instance) {
        if instance.unconfirmed.take().is_none() {
            return;
        }
        instance.generation = Generation(self.next_revision().0);
        instance.phase = Phase::Pending;
        instance.detail.clear();
        for (node, sighting) in self.sightings.remove(&instance.id).unwrap_or_default() {
            instance.leftovers.insert(node, sighting.generation);
        }
        instance.leftovers.remove(&instance.node);
    }

    fn has_networks(&self, node: NodeId, instance: &Instance) -> bool {
        instance.nics.iter().all(|nic| self.networks.get(&nic.vni).is_some_and(|n| n.nodes.includes(node)))
    }

    /// It is clear where it lives.
    pub(crate) fn check_confirmed(&self, instance: &Instance) -> Result<(), Refusal> {
        if instance.unconfirmed.is_none() {
            return Ok(());
        }
        Err(Refusal::conflict(format!(
            "{}: {WHY}, and it is not clear yet that it lives on {}; wait for that node's agent, or start or delete it",
            instance.id, instance.node
        )))
    }
}

/// An older copy that was to go before the backup.
pub(crate) fn is_leftover(instance: &Instance, node: NodeId, status: &InstanceStatus) -> bool {
    instance.leftovers.get(&node).is_some_and(|told| status.generation <= *told)
}

/// As of the backup, with everything open that may have happened to it since.
fn unconfirmed(mut instance: Instance) -> Instance {
    let stopped = instance.migration.take().is_some_and(|m| m.stage > Stage::Prepare);
    instance.operation = None;
    // What is to go never runs again: its removal goes on.
    if instance.desired != DesiredState::Absent {
        let newest = instance.generation.0.saturating_sub(u64::from(stopped));
        // One that was restored twice has not been told anything in between.
        instance.unconfirmed = instance.unconfirmed.or(Some(Generation(newest)));
        instance.phase = Phase::Pending;
        instance.detail = format!("{WHY}: the agent of {} has not named it yet", instance.node);
    }
    instance
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
