//! Operations.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, response::Response};
use controller_api::rest::{Operation, OperationKind, OperationState, Page};
use controller_registry as registry;
use controller_registry::{Command, OperationId, Subject};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    call::Call,
    convert,
    extract::{Path, Query},
    page::Part,
    problem::ApiError,
};

/// The path whose handler may wait.
pub(crate) const WAITING: &str = "/v1/operations/{operation}";
/// How long it may.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list_operations))
        .routes(routes!(get_operation))
        .routes(routes!(cancel_operation))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListOperations {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
    /// Only those of this kind.
    #[param(inline)]
    kind: Option<OperationKind>,
    /// Only those that are so.
    #[param(inline)]
    state: Option<OperationState>,
    /// Only those about this node, by id or name.
    compute_node: Option<String>,
    /// Only those about this instance, by id or name.
    instance: Option<String>,
}

/// Lists the operations, the oldest first. Those that ended long ago are forgotten.
#[utoipa::path(get, path = "/v1/operations", tag = "operations", params(ListOperations),
    responses((status = 200, description = "A part of the list.", body = Page<Operation>)))]
async fn list_operations(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListOperations>,
) -> Result<Json<Page<Operation>>, ApiError> {
    let part = Part::<OperationId>::new(query.limit, query.cursor.as_deref())?;
    let page = api
        .engine
        .read(|registry| {
            let node = query.compute_node.as_deref().map(|node| registry.find_node(node)).transpose()?;
            // One that is gone has operations, too: by its id.
            let instance = query.instance.as_deref().map(|reference| match reference.parse() {
                Ok(id) => Ok(id),
                Err(_) => registry.find_instance(reference).map(|instance| instance.id),
            });
            let instance = instance.transpose()?;
            let wanted = |operation: &&registry::Operation| {
                let about = |subject| operation.subjects.contains(&subject);
                node.is_none_or(|node| about(Subject::Node(node.id)))
                    && instance.is_none_or(|id| about(Subject::Instance(id)))
                    && query.kind.is_none_or(|kind| convert::operation_kind(operation.kind) == kind)
                    && query.state.is_none_or(|state| convert::operation_state(operation.state) == state)
            };
            let operations = registry.operations().values().filter(wanted);
            Ok::<_, ApiError>(part.of(operations, |operation| operation.id, convert::operation))
        })
        .await?;
    Ok(Json(page))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// Seconds to wait until it has ended; then, or when it has, it is shown as it is.
    #[param(minimum = 0, maximum = 60, default = 0, example = 30)]
    wait: Option<u64>,
}

/// Shows an operation, at once or when it has ended.
#[utoipa::path(get, path = "/v1/operations/{operation}", tag = "operations",
    params(("operation" = String, Path, description = "Its id.", example = "op-33"), Wait),
    responses((status = 200, description = "The operation.", body = Operation)))]
async fn get_operation(
    State(api): State<Arc<Api>>,
    Path(operation): Path<String>,
    Query(query): Query<Wait>,
) -> Result<Json<Operation>, ApiError> {
    let wait = Duration::from_secs(query.wait.unwrap_or_default());
    if wait > MAX_WAIT {
        return Err(ApiError::invalid("wait", format!("wait at most {} seconds", MAX_WAIT.as_secs())));
    }
    let id = id(&operation)?;
    let deadline = Instant::now() + wait;
    // Before the first look, so that no end is missed.
    let mut events = api.engine.subscribe(None);
    loop {
        let found = api.engine.read(|registry| registry.operations().get(&id).map(convert::operation)).await;
        let found = found.ok_or_else(|| unknown(&operation))?;
        if found.state.is_final() {
            return Ok(Json(found));
        }
        let about_it = async {
            loop {
                match events.next().await {
                    Some(Ok(event)) if event.event.subject != operation => {}
                    // It, or who knows what.
                    _ => return,
                }
            }
        };
        if tokio::time::timeout_at(deadline, about_it).await.is_err() {
            return Ok(Json(found));
        }
    }
}

/// Cancels an operation and takes back what it did, where that is possible.
#[utoipa::path(post, path = "/v1/operations/{operation}/cancel", tag = "operations",
    params(("operation" = String, Path, description = "Its id.", example = "op-33")),
    responses((status = 202, description = "The operation.", body = Operation,
            headers(("Location" = String, description = "Where the operation is.")))))]
async fn cancel_operation(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(operation): Path<String>,
) -> Result<Response, ApiError> {
    let operation = id(&operation)?;
    let answer = async |_, _| api.operation_answer(operation).await;
    call.carry_out(&api, Command::CancelOperation { operation }, answer).await
}

fn id(text: &str) -> Result<OperationId, ApiError> {
    text.parse().map_err(|_| unknown(text))
}

fn unknown(text: &str) -> ApiError {
    ApiError::not_found("operation", text, "/v1/operations")
}
