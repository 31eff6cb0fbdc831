//! Who calls, and what they may.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, Method, header};
use controller_api::rest::Role;
use controller_registry::{ApiToken, ApiTokenId, Registry, SecretHash, Timestamp};
use node_session::token::secret_hash;

use super::{convert, problem::ApiError};
use crate::engine::{self, Engine};

/// Whose token a request carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The token.
    pub token: ApiTokenId,
    /// The token's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// The role that a call needs. Reading needs the least; tokens are the administrator's.
pub(crate) fn role_needed(method: &Method, path: &str) -> Role {
    if path == "/v1/tokens" || path.starts_with("/v1/tokens/") {
        return Role::Admin;
    }
    match *method {
        Method::GET | Method::HEAD => Role::Reader,
        _ => Role::Operator,
    }
}

/// Finds the caller by the request's token.
pub(crate) async fn authenticate(engine: &Engine, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default(),
        (None, _) => return Err(ApiError::unauthenticated("the request has no token")),
        (Some(_), Some(_)) => return Err(ApiError::unauthenticated("the request has two tokens")),
    };
    let secret = match value.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => secret.trim(),
        _ => return Err(ApiError::unauthenticated("the header `Authorization` has no bearer token")),
    };
    // 256 random bits need neither salt nor stretching.
    let hash = SecretHash(secret_hash(secret.as_bytes()));
    let now = engine::now();
    let found = engine.read(|registry| find(registry, &hash, now)).await;
    found.ok_or_else(|| ApiError::unauthenticated("the token is not known, was deleted or has expired"))
}

/// Looks at all tokens in the same time, wherever it stands among them.
fn find(registry: &Registry, hash: &SecretHash, now: Timestamp) -> Option<Caller> {
    let same = |token: &ApiToken| verify_slices_are_equal(&token.secret_hash.0, &hash.0).is_ok();
    let tokens = registry.api_tokens().values();
    let found = tokens.fold(None, |found, token| if same(token) { Some(token) } else { found })?;
    if found.expires.is_some_and(|at| at <= now) {
        return None;
    }
    Some(Caller {
        token: found.id,
        name: found.name.clone(),
        role: convert::role(found.role),
        expires: found.expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_administrators() {
        assert_eq!(role_needed(&Method::GET, "/v1/tokens"), Role::Admin);
        assert_eq!(role_needed(&Method::DELETE, "/v1/tokens/{token}"), Role::Admin);
        assert_eq!(role_needed(&Method::GET, "/v1/types"), Role::Reader);
        assert_eq!(role_needed(&Method::HEAD, "/v1/types"), Role::Reader);
        assert_eq!(role_needed(&Method::POST, "/v1/types"), Role::Operator);
    }
}
