//! Events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rises; give the last one seen as `Last-Event-ID` to go on after it.
    #[schema(example = "5f2c9a1e0b7d4c33-207")]
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// What happened.
    #[schema(example = "instance-changed")]
    pub kind: String,
    /// The id or the name of what it happened to.
    #[schema(example = "inst-12")]
    pub subject: String,
    /// A sentence.
    #[schema(example = "web runs on rack1-a")]
    pub message: String,
}
