//! Which keys are nodes', for those who cannot wait for the registry.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use controller_registry::{Node, NodeId, PublicKey};

/// The keys of all members.
#[derive(Debug, Default)]
pub(super) struct Keys {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_node: HashMap<NodeId, PublicKey>,
    keys: HashSet<PublicKey>,
}

impl Keys {
    pub(super) fn of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Keys {
        let keys = Keys::default();
        nodes.for_each(|node| keys.update(node));
        keys
    }

    /// Takes in a node's new record.
    pub(super) fn update(&self, node: &Node) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = inner.by_node.remove(&node.id) {
            inner.keys.remove(&old);
        }
        if let Some(key) = node.public_key.filter(|_| node.is_member()) {
            inner.by_node.insert(node.id, key);
            inner.keys.insert(key);
        }
    }

    pub(super) fn contains(&self, key: &PublicKey) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).keys.contains(key)
    }

    pub(super) fn contains_node(&self, node: NodeId) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_node.contains_key(&node)
    }
}
