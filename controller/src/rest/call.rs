//! Carrying out a command for a caller: idempotency keys, and what an answer is made of.

use std::convert::Infallible;

use aws_lc_rs::digest::{Context, SHA256};
use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use controller_registry::{
    Command, IdempotencyClaim, IdempotencyKey, Input, OperationId, Outcome, Request, SecretHash,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Api,
    auth::Caller,
    convert,
    problem::{ApiError, ProblemKind},
};
use crate::engine;

/// The header with a caller's own name for a POST or a DELETE.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header that tells a repeated answer.
const REPLAYED: &str = "idempotency-replayed";
const KEY_TTL_MS: u64 = 24 * 60 * 60 * 1000;
const KEY_MAX: usize = 255;
/// Told once, so not kept.
const SECRETS: [&str; 2] = ["join", "secret"];

/// What a handler needs to carry out a command. The middleware puts the claim there.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    caller: Caller,
    claim: Option<IdempotencyClaim>,
}

/// A good answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Value,
    notes: Notes,
}

/// What the audit log says of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) subject: Option<String>,
    pub(crate) operation: Option<String>,
}

/// An answer as it is kept for its idempotency key.
#[derive(Serialize, Deserialize)]
struct Kept {
    location: Option<String>,
    body: Value,
}

impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Call, Infallible> {
        let caller = parts.extensions.get::<Caller>().cloned().expect("the middleware admits only callers");
        Ok(Call { caller, claim: parts.extensions.get::<IdempotencyClaim>().cloned() })
    }
}

/// The claim of a request's idempotency key, if it has one. A POST and a DELETE can, so that a repetition after a broken
/// connection is told what the first one did; PUT and PATCH say the same when they come twice.
pub(crate) fn claim(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<IdempotencyClaim>, ApiError> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY).filter(|_| matches!(*method, Method::POST | Method::DELETE))
    else {
        return Ok(None);
    };
    let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= KEY_MAX).ok_or_else(|| {
        ApiError::invalid(
            "Idempotency-Key",
            format!("an idempotency key has 1 to {KEY_MAX} ASCII characters"),
        )
    })?;
    let mut context = Context::new(&SHA256);
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    for part in [method.as_str().as_bytes(), target.as_bytes(), body] {
        // With the lengths no two requests are one.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let request_hash = SecretHash(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"));
    Ok(Some(IdempotencyClaim { key: key.to_owned(), request_hash, ttl_ms: KEY_TTL_MS }))
}

impl Call {
    /// Carries out a command and answers. `answer` is told whether the outcome is fresh: secrets are told only then.
    pub(crate) async fn carry_out(
        self,
        api: &Api,
        command: Command,
        answer: impl AsyncFnOnce(Outcome, bool) -> Result<Answer, ApiError>,
    ) -> Result<Response, ApiError> {
        let Call { caller: Caller { name: principal, .. }, claim } = self;
        if let Some(claim) = &claim {
            api.check_key(&principal, claim).await?;
        }
        let request = Request { principal: principal.clone(), idempotency: claim.clone(), command };
        let stored = match api.engine.execute(Input::Command(request)).await? {
            Outcome::Replayed(stored) => *stored,
            outcome => {
                let answer = answer(outcome.clone(), true).await?;
                if let Some(claim) = claim {
                    api.keep(principal, claim, outcome, &answer).await;
                }
                return Ok(answer.into_response());
            }
        };
        let mut response = match StatusCode::from_u16(stored.status) {
            Ok(status) => Answer::kept(status, &stored.body)?.into_response(),
            // The first answer was cut off, or is being made: the same outcome gives the same answer.
            Err(_) => {
                let outcome = stored.outcome.ok_or_else(|| internal("an idempotency key has no outcome"))?;
                answer(outcome, false).await?.into_response()
            }
        };
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }

