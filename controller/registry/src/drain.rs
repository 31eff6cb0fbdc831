//! Removal of a node: its instances move away, then it goes.

use crate::{
    command::Outcome,
    ids::{InstanceId, NodeId, OperationId},
    placement::{add_use, need_of},
    records::{
        DesiredState, Instance, NodeState, Operation, OperationKind, OperationState, Provision, Stage,
        Subject,
    },
    refusal::Refusal,
    registry::Registry,
};

/// Moves of one removal at a time: each takes the bandwidth of the node and of the controller.
const MOVES_AT_ONCE: usize = 4;

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
        if gone && instance.leftovers.remove(&node).is_some() {
            self.put_instance(instance.clone());
        }
        if instance.node != node {
            return Ok(());
        }
        let moving = instance.migration.as_ref().is_some_and(|m| m.stage == Stage::Start || !gone);
        if gone && !moving {
            if !removal.force {
                return Err(format!("the agent of {node} has gone, so {id} cannot be moved"));
            }
            let why = format!("{node}, where it lived, was removed by force");
            if instance.migration.is_some() {
                self.roll_back(id, OperationState::Failed, &why);
            }
            // A deletion has come to its end by this, anything else has not.
            if instance.desired != DesiredState::Absent {
                self.end_of_instance(id, OperationState::Failed, "", Some(why));
            }
            self.drop_instance(id);
            return Ok(());
        }
        if instance.operation.is_some() || instance.desired == DesiredState::Absent {
            return Ok(());
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
        let other = if failed.is_some() { None } else { self.best_other_node(&instance, node, &self.used()) };
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
