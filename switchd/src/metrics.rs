//! `/metrics` for Prometheus, `/healthz` and `/readyz`. The crate `prometheus` is named in this module only.

mod families;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;
use tokio::time::timeout;

use self::families::ViewCollector;
use crate::view::View;

/// Binds the HTTP server's address.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, MetricsError> {
    TcpListener::bind(listen).await.map_err(|source| MetricsError::Bind { listen, source })
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, view: Arc<dyn View>) -> Result<(), MetricsError> {
    let registry = Registry::new();
    registry.register(Box::new(ViewCollector::new(Arc::clone(&view)))).map_err(MetricsError::Register)?;
    let state = Shared { registry, view };
    let routes = Router::new()
        .route("/", get(|| async { "switchd: /metrics /healthz /readyz\n" }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state);
    axum::serve(listener, routes).await.map_err(MetricsError::Serve)
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address is taken or not this machine's.
    #[error("could not bind the metrics address {listen}: set metrics.listen to another, or to \"off\"")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A metric is defined twice.
    #[error("could not register the metrics")]
    Register(#[source] prometheus::Error),
    /// The server ended.
    #[error("the metrics server ended")]
    Serve(#[source] std::io::Error),
}

#[derive(Clone)]
struct Shared {
    registry: Registry,
    view: Arc<dyn View>,
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match TextEncoder::new().encode_to_string(&shared.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match timeout(WORKER, shared.view.worker_answers()).await {
        Ok(true) => (StatusCode::OK, "ok\n"),
        Ok(false) => (StatusCode::SERVICE_UNAVAILABLE, "the worker has stopped\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the worker did not answer within 2 s\n"),
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let status = shared.view.status();
    if status.ready {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let reasons: String = status.not_ready_because.iter().map(|reason| format!("{reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, if reasons.is_empty() { "not ready\n".to_owned() } else { reasons })
}

const WORKER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
