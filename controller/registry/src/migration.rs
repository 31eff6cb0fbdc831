//! Moves. A move goes through these stages:
//!
//! ```text
//! Prepare --no leftover at the destination--> Stop --source reports STOPPED--> Transfer --it has arrived--> Start --runs--> done
//!    \___________________________________________\_______________________________\ rolled back: runs on at the source
//!                                                                      commit ^    \ the destination cannot: a new
//!                                                                                    placement of the source's copy
//! ```
//!
//! The instance lives at the source up to the commit and at the destination from then on; only the node where it lives
//! is ever told to run it, and during `Stop` and `Transfer` nobody is. That the volume has arrived is the destination's
//! word, which has checked it against the source's digest; the source's own may be lost with a controller. What the source says counts only under the
//! generation that it got with `Stop`: a STOPPED that it said before, about a crash say, is older.

use crate::{
    changes::{Effect, EventKind},
    command::Outcome,
    ids::{Generation, InstanceId, NodeId, OperationId},
    operations::stage_step,
    placement::need_of,
    records::{DesiredState, Instance, Migration, OperationKind, OperationState, Phase, Stage, Subject},
    refusal::Refusal,
    registry::Registry,
};

impl Registry {
    pub(crate) fn migrate(&mut self, reference: &str, to: &str) -> Result<Outcome, Refusal> {
        let instance = self.find_instance(reference)?;
        let to = self.live_node(to)?;
        self.check_idle(instance)?;
        self.check_confirmed(instance)?;
        let (id, from) = (instance.id, instance.node);
        if from == to.id {
            return Err(Refusal::conflict(format!("{id} lives on {from} already; choose another node")));
        }
        if self.agent_session(from).is_none() {
            return Err(Refusal::not_ready(format!(
                "the agent of {from}, where {id} lives, is not connected; start it, or remove the node by force"
            )));
        }
        self.check_fit(to, &need_of(instance), &self.used())?;
        let to = to.id;
        Ok(Outcome::Operation(self.begin_migration(id, to, None)))
    }

    pub(crate) fn begin_migration(
        &mut self,
        id: InstanceId,
        to: NodeId,
        parent: Option<OperationId>,
    ) -> OperationId {
        let from = self.instances.get(&id).map(|i| i.node).unwrap_or_default();
        let subjects = vec![Subject::Instance(id), Subject::Node(from), Subject::Node(to)];
        let operation = self.begin(OperationKind::Migrate, subjects, "prepare", parent);
        if let Some(mut instance) = self.instances.get(&id).cloned() {
            instance.operation = Some(operation);
            instance.migration = Some(Migration {
                from,
                from_generation: instance.generation,
                to,
                stage: Stage::Prepare,
                operation,
                ..Migration::default()
            });
            self.put_instance(instance);
        }
        operation
    }

