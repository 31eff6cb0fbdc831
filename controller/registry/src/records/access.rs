//! Who may call the API, and what a repeated call is answered.

use serde::{Deserialize, Serialize};

use crate::{
    command::Outcome,
    ids::{ApiTokenId, SecretHash, Timestamp},
};

/// A bearer token of the API.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// Its name, which the audit log shows.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// From then on it is refused.
    pub expires: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// What a caller may do. Each may do what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    #[default]
    Reader,
    /// Instances, networks, nodes, bindings.
    Operator,
    /// Everything, tokens too.
    Admin,
}

/// A call that was made with an idempotency key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IdempotencyKey {
    /// The caller's key.
    pub key: String,
    /// The caller. Each has its own keys.
    pub principal: String,
    /// A hash of the call, to tell a repetition from another call with the same key.
    pub request_hash: SecretHash,
    /// What the command came to.
    pub outcome: Option<Outcome>,
    /// The answer's status; 0 as long as it is not known.
    pub status: u16,
    /// The answer's body.
    pub body: String,
    /// From then on the key is free again.
    pub expires: Timestamp,
}
