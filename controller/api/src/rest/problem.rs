//! What went wrong, RFC 9457.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of every answer that is an error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was refused or failed (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, the same for all of its kind: `/problems/` and a word.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/problems/not-found")]
    pub kind: String,
    /// The kind in words.
    #[schema(example = "Not found")]
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 404)]
    pub status: u16,
    /// What is wrong with this request.
    #[schema(example = "there is no instance `web`")]
    pub detail: String,
    /// The id of the request, as in the header `x-request-id` and the controller's logs.
    #[schema(example = "req-5f2c9a1e0b7d4c33")]
    pub instance: String,
    /// The field of the body, the query or the path that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "compute_node")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "list them with GET /v1/instances")]
    pub mend: Option<String>,
}
