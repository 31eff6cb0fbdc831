//! The management API: REST over TLS, under `/v1`.
//!
//! [`router`] is the whole of it and needs no network; [`serve`] offers it on a listener. Every request passes
//! `observe` (its id, problems, metrics, audit) and `admit` (token, role, size and time), then a handler, which
//! asks the [`Engine`] and renders what it finds. A handler's name is its operation id in the OpenAPI document.

mod access;
mod auth;
mod bindings;
mod call;
mod cluster;
mod compute_nodes;
mod convert;
mod events;
mod extract;
mod instances;
mod links;
mod networks;
mod observe;
mod openapi;
mod operations;
mod page;
mod problem;
mod serve;
mod stall;
#[cfg(test)]
mod tests;
mod tls;
mod types;

use std::{collections::HashMap, sync::Arc};

use axum::{Router, middleware};
use controller_registry::Timestamp;
use node_session::key::PublicKey;
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

use crate::{audit::AuditLog, engine::Engine, metrics::Metrics, nodes::Observed};

pub use auth::Caller;
pub use extract::{BODY_TIME, MAX_BODY};
pub use observe::RemoteAddress;
pub use openapi::document as openapi_document;
pub use page::{DEFAULT_LIMIT, MAX_LIMIT};
pub use problem::{ApiError, ProblemKind};
pub use serve::{ALPN, ServeError, ServeLimits, serve, serve_metrics};
pub use tls::{TlsError, tls_config};

/// What the API stands on.
#[derive(Debug)]
pub struct Api {
    /// Decides and keeps.
    pub engine: Engine,
    /// What switches said of their links.
    pub observed: Arc<Observed>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Who changed what.
    pub audit: AuditLog,
    /// What join tokens say of this controller.
    pub identity: Identity,
    /// When the controller's process started.
    pub started: Timestamp,
    /// False until the controller can do its work, and again once it stops.
    pub ready: watch::Receiver<bool>,
    /// Readers of the event stream that there is still room for; [`MAX_WATCHERS`] at first.
    pub watchers: Arc<Semaphore>,
}

/// More readers of the event stream are refused.
pub const MAX_WATCHERS: usize = 256;

/// What join tokens say of a controller.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The key that nodes pin.
    pub public_key: PublicKey,
    /// Where nodes reach it, `host:port`, best first.
    pub addresses: Vec<String>,
}

/// The whole API, with its middleware.
pub fn router(api: &Arc<Api>) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = openapi::finish(&document);
    let names: Arc<HashMap<_, _>> = Arc::new(openapi::operation_ids(&document));
    let state = observe::Shared { api: api.clone(), names };
    router
        .merge(openapi::served(&document))
        .fallback(observe::not_found)
        .method_not_allowed_fallback(observe::method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), observe::admit))
        .layer(middleware::from_fn_with_state(state, observe::observe))
        .with_state(api.clone())
}

fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(cluster::routes())
        .merge(compute_nodes::routes())
        .merge(types::routes())
        .merge(networks::routes())
        .merge(instances::routes())
        .merge(bindings::routes())
        .merge(links::routes())
        .merge(operations::routes())
        .merge(events::routes())
        .merge(access::routes())
}
