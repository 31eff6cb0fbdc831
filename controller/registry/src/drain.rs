//! Removal of a node: its instances move away, then it goes.

use crate::{
    command::Outcome,
    ids::{InstanceId, NodeId, OperationId},
    placement::{add_use, need_of},
    records::{
        DesiredState, Instance, Migration, NodeState, Operation, OperationKind, OperationState, Provision,
        Stage, Subject,
    },
    refusal::Refusal,
    registry::Registry,
};

/// Moves of one removal at a time: each takes the bandwidth of the node and of the controller.
const MOVES_AT_ONCE: usize = 4;
/// Milliseconds that a removal waits for the node's word about an instance: longer than a stop takes that does not
/// go well. A node that says nothing, for bad or because it hangs, holds up nothing for ever.
const SILENCE_MS: u64 = 120_000;
/// How often a removal looks for that.
pub(crate) const LOOK_MS: u64 = 10_000;

impl Registry {
    pub(crate) fn remove_compute_node(&mut self, reference: &str, force: bool) -> Result<Outcome, Refusal> {
        let mut node = self.live_node(reference)?.clone();
        let id = node.id;
        if let Some(operation) = node.operation {
            return Err(Refusal::conflict(format!(
                "{operation} works on {id}; wait for it or cancel it first"
            )));
        }
        if !force {
            self.check_drain(id)?;
        }
        let operation = self.begin(OperationKind::RemoveComputeNode, vec![Subject::Node(id)], "drain", None);
        if let Some(mut record) = self.operations.get(&operation).cloned() {
            record.force = force;
            self.put_operation(record);
        }
        if node.state == NodeState::Enrolled {
            node.state = NodeState::Draining;
        }
        node.operation = Some(operation);
        self.put_node(node);
        Ok(Outcome::Operation(operation))
    }

    /// Every instance has somewhere to go, all of them together.
    fn check_drain(&self, node: NodeId) -> Result<(), Refusal> {
        let here: Vec<&Instance> = self.instances_on(node).collect();
        if here.is_empty() {
            return Ok(());
        }
        if self.agent_session(node).is_none() {
            return Err(Refusal::not_ready(format!(
                "the agent of {node} is not connected, so its {} instances cannot be moved; start it, or use force \
                 to delete them with the node",
                here.len()
            )));
        }
        for instance in &here {
            self.check_confirmed(instance)?;
        }
        let mut used = self.used();
        let mut stuck = Vec::new();
        for instance in here.into_iter().filter(|i| i.desired != DesiredState::Absent) {
            match self.best_other_node(instance, node, &used) {
                Some(other) => add_use(&mut used, other, &instance.limits),
                None => stuck.push(format!("{} ({})", instance.id, instance.name)),
            }
        }
        if stuck.is_empty() {
            return Ok(());
        }
        Err(Refusal::conflict(format!(
            "no other node has room, driver and networks for {}; add a node, delete them, or use force to delete them \
             with the node",
            stuck.join(", ")
        )))
    }

    fn best_other_node(
        &self,
        instance: &Instance,
        node: NodeId,
        used: &crate::placement::Used,
    ) -> Option<NodeId> {
        let mut used = used.clone();
        // No room at all where it has to leave.
        used.insert(node, (u64::MAX, u64::MAX));
        self.best_node(&need_of(instance), &used).filter(|other| *other != node)
    }

    pub(crate) fn advance_removal(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get(&id).filter(|o| !o.is_finished()).cloned() else { return };
        let Some(Subject::Node(node)) = operation.subjects.first().copied() else { return };
        let Some(state) = self.nodes.get(&node).map(|n| n.state) else { return };
        if state == NodeState::Removed {
            return;
        }
        let concerned: Vec<InstanceId> =
            self.index.instances_at.get(&node).into_iter().flatten().copied().collect();
        let mut moves = self.running_moves(id);
        for instance in concerned {
            if let Some(instance) = self.instances.get(&instance).cloned()
                && let Err(why) = self.clear_away(&operation, node, instance, &mut moves)
            {
                self.fail_removal(id, node, OperationState::Failed, &why);
                return;
            }
        }
        let left = self.index.instances_at.get(&node).map_or(0, std::collections::BTreeSet::len);
        if left > 0 {
            let detail = format!("instances that are to leave the node yet: {left}, on the move: {moves}");
            self.progress(id, "drain", operation.percent, &detail);
            return;
        }
        self.finish_removal(id, node);
    }

