//! What every request passes: outermost its id, problem documents, metrics and the audit log; then token, role, body
//! and time.

use std::{
    collections::HashMap, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration, time::Instant,
};

use aws_lc_rs::rand;
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tracing::{error, warn};

use super::{
    Api,
    auth::{self, Caller},
    call::{self, IDEMPOTENCY_KEY, Notes},
    convert, events,
    extract::read_body,
    openapi, operations,
    problem::{ApiError, ProblemKind, Unfinished, shortened},
};
use crate::{audit::AuditEntry, engine};

/// Where a request comes from. [`serve`](super::serve) puts it into each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteAddress(pub SocketAddr);

/// What the middleware needs.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) api: Arc<Api>,
    /// The operation ids by method and path.
    pub(crate) names: Arc<HashMap<(Method, String), String>>,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a handler may take; one that waits for an operation may wait so much longer.
const HANDLER_TIME: Duration = Duration::from_secs(30);

/// Gives the request its id, and tells problems, metrics and the audit log of the answer.
pub(crate) async fn observe(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let id = request_id();
    let api = &shared.api;
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let name = matched.and_then(|path| {
        shared.names.get(&(if method == Method::HEAD { Method::GET } else { method.clone() }, path))
    });
    let name = name.map_or("", String::as_str);
    let path = request.uri().path().to_owned();
    let remote = request.extensions().get::<RemoteAddress>().map(|remote| remote.0);
    let key = request.headers().get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).map(shortened);

    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            error!(request = id, operation = name, "a handler panicked: {}", words(&*panic));
            api.metrics.panicked();
            call::internal("the controller made a mistake with this request").into_response()
        }
    };
    if let Some(Unfinished(problem)) = response.extensions_mut().remove() {
        api.metrics.api_refused(problem.kind().word());
        if problem.kind() == ProblemKind::Internal {
            error!(request = id, operation = name, "{problem}");
        }
        let extensions = std::mem::take(response.extensions_mut());
        let headers = std::mem::take(response.headers_mut());
        response = problem.finish(&id);
        *response.extensions_mut() = extensions;
        // `Allow`, say; the length is that of the body which was not made yet.
        for (name, value) in headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH) {
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
    }
    let status = response.status().as_u16();
    response.headers_mut().insert(REQUEST_ID, HeaderValue::try_from(&id).expect("the id is hexadecimal"));
    api.metrics.api_answered(if name.is_empty() { "none" } else { name }, status, begin.elapsed());

    if !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        let caller = response.extensions_mut().remove::<Caller>();
        let notes = response.extensions_mut().remove::<Notes>().unwrap_or_default();
        let entry = AuditEntry {
            time: convert::time(engine::now()),
            role: caller.as_ref().map(|caller| caller.role),
            principal: caller.map(|caller| caller.name),
            remote,
            method: shortened(method.as_str()),
            path: shortened(&path),
            operation: name.to_owned(),
            status,
            subject: notes.subject,
            operation_id: notes.operation,
            idempotency_key: key,
            request_id: id,
        };
        match api.audit.write(&entry) {
            Ok(()) => api.metrics.audited(),
            Err(error) => {
                api.metrics.audit_failed();
                warn!(
                    "{error}: {}",
                    std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
                );
            }
        }
    }
    response
}

/// Lets in who may, with what is small and quick enough.
pub(crate) async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()) else {
        return next.run(request).await;
    };
    let known = request.method() == Method::HEAD && shared.names.contains_key(&(Method::GET, path.clone()))
        || shared.names.contains_key(&(request.method().clone(), path.clone()));
    if openapi::is_open(&path) || !known {
        return next.run(request).await;
    }
    let caller = match auth::authenticate(&shared.api.engine, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let needed = auth::role_needed(request.method(), &path);
    let response = if caller.role < needed {
        ApiError::role(needed, caller.role).into_response()
    } else {
        carry_on(&path, caller.clone(), request, next).await.unwrap_or_else(IntoResponse::into_response)
    };
    let mut response = response;
    response.extensions_mut().insert(caller);
    response
}

async fn carry_on(path: &str, caller: Caller, request: Request, next: Next) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(caller);
    let body = read_body(&parts.headers, body).await?;
    if let Some(claim) = call::claim(&parts.method, &parts.uri, &parts.headers, &body)? {
        parts.extensions.insert(claim);
    }
    let time = match path {
        operations::WAITING => HANDLER_TIME + operations::MAX_WAIT,
        _ => HANDLER_TIME,
    };
    let answer = next.run(Request::from_parts(parts, Body::from(body)));
    // The event stream's answer is there at once; only its body lasts.
    debug_assert!(path != events::PATH || time == HANDLER_TIME);
    tokio::time::timeout(time, answer).await.map_err(|_| {
        ApiError::new(ProblemKind::Unavailable, "the controller could not do this in time")
            .mend("try again in a moment, with an Idempotency-Key if it is a POST")
    })
}

pub(crate) async fn not_found(request: Request) -> ApiError {
    let path = shortened(request.uri().path());
    ApiError::new(ProblemKind::NotFound, format!("there is nothing at `{path}`"))
        .mend("GET /openapi.json has all paths")
}

pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (shortened(request.method().as_str()), shortened(request.uri().path()));
    ApiError::new(ProblemKind::MethodNotAllowed, format!("`{path}` knows no {method}"))
        .mend("the header `Allow` has the methods that it knows")
}

fn request_id() -> String {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the operating system's random source does not fail once it is seeded");
    format!("req-{:016x}", u64::from_be_bytes(bytes))
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}
