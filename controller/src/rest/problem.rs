//! Refusals and failures as answers: RFC 9457, the same shape everywhere.

use axum::{
    Json,
    extract::rejection::PathRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use controller_api::rest::{PROBLEM_JSON, Problem, Role};
use controller_registry::{Refusal, RefusalKind};

/// Why a request was not done. Becomes an answer with a problem document; the middleware adds the request's id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    kind: ProblemKind,
    detail: String,
    field: Option<String>,
    mend: Option<String>,
    authenticate: bool,
}

/// The kinds of problems, each with its word, its title and its status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProblemKind {
    /// The request is not well-formed.
    Malformed,
    /// A field has a value that it cannot have.
    Invalid,
    /// No valid token.
    Unauthenticated,
    /// The token's role is too low, or the registry forbids it.
    Forbidden,
    /// There is nothing of that name.
    NotFound,
    /// The path knows no such method.
    MethodNotAllowed,
    /// It contradicts what is there.
    Conflict,
    /// The caller decided on the ground of an older state.
    Stale,
    /// No room, no number, no address is left.
    Exhausted,
    /// What it needs is away or not set up yet.
    NotReady,
    /// The body is larger than the limit.
    TooLarge,
    /// The body is no JSON by its header.
    MediaType,
    /// The request came too slowly.
    Timeout,
    /// Too many at once.
    TooMany,
    /// An idempotency key was used for another request.
    KeyReused,
    /// The controller is at fault.
    Internal,
    /// The controller stops or cannot keep what it is told.
    Unavailable,
}

impl ProblemKind {
    /// The last part of the problem's type.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// The answer's status.
    pub fn status(self) -> StatusCode {
        self.row().2
    }

    fn row(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::Malformed => ("malformed", "Malformed request", StatusCode::BAD_REQUEST),
            Self::Invalid => ("invalid", "Invalid value", StatusCode::UNPROCESSABLE_ENTITY),
            Self::Unauthenticated => ("unauthenticated", "No valid token", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "Not allowed", StatusCode::FORBIDDEN),
            Self::NotFound => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => {
                ("method-not-allowed", "Method not allowed", StatusCode::METHOD_NOT_ALLOWED)
            }
            Self::Conflict => ("conflict", "Conflict", StatusCode::CONFLICT),
            Self::Stale => ("stale", "Decided on an older state", StatusCode::CONFLICT),
            Self::Exhausted => ("exhausted", "Nothing left", StatusCode::CONFLICT),
            Self::NotReady => ("not-ready", "Not ready", StatusCode::CONFLICT),
            Self::TooLarge => ("too-large", "Body too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::MediaType => ("media-type", "Not JSON", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::Timeout => ("timeout", "Too slow", StatusCode::REQUEST_TIMEOUT),
            Self::TooMany => ("too-many", "Too many", StatusCode::TOO_MANY_REQUESTS),
            Self::KeyReused => ("key-reused", "Idempotency key reused", StatusCode::UNPROCESSABLE_ENTITY),
            Self::Internal => ("internal", "The controller failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Unavailable => ("unavailable", "Unavailable", StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// The answer of an [`ApiError`], from which the middleware makes the document once it has the request's id.
#[derive(Clone, Debug)]
pub(crate) struct Unfinished(pub(crate) ApiError);

impl ApiError {
    /// A problem of this kind; `detail` says what is wrong.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> ApiError {
        ApiError { kind, detail: detail.into(), field: None, mend: None, authenticate: false }
    }

    /// A field's value is wrong.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> ApiError {
        ApiError::new(ProblemKind::Invalid, detail).field(field)
    }

    /// There is no such thing. `list` is where all of its kind are.
    pub fn not_found(what: &str, reference: &str, list: &str) -> ApiError {
        ApiError::new(ProblemKind::NotFound, format!("there is no {what} `{}`", shortened(reference)))
            .mend(format!("list what there is with GET {list}"))
    }

    /// No token, or none that is known. The same words for both: nothing is told about tokens.
    pub fn unauthenticated(detail: &str) -> ApiError {
        let mut error = ApiError::new(ProblemKind::Unauthenticated, detail).mend(
            "send the header `Authorization: Bearer` with a token of this controller that has not expired",
        );
        error.authenticate = true;
        error
    }

    /// The token's role is too low.
    pub fn role(needed: Role, has: Role) -> ApiError {
        ApiError::new(ProblemKind::Forbidden, format!("this needs the role {needed}; the token's is {has}"))
            .mend(format!("use a token with the role {needed}"))
    }

    /// Names the field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> ApiError {
        self.field = Some(field.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> ApiError {
        self.mend = Some(mend.into());
        self
    }

    /// Its kind.
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The field that is wrong.
    pub fn field_name(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// What to do.
    pub fn mend_text(&self) -> Option<&str> {
        self.mend.as_deref()
    }

    /// The answer.
    pub(crate) fn finish(self, request_id: &str) -> Response {
        let (word, title, status) = self.kind.row();
        let problem = Problem {
            kind: format!("/problems/{word}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            instance: request_id.to_owned(),
            field: self.field,
            mend: self.mend,
        };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.authenticate {
            let scheme = HeaderValue::from_static("Bearer realm=\"controller\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(Unfinished(self));
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let kind = match refusal.kind {
            RefusalKind::NotFound => ProblemKind::NotFound,
            RefusalKind::Conflict => ProblemKind::Conflict,
            RefusalKind::Invalid { .. } => ProblemKind::Invalid,
            RefusalKind::Forbidden => ProblemKind::Forbidden,
            RefusalKind::Exhausted => ProblemKind::Exhausted,
            RefusalKind::NotReady => ProblemKind::NotReady,
            RefusalKind::Stale => ProblemKind::Stale,
        };
        let error = ApiError::new(kind, refusal.message);
        match refusal.kind {
            RefusalKind::Invalid { field } => error.field(match field {
                "memory" => "memory_mib",
                "disk" => "disk_gib",
                "node" => "compute_node",
                "nodes" => "compute_nodes",
                "env" => "environment",
                field => field,
            }),
            _ => error,
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> ApiError {
        ApiError::new(ProblemKind::NotFound, format!("the path cannot be read: {}", rejection.body_text()))
            .mend("percent-encode UTF-8")
    }
}

/// What a caller wrote, cut to what an error may repeat.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}
