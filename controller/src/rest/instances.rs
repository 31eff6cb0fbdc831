//! Instances.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use controller_api::rest::{Allocate, Instance, InstanceState, Migrate, Operation, Page};
use controller_registry as registry;
use controller_registry::{Command, InstanceId, NewInstance};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    call::Call,
    convert,
    extract::{JsonBody, Path, Query},
    page::Part,
    problem::ApiError,
};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list_instances, allocate))
        .routes(routes!(get_instance, delete_instance))
        .routes(routes!(start_instance))
        .routes(routes!(stop_instance))
        .routes(routes!(migrate))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListInstances {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
    /// Only those that live on this node, by id or name.
    compute_node: Option<String>,
    /// Only those of this type, by name.
    #[serde(rename = "type")]
    instance_type: Option<String>,
    /// Only those on this network, by VNI or name.
    network: Option<String>,
    /// Only those that are so.
    #[param(inline)]
    state: Option<InstanceState>,
}

/// Lists the instances.
#[utoipa::path(get, path = "/v1/instances", tag = "instances", params(ListInstances),
    responses((status = 200, description = "A part of the list.", body = Page<Instance>)))]
async fn list_instances(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListInstances>,
) -> Result<Json<Page<Instance>>, ApiError> {
    let part = Part::<InstanceId>::new(query.limit, query.cursor.as_deref())?;
    let page = api
        .engine
        .read(|registry| {
            let node = query.compute_node.as_deref().map(|node| registry.find_node(node)).transpose()?;
            let network =
                query.network.as_deref().map(|network| registry.find_network(network)).transpose()?;
            let wanted = |instance: &&registry::Instance| {
                node.is_none_or(|node| instance.node == node.id)
                    && network.is_none_or(|network| instance.nics.iter().any(|nic| nic.vni == network.vni))
                    && query.instance_type.as_ref().is_none_or(|name| instance.instance_type == *name)
                    && query.state.is_none_or(|state| convert::instance_state(registry, instance) == state)
            };
            let instances = registry.instances().values().filter(wanted);
            Ok::<_, ApiError>(part.of(instances, |i| i.id, |i| convert::instance(registry, i)))
        })
        .await?;
    Ok(Json(page))
}

/// Makes an instance and starts it.
#[utoipa::path(post, path = "/v1/instances", tag = "instances", request_body = Allocate,
    responses((status = 202, description = "The operation; its first subject is the instance.", body = Operation,
        headers(("Location" = String, description = "Where the operation is.")))))]
async fn allocate(
    State(api): State<Arc<Api>>,
    call: Call,
    JsonBody(allocate): JsonBody<Allocate>,
) -> Result<Response, ApiError> {
    let command = Command::Allocate(NewInstance {
        node: allocate.compute_node,
        instance_type: allocate.instance_type,
        name: allocate.name,
        networks: allocate.networks.unwrap_or_default(),
        image: allocate.image,
        command: allocate.command.unwrap_or_default(),
        env: allocate.environment.unwrap_or_default(),
        ips: allocate.ips.unwrap_or_default(),
    });
    call.begin(&api, command).await
}

/// Shows an instance.
#[utoipa::path(get, path = "/v1/instances/{instance}", tag = "instances",
    params(("instance" = String, Path, description = "Its id or name.", example = "web")),
    responses((status = 200, description = "The instance.", body = Instance)))]
async fn get_instance(
    State(api): State<Arc<Api>>,
    Path(instance): Path<String>,
) -> Result<Json<Instance>, ApiError> {
    let found = api
        .engine
        .read(|registry| registry.find_instance(&instance).map(|found| convert::instance(registry, found)))
        .await?;
    Ok(Json(found))
}

/// Stops an instance and deletes it with its disk.
#[utoipa::path(delete, path = "/v1/instances/{instance}", tag = "instances",
    params(("instance" = String, Path, description = "Its id or name.", example = "web")),
    responses((status = 202, description = "The operation.", body = Operation,
            headers(("Location" = String, description = "Where the operation is."))),
        (status = 204, description = "It is gone already.")))]
async fn delete_instance(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(instance): Path<String>,
) -> Result<Response, ApiError> {
    call.begin(&api, Command::DeleteInstance { instance }).await
}

/// Starts a stopped instance.
#[utoipa::path(post, path = "/v1/instances/{instance}/start", tag = "instances",
    params(("instance" = String, Path, description = "Its id or name.", example = "web")),
    responses((status = 202, description = "The operation.", body = Operation,
            headers(("Location" = String, description = "Where the operation is."))),
        (status = 204, description = "It runs already.")))]
async fn start_instance(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(instance): Path<String>,
) -> Result<Response, ApiError> {
    call.begin(&api, Command::StartInstance { instance }).await
}

/// Stops an instance. Its disk, MACs and IPs stay.
#[utoipa::path(post, path = "/v1/instances/{instance}/stop", tag = "instances",
    params(("instance" = String, Path, description = "Its id or name.", example = "web")),
    responses((status = 202, description = "The operation.", body = Operation,
            headers(("Location" = String, description = "Where the operation is."))),
        (status = 204, description = "It is stopped already.")))]
async fn stop_instance(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(instance): Path<String>,
) -> Result<Response, ApiError> {
    call.begin(&api, Command::StopInstance { instance }).await
}

/// Moves an instance to another node: it is stopped, moved with its disk and started, with the same MACs and IPs.
#[utoipa::path(post, path = "/v1/instances/{instance}/migrate", tag = "instances", request_body = Migrate,
    params(("instance" = String, Path, description = "Its id or name.", example = "web")),
    responses((status = 202, description = "The operation.", body = Operation,
            headers(("Location" = String, description = "Where the operation is."))),
        (status = 204, description = "It is there already.")))]
async fn migrate(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(instance): Path<String>,
    JsonBody(migrate): JsonBody<Migrate>,
) -> Result<Response, ApiError> {
    call.begin(&api, Command::Migrate { instance, node: migrate.compute_node }).await
}
