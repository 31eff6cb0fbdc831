//! Compute nodes.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode, response::Response};
use controller_api::rest::{
    AddComputeNode, ComputeNode, ComputeNodeAdded, ComputeNodeState, Join, Operation, Page,
    RemoveComputeNode, RenewToken, UpdateComputeNode,
};
use controller_registry::{Command, NewNode, NodeId, OperationId, Outcome, SecretHash};
use node_session::token::{Secret, Token};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    call::{Answer, Call, internal, unexpected},
    convert,
    extract::{JsonBody, OptionalBody, Path, Query},
    page::Part,
    problem::ApiError,
};
use crate::{engine, provider::join_command};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list_compute_nodes, add_compute_node))
        .routes(routes!(get_compute_node, update_compute_node, remove_compute_node))
        .routes(routes!(renew_token))
}

/// The provider that is a person: the caller gets the token.
const MANUAL: &str = "manual";
const TTL_DEFAULT: u64 = 3600;
const TTL_MAX: u64 = 30 * 24 * 3600;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListComputeNodes {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
    /// Only those that are so; absent for all that are not removed.
    #[param(inline)]
    state: Option<ComputeNodeState>,
}

/// Lists the compute nodes.
#[utoipa::path(get, path = "/v1/compute-nodes", tag = "compute nodes", params(ListComputeNodes),
    responses((status = 200, description = "A part of the list.", body = Page<ComputeNode>)))]
async fn list_compute_nodes(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListComputeNodes>,
) -> Result<Json<Page<ComputeNode>>, ApiError> {
    let part = Part::<NodeId>::new(query.limit, query.cursor.as_deref())?;
    let page = api
        .engine
        .read(|registry| {
            let nodes = registry.nodes().values().filter(|node| {
                let state = convert::compute_node_state(registry, node);
                query.state.map_or(state != ComputeNodeState::Removed, |wanted| wanted == state)
            });
            part.of(nodes, |node| node.id, |node| convert::compute_node(registry, &api.observed, node))
        })
        .await;
    Ok(Json(page))
}

/// Adds a compute node: invites it with a join token, or has a provider make it.
#[utoipa::path(post, path = "/v1/compute-nodes", tag = "compute nodes", request_body = AddComputeNode,
    responses(
        (status = 201, description = "It is invited: run `join.command` on its machine.", body = ComputeNodeAdded,
            headers(("Location" = String, description = "Where the node is."))),
        (status = 202, description = "The provider makes it; `operation` ends when it has joined.", body = ComputeNodeAdded,
            headers(("Location" = String, description = "Where the operation is.")))))]
async fn add_compute_node(
    State(api): State<Arc<Api>>,
    call: Call,
    JsonBody(add): JsonBody<AddComputeNode>,
) -> Result<Response, ApiError> {
    let ttl = ttl(add.token_ttl_seconds)?;
    let secret = Secret::generate();
    let command = Command::AddComputeNode(NewNode {
        provider: add.provider,
        node_type: add.node_type.filter(|name| !name.is_empty()),
        name: add.name,
        labels: add.labels.unwrap_or_default(),
        secret_hash: SecretHash(secret.hash()),
        ttl_ms: millis(ttl),
    });
    let answer = async |outcome, fresh: bool| {
        let Outcome::NodeAdded { node, operation, .. } = outcome else { return Err(unexpected(&outcome)) };
        added(&api, node, Some(operation), fresh.then_some((&secret, ttl))).await
    };
    call.carry_out(&api, command, answer).await
}

/// Shows a compute node.
#[utoipa::path(get, path = "/v1/compute-nodes/{compute_node}", tag = "compute nodes",
    params(("compute_node" = String, Path, description = "Its id or name.", example = "rack1-a")),
    responses((status = 200, description = "The node.", body = ComputeNode)))]
async fn get_compute_node(
    State(api): State<Arc<Api>>,
    Path(compute_node): Path<String>,
) -> Result<Json<ComputeNode>, ApiError> {
    let found = api
        .engine
        .read(|registry| {
            let node = registry.find_node(&compute_node)?;
            Ok::<_, ApiError>(convert::compute_node(registry, &api.observed, node))
        })
        .await?;
    Ok(Json(found))
}

/// Changes a compute node: whether it gets new instances, and its labels.
#[utoipa::path(patch, path = "/v1/compute-nodes/{compute_node}", tag = "compute nodes",
    request_body = UpdateComputeNode,
    params(("compute_node" = String, Path, description = "Its id or name.", example = "rack1-a")),
    responses((status = 200, description = "The node as it is now.", body = ComputeNode)))]
