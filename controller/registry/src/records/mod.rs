//! What is persisted: one record per key. Unknown fields are ignored and missing ones take their default, so that an
//! older and a newer controller read each other's store.

mod access;
mod binding;
mod instance;
mod network;
mod node;
mod operation;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use access::{ApiToken, IdempotencyKey, Role};
pub use binding::{Binding, BindingKey, BindingSource, BindingState};
pub use instance::{DesiredState, Instance, InstanceType, Limits, Migration, Nic, Phase, Stage};
pub use network::{AntiSpoof, Dhcp, Membership, Mode, Network, Subnet};
pub use node::{Capacity, Node, NodeState, Provision, Token};
pub use operation::{Operation, OperationKind, OperationState, Subject};

use crate::{
    ids::{ApiTokenId, InstanceId, NodeId, OperationId, Revision, Timestamp, TokenId, TypeId, Vni},
    refusal::Refusal,
};

/// One record of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant is named as the type that it holds")]
pub enum Record {
    Cluster(Cluster),
    Counters(Counters),
    Node(Node),
    Token(Token),
    Network(Network),
    Type(InstanceType),
    Instance(Instance),
    Binding(Binding),
    Operation(Operation),
    ApiToken(ApiToken),
    IdempotencyKey(IdempotencyKey),
}

impl Record {
    /// The key that it is stored by.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Record::Cluster(_) => RecordKey::Cluster,
            Record::Counters(_) => RecordKey::Counters,
            Record::Node(r) => RecordKey::Node(r.id),
            Record::Token(r) => RecordKey::Token(r.id),
            Record::Network(r) => RecordKey::Network(r.vni),
            Record::Type(r) => RecordKey::Type(r.id),
            Record::Instance(r) => RecordKey::Instance(r.id),
            Record::Binding(r) => RecordKey::Binding(r.key.clone()),
            Record::Operation(r) => RecordKey::Operation(r.id),
            Record::ApiToken(r) => RecordKey::ApiToken(r.id),
            Record::IdempotencyKey(r) => RecordKey::IdempotencyKey(r.principal.clone(), r.key.clone()),
        }
    }
}

/// The key of a record; its text, such as `node/node-7`, is the store's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is named as the record that it finds")]
pub enum RecordKey {
    Cluster,
    Counters,
    Node(NodeId),
    Token(TokenId),
    Network(Vni),
    Type(TypeId),
    Instance(InstanceId),
    Binding(BindingKey),
    Operation(OperationId),
    ApiToken(ApiTokenId),
    /// Principal and key.
    IdempotencyKey(String, String),
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Cluster => f.write_str("cluster"),
            RecordKey::Counters => f.write_str("counters"),
            RecordKey::Node(id) => write!(f, "node/{id}"),
            RecordKey::Token(id) => write!(f, "join-token/{id}"),
            RecordKey::Network(vni) => write!(f, "network/{vni}"),
            RecordKey::Type(id) => write!(f, "type/{id}"),
            RecordKey::Instance(id) => write!(f, "instance/{id}"),
            RecordKey::Binding(key) => write!(f, "binding/{key}"),
            RecordKey::Operation(id) => write!(f, "operation/{id}"),
            RecordKey::ApiToken(id) => write!(f, "api-token/{id}"),
            RecordKey::IdempotencyKey(principal, key) => write!(f, "idempotency-key/{principal}/{key}"),
        }
    }
}

/// The cluster itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// What it is called.
    pub name: String,
    /// A random number of this store: revisions of one epoch mean nothing in another.
    pub epoch: u64,
    /// When it was made.
    pub created: Timestamp,
}

/// The next number of each kind, and the revision. They only rise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// The newest change of what nodes see, and the newest generation.
    pub revision: Revision,
    /// The last node's number.
    pub node: u64,
    /// The last join token's.
    pub token: u64,
    /// The last type's.
    pub instance_type: u64,
    /// The last instance's.
    pub instance: u64,
    /// The last operation's.
    pub operation: u64,
    /// The last API token's.
    pub api_token: u64,
    /// The last MAC's lower 24 bits.
    pub mac: u32,
    /// The last VNI that was chosen here.
    pub vni: u32,
}

impl Counters {
    /// The next number of one of the counters above.
    pub(crate) fn next(counter: &mut u64) -> u64 {
        *counter = counter.saturating_add(1);
        *counter
    }

    pub(crate) fn next_mac(&mut self) -> Result<crate::ids::Mac, Refusal> {
        if self.mac >= 0x00ff_ffff {
            return Err(Refusal::exhausted("all 16,777,215 MACs of the cluster have been given out"));
        }
        self.mac += 1;
        let [_, a, b, c] = self.mac.to_be_bytes();
        Ok(crate::ids::Mac([0x02, 0x73, 0x69, a, b, c]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_and_records_keep_their_shape() {
        let key =
            BindingKey { vni: Vni(100), vlans: vec![10, 20], mac: "02:73:69:00:00:01".parse().unwrap() };
        assert_eq!(RecordKey::Binding(key).to_string(), "binding/100/10.20/02:73:69:00:00:01");
        assert_eq!(RecordKey::Node(NodeId(7)).to_string(), "node/node-7");
        let text = r#"{"node":{"id":"node-7","name":"a","state":"enrolled","unknown":1}}"#;
        let Ok(Record::Node(node)) = serde_json::from_str(text) else { panic!("not a node") };
        assert_eq!((node.id, node.state, node.labels.len()), (NodeId(7), NodeState::Enrolled, 0));
        let text = r#"{"binding":{"key":{"vni":1,"mac":"02:00:00:00:00:01"},"node":"node-1","generation":3,"source":"learned","state":"active"}}"#;
        assert!(matches!(serde_json::from_str(text), Ok(Record::Binding(b)) if b.ips.is_empty()));
    }
}
