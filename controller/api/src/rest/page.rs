//! A part of a list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A part of a list, in the order of the ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries of this part.
    pub items: Vec<T>,
    /// Give it as `cursor` for the next part; absent from the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "aW5zdC0xMDA")]
    pub next_cursor: Option<String>,
}
