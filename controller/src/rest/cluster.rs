//! The cluster as a whole: what there is, whether the controller works, its metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use controller_api::rest::{Cluster, ClusterCounts};
use controller_registry::{NodeState, Phase};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, convert,
    problem::{ApiError, ProblemKind},
};
use crate::metrics::TEXT_FORMAT;

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(get_cluster))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(get_metrics))
}

/// Shows the cluster and its controller.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster",
    responses((status = 200, description = "The cluster.", body = Cluster)))]
async fn get_cluster(State(api): State<Arc<Api>>) -> Result<Json<Cluster>, ApiError> {
    let found = api
        .engine
        .read(|registry| {
            let online = |id| registry.runtime(id).is_some_and(|runtime| runtime.switch.is_some());
            let nodes = || registry.nodes().values().filter(|node| node.state != NodeState::Removed);
            let counts = ClusterCounts {
                compute_nodes: nodes().count() as u64,
                compute_nodes_online: nodes().filter(|node| online(node.id)).count() as u64,
                instances: registry.instances().len() as u64,
                instances_running: registry.instances().values().filter(|i| i.phase == Phase::Running).count()
                    as u64,
                networks: registry.networks().len() as u64,
                bindings: registry.bindings().len() as u64,
                operations_running: registry.operations().values().filter(|o| !o.is_finished()).count()
                    as u64,
            };
            Some((registry.cluster()?.clone(), registry.revision(), counts))
        })
        .await;
    let (cluster, revision, counts) = found.ok_or_else(|| {
        ApiError::new(ProblemKind::NotReady, "there is no cluster yet").mend("run `controller init`")
    })?;
    Ok(Json(Cluster {
        name: cluster.name,
        public_key: api.identity.public_key.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node_addresses: api.identity.addresses.clone(),
        epoch: format!("{:016x}", cluster.epoch),
        revision: revision.0,
        started_at: convert::time(api.started),
        counts,
    }))
}

/// Tells that the controller's process answers. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "cluster",
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Tells whether the controller can do its work. Needs no token.
#[utoipa::path(get, path = "/readyz", tag = "cluster",
    responses((status = 200, description = "It can.", body = String, content_type = "text/plain")))]
async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    if *api.ready.borrow() {
        return Ok("ready\n");
    }
    Err(ApiError::new(ProblemKind::Unavailable, "the controller starts or stops")
        .mend("try again in a moment"))
}

/// Tells the controller's metrics, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "cluster",
    responses((status = 200, description = "They.", body = String, content_type = "text/plain")))]
async fn get_metrics(State(api): State<Arc<Api>>) -> Response {
    let text = api.metrics.render(&api.engine).await;
    ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT))], text).into_response()
}