async fn update_compute_node(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(node): Path<String>,
    JsonBody(update): JsonBody<UpdateComputeNode>,
) -> Result<Response, ApiError> {
    let reference = node.clone();
    let command = Command::UpdateNode { node, schedulable: update.schedulable, labels: update.labels };
    let answer = async |_, _| {
        let found = api
            .engine
            .read(|registry| {
                let node = registry.find_node(&reference)?;
                Ok::<_, ApiError>(convert::compute_node(registry, &api.observed, node))
            })
            .await?;
        Ok(Answer::new(StatusCode::OK, &found)?.noting(Some(found.id), None))
    };
    call.carry_out(&api, command, answer).await
}

/// Removes a compute node: moves its instances to other nodes, then refuses its key for good.
///
/// If its instances cannot be moved the operation fails and the node stays, unless `force` is true: then they go with
/// it. With `now`, for a node that was stolen or is lost, nothing is moved: its key is refused and its peers are told at
/// once, and its instances go with it.
#[utoipa::path(delete, path = "/v1/compute-nodes/{compute_node}", tag = "compute nodes",
    params(("compute_node" = String, Path, description = "Its id or name.", example = "rack1-a"), RemoveComputeNode),
    responses((status = 202, description = "The operation.", body = Operation,
            headers(("Location" = String, description = "Where the operation is."))),
        (status = 204, description = "It is gone already.")))]
async fn remove_compute_node(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(node): Path<String>,
    Query(query): Query<RemoveComputeNode>,
) -> Result<Response, ApiError> {
    call.begin(&api, Command::RemoveComputeNode { node, force: query.force, now: query.now }).await
}

/// Makes a new join token for a node that has not joined; the old one ends.
#[utoipa::path(post, path = "/v1/compute-nodes/{compute_node}/token", tag = "compute nodes",
    request_body = Option<RenewToken>,
    params(("compute_node" = String, Path, description = "Its id or name.", example = "rack1-a")),
    responses((status = 201, description = "The node with its new token.", body = ComputeNodeAdded,
        headers(("Location" = String, description = "Where the node is.")))))]
async fn renew_token(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(node): Path<String>,
    OptionalBody(renew): OptionalBody<RenewToken>,
) -> Result<Response, ApiError> {
    let ttl = ttl(renew.token_ttl_seconds)?;
    let secret = Secret::generate();
    let command = Command::RenewToken { node, secret_hash: SecretHash(secret.hash()), ttl_ms: millis(ttl) };
    let answer = async |outcome, fresh: bool| {
        let Outcome::Token { node, .. } = outcome else { return Err(unexpected(&outcome)) };
        added(&api, node, None, fresh.then_some((&secret, ttl))).await
    };
    call.carry_out(&api, command, answer).await
}

async fn added(
    api: &Api,
    node: NodeId,
    operation: Option<OperationId>,
    secret: Option<(&Secret, Duration)>,
) -> Result<Answer, ApiError> {
    let found = api
        .engine
        .read(|registry| {
            let record = registry.nodes().get(&node)?;
            let operation = operation.and_then(|id| registry.operations().get(&id)).map(convert::operation);
            let compute_node = convert::compute_node(registry, &api.observed, record);
            Some((compute_node, operation, registry.cluster()?.name.clone()))
        })
        .await;
    let (compute_node, operation, cluster) = found.ok_or_else(|| internal("the node went at once"))?;
    let manual = compute_node.provider == MANUAL;
    // A provider gets a token of its own.
    let join = match secret.filter(|_| manual || operation.is_none()) {
        Some((secret, ttl)) => Some(join(api, secret, ttl, cluster)?),
        None => None,
    };
    let operation = operation.filter(|_| !manual);
    let (status, location) = match &operation {
        Some(operation) => (StatusCode::ACCEPTED, format!("/v1/operations/{}", operation.id)),
        None => (StatusCode::CREATED, format!("/v1/compute-nodes/{node}")),
    };
    let note = operation.as_ref().map(|operation| operation.id.clone());
    let answer = Answer::new(status, &ComputeNodeAdded { compute_node, join, operation })?.at(location);
    Ok(answer.noting(Some(node.to_string()), note))
}

fn join(api: &Api, secret: &Secret, ttl: Duration, cluster: String) -> Result<Join, ApiError> {
    let expires = engine::now().plus(millis(ttl));
    let token = Token {
        addresses: api.identity.addresses.clone(),
        controller: api.identity.public_key,
        secret: secret.clone(),
        expires: expires.0 / 1000,
        cluster,
    };
    token.check().map_err(|error| internal(&error.to_string()))?;
    let token = token.to_string();
    Ok(Join { command: join_command(&token), token, expires_at: convert::time(expires) })
}

fn ttl(seconds: Option<u64>) -> Result<Duration, ApiError> {
    let seconds = seconds.unwrap_or(TTL_DEFAULT);
    if !(1..=TTL_MAX).contains(&seconds) {
        let detail = format!("a join token is good for 1 to {TTL_MAX} seconds");
        return Err(ApiError::invalid("token_ttl_seconds", detail));
    }
    Ok(Duration::from_secs(seconds))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