    /// The next stage, if what it waits for is there.
    pub(crate) fn advance_migration(&mut self, instance: &Instance) {
        let Some(migration) = &instance.migration else { return };
        let clear = !instance.leftovers.contains_key(&migration.to);
        match migration.stage {
            Stage::Prepare if clear => self.stop_source(instance.clone()),
            Stage::Transfer if migration.downloaded => self.commit(instance.clone()),
            Stage::Start => match (instance.desired, instance.phase) {
                (DesiredState::Running, Phase::Running) | (DesiredState::Stopped, Phase::Stopped) => {
                    self.finish_migration(instance.clone());
                }
                (_, Phase::Failed) => {
                    let why = format!("{} could not start it: {}", migration.to, instance.detail);
                    self.roll_back(instance.id, OperationState::Failed, &why);
                }
                (_, Phase::Lost) => {
                    let why = format!("{} lost it before it ran there", migration.to);
                    self.roll_back(instance.id, OperationState::Failed, &why);
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn stop_source(&mut self, mut instance: Instance) {
        let generation = Generation(self.next_revision().0);
        instance.generation = generation;
        self.enter(&mut instance, Stage::Stop, "the source stops it", |m| m.from_generation = generation);
    }

    /// The source has stopped it, with a copy to send or, if `has_copy` is false, with nothing there.
    pub(crate) fn source_stopped(&mut self, mut instance: Instance, has_copy: bool) {
        let generation = Generation(self.next_revision().0);
        instance.phase = if has_copy { Phase::Stopped } else { Phase::Lost };
        let transfer = if has_copy { transfer_name(instance.id, generation) } else { String::new() };
        self.enter(&mut instance, Stage::Transfer, "its volume goes to the destination", |m| {
            m.generation = generation;
            m.from_has_copy = has_copy;
            m.transfer = transfer;
            // With nothing to send there is nothing to wait for: the destination makes it anew.
            m.downloaded = !has_copy;
        });
    }

    /// The destination's agent came back without the volume. The source may have sent all of it to a controller that
    /// stopped before it had passed it on, and sends it again only to a transfer that it does not know.
    pub(crate) fn transfer_again(&mut self, mut instance: Instance) {
        self.end_transfer(&instance);
        let transfer = transfer_name(instance.id, Generation(self.next_revision().0));
        if let Some(migration) = &mut instance.migration {
            migration.transfer = transfer;
            self.put_instance(instance);
        }
    }

    fn commit(&mut self, mut instance: Instance) {
        let Some(migration) = &instance.migration else { return };
        let (to, generation) = (migration.to, migration.generation);
        self.end_transfer(&instance);
        instance.node = to;
        instance.generation = generation;
        instance.phase = if migration.from_has_copy { Phase::Stopped } else { Phase::Pending };
        instance.detail.clear();
        self.observed.remove(&instance.id);
        self.event(
            EventKind::InstanceMoved,
            instance.id,
            format!("instance {} lives on {to} now", instance.name),
        );
        self.enter(&mut instance, Stage::Start, "the destination starts it", |_| ());
    }

    fn enter(&mut self, instance: &mut Instance, stage: Stage, detail: &str, f: impl FnOnce(&mut Migration)) {
        let Some(migration) = &mut instance.migration else { return };
        migration.stage = stage;
        f(migration);
        self.heard.insert(instance.id, self.now);
        let (step, percent) = stage_step(stage);
        self.progress(migration.operation, step, percent, detail);
        self.put_instance(instance.clone());
    }

    fn finish_migration(&mut self, mut instance: Instance) {
        let Some(migration) = instance.migration.take() else { return };
        // Also where it said that it has none: what is gone is reported gone.
        if !self.is_removed(migration.from) {
            instance.leftovers.insert(migration.from, migration.from_generation);
        }
        self.heard.remove(&instance.id);
        instance.operation = None;
        self.put_instance(instance);
        self.succeed(migration.operation, "finish");
    }

    pub(crate) fn cancel_migration(&mut self, id: InstanceId, why: &str) -> Result<(), Refusal> {
        let stage = self.instances.get(&id).and_then(|i| i.migration.as_ref()).map(|m| m.stage);
        if stage == Some(Stage::Start) {
            return Err(Refusal::conflict(format!(
                "{id} lives at its destination already and is about to run there; move it back afterwards"
            )));
        }
        self.roll_back(id, OperationState::Cancelled, why);
        Ok(())
    }

    /// Ends a move that does not come to its end. Where a copy may be that nobody needs, it has to go.
    pub(crate) fn roll_back(&mut self, id: InstanceId, state: OperationState, why: &str) {
        let Some(mut instance) = self.instances.get(&id).cloned() else { return };
        let Some(migration) = instance.migration.clone() else { return };
        let mut why = why.to_owned();
        if migration.stage == Stage::Transfer {
            self.end_transfer(&instance);
            instance.leftovers.insert(migration.to, migration.generation);
        }
        if migration.stage == Stage::Start {
            if migration.from_has_copy && !self.is_removed(migration.from) {
                instance.node = migration.from;
                instance.generation = Generation(self.next_revision().0);
                instance.phase = Phase::Stopped;
                instance.detail.clear();
                instance.leftovers.insert(migration.to, migration.generation);
                self.observed.remove(&id);
                self.event(
                    EventKind::InstanceMoved,
                    id,
                    format!("instance {id} lives on {} again", migration.from),
                );
            } else {
                why.push_str("; its old node has no copy to go back to, so it stays at the new one");
            }
        }
        instance.migration = None;
        instance.operation = None;
        instance.leftovers.retain(|node, _| !self.is_removed(*node));
        self.heard.remove(&id);
        self.put_instance(instance);
        self.end(migration.operation, state, Some(why));
    }

    fn end_transfer(&mut self, instance: &Instance) {
        if let Some(migration) = instance.migration.as_ref().filter(|m| !m.transfer.is_empty()) {
            self.changes.effects.push(Effect::EndTransfer { transfer: migration.transfer.clone() });
        }
    }

    fn is_removed(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_none_or(|n| !n.is_member())
    }

    /// Gives up a move whose agents stay away.
    pub(crate) fn check_migration_agents(&mut self, id: InstanceId) {
        let Some(migration) = self.instances.get(&id).and_then(|i| i.migration.clone()) else { return };
        let away = |node| self.agent_given_up(node) || self.is_removed(node);
        let lost = match migration.stage {
            Stage::Start => away(migration.to).then_some(migration.to),
            _ => [migration.from, migration.to].into_iter().find(|n| away(*n)),
        };
        if let Some(node) = lost {
            let why = format!("the agent of {node} has gone and did not come back in time");
            self.roll_back(id, OperationState::Failed, &why);
        }
    }
}

fn transfer_name(instance: InstanceId, generation: Generation) -> String {
    format!("move-{instance}-{generation}")
}
