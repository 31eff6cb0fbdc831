//! Operations: begun, advanced, ended, cancelled, cleared away. And what follows from every input.

use crate::{
    changes::{Effect, EventKind},
    command::Outcome,
    drain::LOOK_MS,
    ids::{InstanceId, NodeId, OperationId, Timestamp},
    records::{
        DesiredState, NodeState, Operation, OperationKind, OperationState, Provision, RecordKey, Stage,
        Subject,
    },
    refusal::Refusal,
    registry::Registry,
};

/// Ended operations are kept so long,
const KEEP_MS: u64 = 24 * 60 * 60 * 1000;
/// and so many.
pub(crate) const KEEP_COUNT: usize = 10_000;
const HOUSEKEEPING_MS: u64 = 60 * 1000;

impl Registry {
    pub(crate) fn begin(
        &mut self,
        kind: OperationKind,
        subjects: Vec<Subject>,
        step: &str,
        parent: Option<OperationId>,
    ) -> OperationId {
        let id = OperationId(self.next_number(|c| &mut c.operation));
        let about: Vec<String> = subjects.iter().map(ToString::to_string).collect();
        let message = format!("{} of {} began", kind.as_str(), about.join(", "));
        let requested_by = match parent.and_then(|p| self.operations.get(&p)) {
            Some(parent) => parent.requested_by.clone(),
            None => self.principal.clone(),
        };
        self.event(EventKind::OperationStarted, id, message);
        self.put_operation(Operation {
            id,
            kind,
            subjects,
            state: OperationState::Running,
            step: step.to_owned(),
            parent,
            created: self.now,
            started: Some(self.now),
            requested_by,
            ..Operation::default()
        });
        id
    }

    pub(crate) fn progress(&mut self, id: OperationId, step: &str, percent: u8, detail: &str) {
        let Some(mut operation) = self.operations.get(&id).filter(|o| !o.is_finished()).cloned() else {
            return;
        };
        if operation.step != step {
            self.event(EventKind::OperationProgress, id, format!("{}: {step}", operation.kind.as_str()));
            step.clone_into(&mut operation.step);
        }
        operation.percent = percent.min(100);
        detail.clone_into(&mut operation.detail);
        self.put_operation(operation);
    }

    pub(crate) fn succeed(&mut self, id: OperationId, step: &str) {
        self.progress(id, step, 100, "");
        self.end(id, OperationState::Succeeded, None);
    }

    pub(crate) fn end(&mut self, id: OperationId, state: OperationState, error: Option<String>) {
        let Some(mut operation) = self.operations.get(&id).filter(|o| !o.is_finished()).cloned() else {
            return;
        };
        let word = match state {
            OperationState::Succeeded => "succeeded",
            OperationState::Cancelled => "was cancelled",
            _ => "failed",
        };
        let because = error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        self.event(EventKind::OperationFinished, id, format!("{} {word}{because}", operation.kind.as_str()));
        operation.state = state;
        operation.error = error;
        operation.finished = Some(self.now);
        self.put_operation(operation);
    }

    /// The end of an instance's operation.
    pub(crate) fn end_of_instance(
        &mut self,
        instance: InstanceId,
        state: OperationState,
        step: &str,
        error: Option<String>,
    ) {
        let Some(mut record) = self.instances.get(&instance).cloned() else { return };
        let Some(id) = record.operation.take() else { return };
        self.put_instance(record);
        if state == OperationState::Succeeded {
            self.succeed(id, step);
        } else {
            self.end(id, state, error);
        }
    }

    pub(crate) fn cancel_operation(&mut self, id: OperationId) -> Result<Outcome, Refusal> {
        let operation =
            self.operations.get(&id).ok_or_else(|| Refusal::not_found("operation", &id.to_string()))?;
        if operation.is_finished() {
            return Err(Refusal::conflict(format!("{id} has ended already; there is nothing to cancel")));
        }
        let why = match self.principal.as_str() {
            "" => "cancelled".to_owned(),
            who => format!("cancelled by {who}"),
        };
        let instance = operation.subjects.iter().find_map(|s| match s {
            Subject::Instance(id) => Some(*id),
            Subject::Node(_) => None,
        });
        let node = operation.subjects.iter().find_map(|s| match s {
            Subject::Node(id) => Some(*id),
            Subject::Instance(_) => None,
        });
        match (operation.kind, instance, node) {
            (OperationKind::AddComputeNode, _, Some(node)) => {
                self.abandon_node(node, OperationState::Cancelled, &why);
            }
            (OperationKind::RemoveComputeNode, _, Some(node)) => self.cancel_removal(id, node, &why)?,
            (OperationKind::Migrate, Some(instance), _) => self.cancel_migration(instance, &why)?,
            (OperationKind::Allocate, Some(instance), _) => {
                self.cancel_desired(instance, DesiredState::Absent, why);
            }
            (OperationKind::StartInstance, Some(instance), _) => {
                self.cancel_desired(instance, DesiredState::Stopped, why);
            }
            (OperationKind::StopInstance, Some(instance), _) => {
                self.cancel_desired(instance, DesiredState::Running, why);
            }
            (OperationKind::DeleteInstance, ..) => {
                return Err(Refusal::conflict(
                    "a deletion cannot be cancelled: its volume may be gone already",
                ));
            }
            _ => self.end(id, OperationState::Cancelled, Some(why)),
        }
        Ok(Outcome::Operation(id))
    }

