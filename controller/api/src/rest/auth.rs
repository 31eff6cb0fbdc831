//! Who may call what.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// What a token may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May read everything but tokens.
    Reader,
    /// May also change nodes, types, networks, bindings and instances.
    Operator,
    /// May also make and remove tokens.
    Admin,
}

impl Role {
    /// As in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Never reused.
    #[schema(example = "token-3")]
    pub id: String,
    /// Unique; what the audit log calls its holder.
    #[schema(example = "ci")]
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Makes an API token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Unique among tokens: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        example = "ci"
    )]
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Seconds until it ends; absent for one that does not. At most ten years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315_360_000, example = 86_400)]
    pub ttl_seconds: Option<u64>,
}

/// A new API token. Its secret is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiTokenCreated {
    /// The token.
    pub token: ApiToken,
    /// For the header `Authorization: Bearer`. The controller keeps only its hash, so an answer that is repeated for
    /// its idempotency key lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "skt_8b0Jb1yYy3mXv0oN1nWm0cUuVvK6r0oTgq7fJ2z6d1E")]
    pub secret: Option<String>,
}

impl fmt::Debug for ApiTokenCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiTokenCreated").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Whose token a request carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The token's id.
    #[schema(example = "token-1")]
    pub token_id: String,
    /// The token's name.
    #[schema(example = "admin")]
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}