    /// One step towards the node being without this instance; an error if that cannot be.
    fn clear_away(
        &mut self,
        removal: &Operation,
        node: NodeId,
        mut instance: Instance,
        moves: &mut usize,
    ) -> Result<(), String> {
        let id = instance.id;
        let gone = self.agent_given_up(node);
        let forgone = gone || (removal.force && self.silent_after(removal, id));
        if forgone && instance.leftovers.remove(&node).is_some() {
            self.put_instance(instance.clone());
        }
        if instance.node != node {
            if forgone && instance.migration.as_ref().is_some_and(|m| m.to == node) {
                self.roll_back(id, OperationState::Failed, &silence(node));
            }
            return Ok(());
        }
        let moving = instance.migration.as_ref().is_some_and(|m| m.stage == Stage::Start || !gone);
        if gone && !moving {
            if !removal.force {
                return Err(format!("the agent of {node} has gone, so {id} cannot be moved"));
            }
            self.drop_with_node(&instance, node);
            return Ok(());
        }
        if instance.desired == DesiredState::Absent {
            if forgone {
                self.drop_with_node(&instance, node);
            }
            return Ok(());
        }
        if let Some(child) = instance.operation {
            let part = self.operations.get(&child).is_some_and(|o| o.parent == Some(removal.id));
            let silent = match &instance.migration {
                Some(m) if m.from == node => (part || removal.force) && self.silent_source(&instance),
                _ => forgone,
            };
            if silent && instance.migration.is_some() {
                self.roll_back(id, OperationState::Failed, &silence(node));
            } else if silent {
                self.drop_with_node(&instance, node);
            }
            return Ok(());
        }
        if let Err(refusal) = self.check_confirmed(&instance)
            && !removal.force
        {
            return Err(refusal.message);
        }
        let tried = self.operations.values().rev().find(|o| {
            o.parent == Some(removal.id)
                && o.kind == OperationKind::Migrate
                && o.state != OperationState::Succeeded
                && o.subjects.contains(&Subject::Instance(id))
        });
        let failed = tried.map(|o| o.error.clone().unwrap_or_default());
        if failed.is_none() && *moves >= MOVES_AT_ONCE {
            // It waits for its turn: by then there may be another best place for it.
            return Ok(());
        }
        let stays = failed.is_some() || instance.unconfirmed.is_some();
        let other = if stays { None } else { self.best_other_node(&instance, node, &self.used()) };
        match (other, removal.force) {
            (Some(other), _) => {
                *moves += 1;
                self.begin_migration(id, other, Some(removal.id));
            }
            (None, true) => _ = self.begin_deletion(id, Some(removal.id)),
            (None, false) => {
                return Err(match failed {
                    Some(error) => format!("{id} could not be moved: {error}"),
                    None => format!("no other node has room, driver and networks for {id}"),
                });
            }
        }
        Ok(())
    }

    /// Its node has it no more, and nobody else.
    fn drop_with_node(&mut self, instance: &Instance, node: NodeId) {
        let why = format!("{node}, where it lived, was removed by force");
        if instance.migration.is_some() {
            self.roll_back(instance.id, OperationState::Failed, &why);
        }
        // A deletion has come to its end by this, anything else has not.
        if instance.desired != DesiredState::Absent {
            self.end_of_instance(instance.id, OperationState::Failed, "", Some(why));
        }
        self.drop_instance(instance.id);
    }

    /// The source of a move has not said for long that it stopped the instance, or nothing of the transfer.
    fn silent_source(&self, instance: &Instance) -> bool {
        let waits = |stage| matches!(stage, Stage::Stop | Stage::Transfer);
        let since = self.heard.get(&instance.id).copied().or(self.started).unwrap_or(self.now);
        instance.migration.as_ref().is_some_and(|m| waits(m.stage)) && self.now.since(since) >= SILENCE_MS
    }

    /// The last thing that a removal did about an instance was long ago.
    fn silent_after(&self, removal: &Operation, instance: InstanceId) -> bool {
        let children = self
            .operations
            .values()
            .rev()
            .find(|o| o.parent == Some(removal.id) && o.subjects.contains(&Subject::Instance(instance)));
        let last = children.map_or(removal.created, |o| o.finished.unwrap_or(o.created));
        self.now.since(last) >= SILENCE_MS
    }