    /// As [`Call::carry_out`], for a command whose outcome is an operation.
    pub(crate) async fn begin(self, api: &Api, command: Command) -> Result<Response, ApiError> {
        let answer = async |outcome, _| match outcome {
            Outcome::Operation(operation) | Outcome::Allocated { operation, .. } => {
                api.operation_answer(operation).await
            }
            Outcome::Done => Ok(Answer::nothing()),
            other => Err(unexpected(&other)),
        };
        self.carry_out(api, command, answer).await
    }
}

impl Api {
    /// 202 with an operation as it stands.
    pub(crate) async fn operation_answer(&self, id: OperationId) -> Result<Answer, ApiError> {
        let found = self.engine.read(|registry| registry.operations().get(&id).map(convert::operation)).await;
        let operation =
            found.ok_or_else(|| ApiError::not_found("operation", &id.to_string(), "/v1/operations"))?;
        let subject = operation.subjects.first().cloned();
        let answer = Answer::new(StatusCode::ACCEPTED, &operation)?.at(format!("/v1/operations/{id}"));
        Ok(answer.noting(subject, Some(operation.id)))
    }

    async fn check_key(&self, principal: &str, claim: &IdempotencyClaim) -> Result<(), ApiError> {
        let now = engine::now();
        let reused = self
            .engine
            .read(|registry| {
                let stored = registry.idempotency_key(principal, &claim.key, now);
                stored.is_some_and(|stored| stored.request_hash != claim.request_hash)
            })
            .await;
        if !reused {
            return Ok(());
        }
        let detail = "this idempotency key was used for another request";
        Err(ApiError::new(ProblemKind::KeyReused, detail)
            .field("Idempotency-Key")
            .mend("use a new key for each request"))
    }

    async fn keep(&self, principal: String, claim: IdempotencyClaim, outcome: Outcome, answer: &Answer) {
        let mut body = answer.body.clone();
        if let Value::Object(fields) = &mut body {
            SECRETS.iter().for_each(|secret| drop(fields.remove(*secret)));
        }
        let kept = Kept { location: answer.location.clone(), body };
        let record = IdempotencyKey {
            key: claim.key,
            principal,
            request_hash: claim.request_hash,
            outcome: Some(outcome),
            status: answer.status.as_u16(),
            body: serde_json::to_string(&kept).expect("values of JSON can be written"),
            expires: engine::now().plus(claim.ttl_ms),
        };
        // Without it a repetition is answered from the outcome, which the command's own transaction kept.
        let _ = self.engine.command(Command::PutIdempotencyKey(record)).await;
    }
}

impl Answer {
    pub(crate) fn new(status: StatusCode, body: &impl Serialize) -> Result<Answer, ApiError> {
        let body = serde_json::to_value(body).map_err(|error| internal(&error.to_string()))?;
        Ok(Answer { status, location: None, body, notes: Notes::default() })
    }

    /// 204.
    pub(crate) fn nothing() -> Answer {
        Answer { status: StatusCode::NO_CONTENT, location: None, body: Value::Null, notes: Notes::default() }
    }

    pub(crate) fn at(mut self, location: String) -> Answer {
        self.location = Some(location);
        self
    }

    pub(crate) fn noting(mut self, subject: Option<String>, operation: Option<String>) -> Answer {
        self.notes = Notes { subject, operation };
        self
    }

    fn kept(status: StatusCode, body: &str) -> Result<Answer, ApiError> {
        let Kept { location, body } =
            serde_json::from_str(body).map_err(|error| internal(&error.to_string()))?;
        Ok(Answer { status, location, body, notes: Notes::default() })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Value::Null => self.status.into_response(),
            body => (self.status, Json(body)).into_response(),
        };
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response.extensions_mut().insert(self.notes);
        response
    }
}

/// A broken invariant, as an answer.
pub(crate) fn internal(what: &str) -> ApiError {
    ApiError::new(ProblemKind::Internal, what).mend("report it with the controller's log")
}

pub(crate) fn unexpected(outcome: &Outcome) -> ApiError {
    internal(&format!("the registry answered {outcome:?}"))
}
