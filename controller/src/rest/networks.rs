//! Networks.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use controller_api::rest::{AntiSpoof, CreateNetwork, Network, NetworkMode, Page, UpdateNetwork};
use controller_registry as registry;
use controller_registry::{Command, NetworkUpdate, NewNetwork, Outcome, Subnet, Vni};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    call::{Answer, Call, internal, unexpected},
    convert,
    extract::{JsonBody, Path, Query},
    page::Part,
    problem::{ApiError, shortened},
};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list_networks, create_network)).routes(routes!(
        get_network,
        update_network,
        delete_network
    ))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListNetworks {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
}

/// Lists the networks.
#[utoipa::path(get, path = "/v1/networks", tag = "networks", params(ListNetworks),
    responses((status = 200, description = "A part of the list.", body = Page<Network>)))]
async fn list_networks(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListNetworks>,
) -> Result<Json<Page<Network>>, ApiError> {
    let part = Part::<u32>::new(query.limit, query.cursor.as_deref())?;
    let page = api
        .engine
        .read(|registry| part.of(registry.networks().values(), |n| n.vni.0, convert::network))
        .await;
    Ok(Json(page))
}

/// Makes a network. Its nodes get it at once.
#[utoipa::path(post, path = "/v1/networks", tag = "networks", request_body = CreateNetwork,
    responses((status = 201, description = "The network.", body = Network,
        headers(("Location" = String, description = "Where it is.")))))]
async fn create_network(
    State(api): State<Arc<Api>>,
    call: Call,
    JsonBody(create): JsonBody<CreateNetwork>,
) -> Result<Response, ApiError> {
    let default = NewNetwork::default();
    let command = Command::CreateNetwork(NewNetwork {
        name: create.name,
        vni: create.vni.map(Vni),
        mode: create.mode.map_or(default.mode, mode),
        mtu: create.mtu.unwrap_or(default.mtu),
        subnet_v4: create.subnet_v4.map(|text| subnet("subnet_v4", &text)).transpose()?,
        subnet_v6: create.subnet_v6.map(|text| subnet("subnet_v6", &text)).transpose()?,
        gateways: create.gateways.unwrap_or_default(),
        dhcp: create.dhcp.map(|text| dhcp(&text)).transpose()?.unwrap_or(default.dhcp),
        anti_spoof: create.anti_spoof.map_or(default.anti_spoof, anti_spoof),
        mss_clamp: create.mss_clamp.unwrap_or(default.mss_clamp),
        broadcast_rate: create.broadcast_rate.unwrap_or(default.broadcast_rate),
        broadcast_burst: create.broadcast_burst.unwrap_or(default.broadcast_burst),
        host: create.host.unwrap_or(default.host),
        nodes: create.compute_nodes.and_then(members),
    });
    call.carry_out(&api, command, async |outcome, _| answer(&api, StatusCode::CREATED, outcome).await).await
}

/// Shows a network.
#[utoipa::path(get, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Its VNI or name.", example = "blue")),
    responses((status = 200, description = "The network.", body = Network)))]
async fn get_network(
    State(api): State<Arc<Api>>,
    Path(network): Path<String>,
) -> Result<Json<Network>, ApiError> {
    Ok(Json(api.engine.read(|registry| registry.find_network(&network).map(convert::network)).await?))
}

/// Changes a network. Its nodes take the change over while they run.
#[utoipa::path(patch, path = "/v1/networks/{network}", tag = "networks", request_body = UpdateNetwork,
    params(("network" = String, Path, description = "Its VNI or name.", example = "blue")),
    responses((status = 200, description = "The network as it is now.", body = Network)))]
async fn update_network(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(network): Path<String>,
    JsonBody(update): JsonBody<UpdateNetwork>,
) -> Result<Response, ApiError> {
    let update = NetworkUpdate {
        mode: update.mode.map(mode),
        mtu: update.mtu,
        gateways: update.gateways,
        dhcp: update.dhcp.map(|text| dhcp(&text)).transpose()?,
        anti_spoof: update.anti_spoof.map(anti_spoof),
        mss_clamp: update.mss_clamp,
        broadcast_rate: update.broadcast_rate,
        broadcast_burst: update.broadcast_burst,
        nodes: update.compute_nodes.map(members),
    };
    let command = Command::UpdateNetwork { network, update };
    call.carry_out(&api, command, async |outcome, _| answer(&api, StatusCode::OK, outcome).await).await
}

/// Deletes a network that no instance is on.
#[utoipa::path(delete, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Its VNI or name.", example = "blue")),
    responses((status = 204, description = "It is gone.")))]
async fn delete_network(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(network): Path<String>,
) -> Result<Response, ApiError> {
    let note = network.clone();
    let answer = async |_, _| Ok(Answer::nothing().noting(Some(note), None));
    call.carry_out(&api, Command::DeleteNetwork { network }, answer).await
}

async fn answer(api: &Api, status: StatusCode, outcome: Outcome) -> Result<Answer, ApiError> {
    let Outcome::Network(vni) = outcome else { return Err(unexpected(&outcome)) };
    let found = api.engine.read(|registry| registry.networks().get(&vni).map(convert::network)).await;
    let found = found.ok_or_else(|| internal("the network went at once"))?;
    let answer = Answer::new(status, &found)?.noting(Some(found.id), None);
    Ok(if status == StatusCode::CREATED { answer.at(format!("/v1/networks/{vni}")) } else { answer })
}

fn mode(mode: NetworkMode) -> registry::Mode {
    match mode {
        NetworkMode::Rewrite => registry::Mode::Rewrite,
        NetworkMode::Preserve => registry::Mode::Preserve,
    }
}

fn anti_spoof(anti_spoof: AntiSpoof) -> registry::AntiSpoof {
    match anti_spoof {
        AntiSpoof::Learn => registry::AntiSpoof::Learn,
        AntiSpoof::Strict => registry::AntiSpoof::Strict,
    }
}

fn subnet(field: &str, text: &str) -> Result<Subnet, ApiError> {
    text.parse().map_err(|error: String| ApiError::invalid(field, shortened(&error)))
}

fn dhcp(text: &str) -> Result<registry::Dhcp, ApiError> {
    let wrong = || {
        let detail = format!("`{}` is no handling of DHCP", shortened(text));
        ApiError::invalid("dhcp", detail).mend("use forward, local-only, or trusted: and the server's MAC")
    };
    match text {
        "forward" => Ok(registry::Dhcp::Forward),
        "local-only" => Ok(registry::Dhcp::LocalOnly),
        _ => {
            let mac = text.strip_prefix("trusted:").ok_or_else(wrong)?;
            Ok(registry::Dhcp::Trusted(mac.parse().map_err(|_| wrong())?))
        }
    }
}

/// `["*"]` is everyone.
fn members(nodes: Vec<String>) -> Option<Vec<String>> {
    (nodes != ["*"]).then_some(nodes)
}
