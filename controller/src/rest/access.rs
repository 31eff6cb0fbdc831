//! Tokens of the API, and who one is.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode, response::Response};
use controller_api::rest::{ApiToken, ApiTokenCreated, CreateToken, Page, Role, WhoAmI};
use controller_registry as registry;
use controller_registry::{ApiTokenId, Command, Outcome};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    auth::Caller,
    call::{Answer, Call, internal, unexpected},
    convert,
    extract::{JsonBody, Path, Query},
    page::Part,
    problem::ApiError,
};
use crate::api_secret::new_secret;

const TTL_MAX: u64 = 315_360_000;

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(delete_token))
        .routes(routes!(whoami))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListTokens {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
}

/// Lists the tokens of the API, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "access", params(ListTokens),
    responses((status = 200, description = "A part of the list.", body = Page<ApiToken>)))]
async fn list_tokens(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListTokens>,
) -> Result<Json<Page<ApiToken>>, ApiError> {
    let part = Part::<ApiTokenId>::new(query.limit, query.cursor.as_deref())?;
    let page = api
        .engine
        .read(|registry| part.of(registry.api_tokens().values(), |t| t.id, convert::api_token))
        .await;
    Ok(Json(page))
}

/// Makes a token of the API. Its secret is told this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", request_body = CreateToken,
    responses((status = 201, description = "The token with its secret.", body = ApiTokenCreated)))]
async fn create_token(
    State(api): State<Arc<Api>>,
    call: Call,
    JsonBody(create): JsonBody<CreateToken>,
) -> Result<Response, ApiError> {
    if create.ttl_seconds.is_some_and(|ttl| !(1..=TTL_MAX).contains(&ttl)) {
        return Err(ApiError::invalid("ttl_seconds", format!("a token is good for 1 to {TTL_MAX} seconds")));
    }
    let (secret, secret_hash) = new_secret();
    let command = Command::CreateApiToken {
        name: create.name,
        role: match create.role {
            Role::Reader => registry::Role::Reader,
            Role::Operator => registry::Role::Operator,
            Role::Admin => registry::Role::Admin,
        },
        secret_hash,
        ttl_ms: create.ttl_seconds.map(|ttl| ttl * 1000),
    };
    let answer = async |outcome, fresh: bool| {
        let Outcome::ApiToken(id) = outcome else { return Err(unexpected(&outcome)) };
        let found = api.engine.read(|registry| registry.api_tokens().get(&id).map(convert::api_token)).await;
        let token = found.ok_or_else(|| internal("the token went at once"))?;
        let created = ApiTokenCreated { token, secret: fresh.then_some(secret) };
        Ok(Answer::new(StatusCode::CREATED, &created)?.noting(Some(id.to_string()), None))
    };
    call.carry_out(&api, command, answer).await
}

/// Deletes a token of the API: it is refused from then on.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "access",
    params(("token" = String, Path, description = "Its id or name.", example = "ci")),
    responses((status = 204, description = "It is gone.")))]
async fn delete_token(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(token): Path<String>,
) -> Result<Response, ApiError> {
    let note = token.clone();
    let answer = async |_, _| Ok(Answer::nothing().noting(Some(note), None));
    call.carry_out(&api, Command::DeleteApiToken { token }, answer).await
}

/// Tells whose token this is, and what it may do.
#[utoipa::path(get, path = "/v1/whoami", tag = "access",
    responses((status = 200, description = "Who.", body = WhoAmI)))]
async fn whoami(Extension(caller): Extension<Caller>) -> Json<WhoAmI> {
    Json(WhoAmI {
        token_id: caller.token.to_string(),
        name: caller.name,
        role: caller.role,
        expires_at: caller.expires.map(convert::time),
    })
}
