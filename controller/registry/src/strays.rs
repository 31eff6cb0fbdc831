//! Copies of instances that agents have and this registry did not make: said once, shown, and never touched.

use std::collections::BTreeSet;

use crate::{
    changes::EventKind,
    command::{InstanceState, InstanceStatus},
    ids::{Generation, InstanceId, NodeId},
    registry::Registry,
    sessions::Condition,
};

/// So many are shown of one node.
const STRAYS_MAX: usize = 64;

impl Registry {
    /// What a report says of strays; a full one names all that are there.
    pub(crate) fn take_strays(&mut self, node: NodeId, full: bool, statuses: &[InstanceStatus]) {
        let named: BTreeSet<InstanceId> = statuses.iter().map(|s| s.id).collect();
        let strays: Vec<Condition> = statuses.iter().filter_map(|s| self.stray(s)).collect();
        let Some(runtime) = self.runtime.get_mut(&node) else { return };
        let mut fresh = Vec::new();
        let before = runtime.conditions.clone();
        runtime.conditions.retain(|condition| match condition {
            Condition::Stray { instance, .. } => !full && !named.contains(instance),
            Condition::Cloned { .. } => true,
        });
        for stray in strays {
            if runtime.conditions.len() >= STRAYS_MAX {
                break;
            }
            if !before.contains(&stray) {
                fresh.push(stray.clone());
            }
            runtime.conditions.push(stray);
        }
        for stray in fresh {
            let Condition::Stray { instance, generation, known } = stray else { continue };
            let what = match known {
                true => format!(
                    "a copy of {instance} that is newer (generation {generation}) than what the controller knows"
                ),
                false => format!("{instance}, which the controller does not know"),
            };
            self.event(EventKind::Warning, node, format!("its agent has {what}: it is left alone"));
        }
    }

    fn stray(&self, status: &InstanceStatus) -> Option<Condition> {
        if status.state == InstanceState::Absent {
            return None;
        }
        let known = self.instances.get(&status.id);
        let newest = known.map(|instance| {
            let moving = instance.migration.as_ref().map_or(Generation(0), |m| m.generation);
            let left = instance.leftovers.values().copied();
            left.fold(instance.generation.max(moving), Generation::max)
        });
        let is_stray = newest.is_none_or(|newest| status.generation > newest);
        is_stray.then_some(Condition::Stray {
            instance: status.id,
            generation: status.generation,
            known: known.is_some(),
        })
    }
}
