//! What handlers take from a request. Each says what is wrong with it, and where, in a problem document.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::{ApiError, ProblemKind, shortened};

/// The largest body in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// How long a body may take to come.
pub const BODY_TIME: Duration = Duration::from_secs(10);

/// A JSON body. Fields that are not known are refused, with the one that may have been meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonBody<T>(pub T);

/// A JSON body that may be absent: then everything in it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OptionalBody<T>(pub T);

/// A segment of the path, or several.
#[derive(Clone, Copy, Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(crate) struct Path<T>(pub T);

/// The query. Fields that are not known are refused, with the one that may have been meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(&parts.headers, body).await?;
        parse_body(&parts.headers, &bytes).map(JsonBody)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(&parts.headers, body).await?;
        if bytes.is_empty() {
            return Ok(OptionalBody(T::default()));
        }
        parse_body(&parts.headers, &bytes).map(OptionalBody)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Query(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.split_once("query string: ").map_or(text.as_str(), |(_, rest)| rest);
            let (path, message) = text.split_once(": ").unwrap_or(("", text));
            explain(path, message, "parameter")
        })
    }
}

/// Reads a body that is bounded in size and time. For a second time it costs nothing.
pub(crate) async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(ProblemKind::TooLarge, format!("the body has more than {MAX_BODY} bytes"))
            .mend("split the request")
    };
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut chunks = body.into_data_stream();
        let mut first = Bytes::new();
        let mut all = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                ApiError::new(ProblemKind::Malformed, format!("the body ended early: {error}"))
                    .mend("send the request again")
            })?;
            if first.len() + all.len() + chunk.len() > MAX_BODY {
                return Err(too_large());
            }
            if first.is_empty() && all.is_empty() {
                first = chunk;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&chunk);
        }
        Ok(if all.is_empty() { first } else { all.into() })
    };
    tokio::time::timeout(BODY_TIME, read).await.unwrap_or_else(|_| {
        let detail = format!("the body did not come within {} seconds", BODY_TIME.as_secs());
        Err(ApiError::new(ProblemKind::Timeout, detail).mend("send the request again, faster"))
    })
}

fn parse_body<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, ApiError> {
    let media_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let detail = match essence {
            "" => "the body has no media type".to_owned(),
            other => format!("the body's media type is `{}`", shortened(other)),
        };
        return Err(ApiError::new(ProblemKind::MediaType, detail)
            .mend("send JSON with the header `Content-Type: application/json`"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            return explain(&path, &inner.to_string(), "field");
        }
        malformed(&inner)
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(parsed)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(ProblemKind::Malformed, format!("the body is not JSON: {error}"))
        .mend("send one JSON object")
}

/// Turns serde's words into a problem that names the field.
fn explain(path: &str, message: &str, what: &str) -> ApiError {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") {
        let unknown = quoted.first().copied().unwrap_or(path);
        let known = quoted.get(1..).unwrap_or_default();
        let error =
            ApiError::new(ProblemKind::Invalid, format!("there is no {what} `{}` here", shortened(unknown)))
                .field(shortened(unknown));
        return match nearest(unknown, known) {
            Some(name) => error.mend(format!("did you mean `{name}`?")),
            None if known.is_empty() => error.mend("leave it out"),
            None => error.mend(format!("the {what}s are {}", known.join(", "))),
        };
    }
    let field = match (message.starts_with("missing field"), quoted.first(), path.trim_matches(['.', '?'])) {
        (true, Some(name), "") => (*name).to_owned(),
        (true, Some(name), path) => format!("{path}.{name}"),
        (_, _, path) => path.to_owned(),
    };
    let error = ApiError::new(ProblemKind::Invalid, shortened_message(message));
    if field.is_empty() { error } else { error.field(field) }
}

/// Serde repeats what was sent: the error must not grow with it.
fn shortened_message(message: &str) -> String {
    const SHOWN: usize = 300;
    if message.chars().count() <= SHOWN {
        return message.to_owned();
    }
    message.chars().take(SHOWN).chain(['…']).collect()
}

/// The known name that is at most two edits away, or a third of the name.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if unknown.len() > LONGEST {
        return None;
    }
    let within = |(edits, _): &(usize, &str)| *edits <= 2.max(unknown.chars().count() / 3);
    known.iter().map(|name| (edits(unknown, name), *name)).filter(within).min().map(|(_, name)| name)
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let best = (diagonal + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is looked at")]
    struct Sample {
        name: String,
        cores: f64,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is looked at")]
    struct Inner {
        number: u8,
    }

    fn parse(body: &str) -> ApiError {
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            "application/json; charset=utf-8".parse().expect("a header value"),
        )]);
        parse_body::<Sample>(&headers, body.as_bytes()).expect_err(body)
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_with_its_field() {
        let table = [
            (r#"{"name":"a","cores":"x"}"#, ProblemKind::Invalid, Some("cores"), None),
            (r#"{"name":"a"}"#, ProblemKind::Invalid, Some("cores"), None),
            (r#"{"nmae":"a"}"#, ProblemKind::Invalid, Some("nmae"), Some("did you mean `name`?")),
            (
                r#"{"zzzzzzzz":1}"#,
                ProblemKind::Invalid,
                Some("zzzzzzzz"),
                Some("the fields are name, cores, inner"),
            ),
            (
                r#"{"name":"a","cores":1,"inner":[{"number":300}]}"#,
                ProblemKind::Invalid,
                Some("inner[0].number"),
                None,
            ),
            (r#"{"name":"a","cores":1,"inner":[{}]}"#, ProblemKind::Invalid, Some("inner[0].number"), None),
            (r#"{"name":"a","#, ProblemKind::Malformed, None, Some("send one JSON object")),
            (r#"{"name":"a","cores":1} x"#, ProblemKind::Malformed, None, Some("send one JSON object")),
            ("[]", ProblemKind::Invalid, None, None),
        ];
        for (body, kind, field, mend) in table {
            let error = parse(body);
            assert_eq!(error.kind(), kind, "{body}: {error:?}");
            assert_eq!(error.field_name(), field, "{body}: {error:?}");
            if let Some(mend) = mend {
                assert_eq!(error.mend_text(), Some(mend), "{body}: {error:?}");
            }
        }
    }

    #[test]
    fn a_body_of_another_type_is_refused() {
        let error = parse_body::<Sample>(&HeaderMap::new(), b"{}").expect_err("no type");
        assert_eq!(error.kind(), ProblemKind::MediaType);
    }
}