    fn cancel_desired(&mut self, instance: InstanceId, desired: DesiredState, why: String) {
        if let Some(mut record) = self.instances.get(&instance).cloned() {
            record.desired = desired;
            self.put_instance(record);
            self.end_of_instance(instance, OperationState::Cancelled, "", Some(why));
        }
    }

    /// What follows from an input: bindings and operations of the instances that changed, then removals of nodes,
    /// which may change further instances. Ends because each round is caused by a step forward.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(instance) = self.touched.pop_first() {
                self.advance_instance(instance);
                self.sync_bindings(instance);
            }
            let removals: Vec<OperationId> = self
                .index
                .running
                .iter()
                .copied()
                .filter(|id| {
                    self.operations.get(id).is_some_and(|o| o.kind == OperationKind::RemoveComputeNode)
                })
                .collect();
            for removal in removals {
                self.advance_removal(removal);
            }
            if self.touched.is_empty() {
                break;
            }
        }
        self.prune_count();
    }

    /// When [`Input::Tick`](crate::Input::Tick) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.cluster.as_ref()?;
        let graces = self.nodes.values().filter(|n| n.is_member()).filter_map(|n| self.agent_deadline(n.id));
        let removes = |o: &Operation| o.kind == OperationKind::RemoveComputeNode;
        let removal = self.index.running.iter().any(|id| self.operations.get(id).is_some_and(removes));
        let look = removal.then(|| self.now.plus(LOOK_MS));
        graces.filter(|at| *at > self.now).chain([self.next_housekeeping]).chain(look).min()
    }

    /// When an agent that is away has been away too long.
    fn agent_deadline(&self, node: NodeId) -> Option<Timestamp> {
        let runtime = self.runtime.get(&node);
        if runtime.is_some_and(|r| r.agent.is_some()) {
            return None;
        }
        let since = runtime.and_then(|r| r.agent_away_since).or(self.started)?;
        Some(since.plus(self.settings.agent_grace_ms))
    }

    /// The node's agent is away and has been for so long that operations no longer wait for it.
    pub(crate) fn agent_given_up(&self, node: NodeId) -> bool {
        self.agent_deadline(node).is_some_and(|at| at <= self.now)
    }

    pub(crate) fn handle_timeout(&mut self) {
        let moving: Vec<InstanceId> =
            self.instances.values().filter(|i| i.migration.is_some()).map(|i| i.id).collect();
        for instance in moving {
            self.check_migration_agents(instance);
        }
        self.expire_invitations();
        if self.now >= self.next_housekeeping {
            self.next_housekeeping = self.now.plus(HOUSEKEEPING_MS);
            self.expire_access();
            self.expire_tokens();
            let old = self
                .operations
                .values()
                .filter(|o| o.finished.is_some_and(|at| self.now.since(at) > KEEP_MS));
            let old: Vec<OperationId> = old.map(|o| o.id).collect();
            for id in old {
                self.forget_operation(id);
            }
        }
    }

    fn prune_count(&mut self) {
        while self.operations.len() > KEEP_COUNT {
            let Some(oldest) = self.operations.values().find(|o| o.is_finished()).map(|o| o.id) else {
                break;
            };
            self.forget_operation(oldest);
        }
    }

    fn forget_operation(&mut self, id: OperationId) {
        self.operations.remove(&id);
        self.mark(RecordKey::Operation(id));
    }

    /// What has to be asked for again after a restart, because the answer may never have come.
    #[must_use]
    pub fn resume(&self) -> Vec<Effect> {
        self.nodes.values().filter_map(|node| self.provider_effect(node.id)).collect()
    }

    /// What the node's provider is to do now.
    pub(crate) fn provider_effect(&self, id: NodeId) -> Option<Effect> {
        let node = self.nodes.get(&id)?;
        let (provider, name) = (node.provider.clone(), node.name.clone());
        match &node.provision {
            Provision::Creating if node.state != NodeState::Removed => Some(Effect::CreateNode {
                operation: node.operation?,
                node: id,
                provider,
                name,
                node_type: node.node_type.clone(),
            }),
            Provision::Destroying { reference } => {
                Some(Effect::DestroyNode { node: id, provider, name, reference: reference.clone() })
            }
            _ => None,
        }
    }
}

/// How far a move is by its stage alone.
pub(crate) fn stage_step(stage: Stage) -> (&'static str, u8) {
    match stage {
        Stage::Prepare => ("prepare", 0),
        Stage::Stop => ("stop", 10),
        Stage::Transfer => ("transfer", 20),
        Stage::Start => ("start", 80),
    }
}