    /// Cuts a node off at once. Nothing waits for what the node says, which may be a thief's.
    pub(crate) fn remove_at_once(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        let node = self.live_node(reference)?.clone();
        let id = node.id;
        if let Some(other) = node.operation {
            let drain =
                self.operations.get(&other).is_some_and(|o| o.kind == OperationKind::RemoveComputeNode);
            if !drain {
                return Err(Refusal::conflict(format!("{other} adds {id}; cancel it, which removes {id}")));
            }
            self.fail_removal(other, id, OperationState::Cancelled, "the node is removed at once instead");
        }
        let operation = self.begin(OperationKind::RemoveComputeNode, vec![Subject::Node(id)], "remove", None);
        if let Some(mut record) = self.operations.get(&operation).cloned() {
            record.force = true;
            self.put_operation(record);
        }
        if let Some(mut record) = self.nodes.get(&id).cloned() {
            record.operation = Some(operation);
            self.put_node(record);
        }
        let concerned = self.index.instances_at.get(&id).cloned().unwrap_or_default();
        for instance in concerned {
            self.leave_node_at_once(instance, id);
        }
        self.finish_removal(operation, id);
        Ok(Outcome::Operation(operation))
    }

    fn leave_node_at_once(&mut self, id: InstanceId, node: NodeId) {
        let migration = self.instances.get(&id).and_then(|i| i.migration.clone());
        let ends = |m: Migration| m.to == node || (m.from == node && m.stage != Stage::Start);
        if migration.is_some_and(ends) {
            self.roll_back(id, OperationState::Failed, &format!("{node} was removed at once"));
        }
        let Some(mut instance) = self.instances.get(&id).cloned() else { return };
        if instance.node == node {
            return self.drop_with_node(&instance, node);
        }
        instance.leftovers.remove(&node);
        if let Some(migration) = instance.migration.as_mut().filter(|m| m.from == node) {
            migration.from_has_copy = false;
        }
        self.put_instance(instance);
    }

    /// Moves that a removal began and that have not ended.
    fn running_moves(&self, removal: OperationId) -> usize {
        let running = self.index.running.iter().filter_map(|id| self.operations.get(id));
        running.filter(|o| o.parent == Some(removal) && o.kind == OperationKind::Migrate).count()
    }

    fn finish_removal(&mut self, id: OperationId, node: NodeId) {
        self.retire_node(node, "removed by the operator");
        if self.nodes.get(&node).is_some_and(|n| matches!(n.provision, Provision::Destroying { .. })) {
            self.progress(id, "destroy", 90, "its provider destroys it");
            return;
        }
        if let Some(mut record) = self.nodes.get(&node).cloned() {
            record.operation = None;
            self.put_node(record);
        }
        self.succeed(id, "removed");
    }

    pub(crate) fn cancel_removal(&mut self, id: OperationId, node: NodeId, why: &str) -> Result<(), Refusal> {
        if self.nodes.get(&node).is_some_and(|n| n.state == NodeState::Removed) {
            return Err(Refusal::conflict(format!(
                "{node} is removed already; add it again with a new token"
            )));
        }
        self.fail_removal(id, node, OperationState::Cancelled, why);
        Ok(())
    }

    /// The node stays, and with it what has not left it.
    fn fail_removal(&mut self, id: OperationId, node: NodeId, state: OperationState, why: &str) {
        if let Some(mut record) = self.nodes.get(&node).cloned() {
            if record.state == NodeState::Draining {
                record.state = NodeState::Enrolled;
            }
            record.operation = None;
            self.put_node(record);
        }
        self.end(id, state, Some(why.to_owned()));
        let children: Vec<Operation> = self
            .index
            .running
            .iter()
            .filter_map(|child| self.operations.get(child))
            .filter(|o| o.parent == Some(id) && o.kind == OperationKind::Migrate)
            .cloned()
            .collect();
        for child in children {
            let committed = child.subjects.iter().any(|s| match s {
                Subject::Instance(i) => self
                    .instances
                    .get(i)
                    .and_then(|i| i.migration.as_ref())
                    .is_some_and(|m| m.stage == Stage::Start),
                Subject::Node(_) => false,
            });
            if let Some(Subject::Instance(instance)) = child.subjects.first()
                && !committed
            {
                self.roll_back(
                    *instance,
                    OperationState::Cancelled,
                    &format!("{id}, which it was part of, ended"),
                );
            }
        }
    }
}

fn silence(node: NodeId) -> String {
    format!("{node} said nothing about it for {} s", SILENCE_MS / 1000)
}
