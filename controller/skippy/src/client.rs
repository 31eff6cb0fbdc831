//! The REST API as calls: TLS, tokens, time limits, retries, pages, operations, event streams.

mod events;
mod operations;
mod sse;

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::events::EventStream;
pub use self::sse::{EventTooLong, SseEvent, SseParser};
use crate::config::{Settings, Token};
use crate::error::{Error, Problem};
use crate::tls;

/// An answer longer than this is not one of a controller.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The largest part of a list that the API gives.
const PAGE: u32 = 1000;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Tries of one call in all, where it may be repeated and the trouble may pass.
const TRIES: u32 = 4;

/// A controller's API.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Token>,
    timeout: Duration,
}

/// One call: method, path, query and body.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    /// The path is below `/v1`.
    versioned: bool,
    /// Segments; each is encoded by itself, so a name with a slash stays one segment.
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<Value>,
    key: Option<String>,
    /// Time that the controller may take on top of the usual limit.
    patience: Duration,
}

impl Call {
    /// A call that changes nothing.
    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    /// A call that makes something.
    pub fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    /// A call that sets something.
    pub fn put(path: &[&str]) -> Self {
        Self::new(Method::PUT, path)
    }

    /// A call that changes some of something.
    pub fn patch(path: &[&str]) -> Self {
        Self::new(Method::PATCH, path)
    }

    /// A call that removes something.
    pub fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path)
    }

    fn new(method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|&segment| segment.to_owned()).collect();
        Self {
            method,
            versioned: true,
            path,
            query: Vec::new(),
            body: None,
            key: None,
            patience: Duration::ZERO,
        }
    }

    /// Adds a query parameter.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers give numbers, literals and owned text alike")]
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a query parameter if it has a value.
    #[must_use]
    pub fn query_opt(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Sends this as JSON.
    pub fn body(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let body =
            serde_json::to_value(body).map_err(|error| Error::Local(format!("no request: {error}")))?;
        self.body = Some(body);
        Ok(self)
    }

    /// Makes repeats of the call, also by another process, one and the same.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Allows the controller this much more time.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// For a path that is not below `/v1`.
    #[must_use]
    pub fn unversioned(self) -> Self {
        Self { versioned: false, ..self }
    }

    fn name(&self) -> String {
        let version = if self.versioned { "v1/" } else { "" };
        format!("{} /{version}{}", self.method, self.path.join("/"))
    }

    fn repeatable(&self) -> bool {
        self.method == Method::GET || self.key.is_some()
    }
}

impl Client {
    /// A client for the controller of these settings. Nothing is sent yet.
    ///
    /// `timeout` bounds each call as a whole, from the dial to the last byte.
    pub fn new(settings: &Settings, timeout: Duration) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&settings.trust)?)
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout)
            .user_agent(concat!("skippy/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Local(format!("no HTTP client: {error}")))?;
        Ok(Self { http, base: settings.url.clone(), token: settings.token.clone(), timeout })
    }

    /// Where the controller is.
    pub fn url(&self) -> &Url {
        &self.base
    }

    /// Calls, and gives the JSON of the answer; `Null` where it is empty.
    pub async fn call(&self, call: &Call) -> Result<Value, Error> {
        let bytes = self.bytes(call).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::BadAnswer { call: call.name(), reason: error.to_string() })
    }

    /// Calls, and gives the text of an answer that is no JSON.
    pub async fn text(&self, call: &Call) -> Result<String, Error> {
        String::from_utf8(self.bytes(call).await?)
            .map_err(|_| Error::BadAnswer { call: call.name(), reason: "it is not UTF-8".to_owned() })
    }

    async fn bytes(&self, call: &Call) -> Result<Vec<u8>, Error> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.call_once(call).await {
                Err(error) if call.repeatable() && error.may_pass() && !is_final(&error) => {
                    let asked = match &error {
                        Error::Answered(problem) => problem.retry_after,
                        _ => None,
                    };
                    tokio::time::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                done => return done,
            }
        }
        self.call_once(call).await
    }

    /// Calls, and reads the answer as `T`.
    pub async fn typed<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        read(call, self.call(call).await?)
    }

    /// All items of a list, page by page, in the pages' order.
    pub async fn list(&self, call: &Call) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let call = call.clone().query("limit", PAGE);
        let mut page = call.clone();
        let mut last: Option<String> = None;
        loop {
            let mut answer = self.call(&page).await?;
            let bad = |reason: &str| Error::BadAnswer { call: page.name(), reason: reason.to_owned() };
            match answer.get_mut("items").map(Value::take) {
                Some(Value::Array(more)) => items.extend(more),
                _ => return Err(bad("it has no items")),
            }
            let next = answer.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            let Some(next) = next else {
                return Ok(items);
            };
            if last.as_ref() == Some(&next) {
                return Err(bad("its pages never end"));
            }
            page = call.clone().query("cursor", &next);
            last = Some(next);
        }
    }

    async fn call_once(&self, call: &Call) -> Result<Vec<u8>, Error> {
        let limit = self.timeout + call.patience;
        let answer = tokio::time::timeout(limit, async {
            let response = self.send(call, None).await?;
            self.whole_body(call, response).await
        });
        answer.await.unwrap_or_else(|_| Err(Error::TimedOut { url: self.base.clone(), after: limit }))
    }

    /// Sends the call, and gives the answer once its head is here and no error.
    async fn send(&self, call: &Call, headers: Option<HeaderMap>) -> Result<Response, Error> {
        let mut request = self.http.request(call.method.clone(), self.address(call)?);
        request = match headers {
            Some(headers) => request.headers(headers),
            None => request.header(ACCEPT, "application/json, application/problem+json"),
        };
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.secret()))
                .map_err(|_| Error::Local("the token cannot be sent in a header".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(reqwest::header::AUTHORIZATION, value);
        }
        if let Some(key) = &call.key {
            request = request.header("idempotency-key", key);
        }
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.transport_error(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.problem(call, response).await)
    }

    fn address(&self, call: &Call) -> Result<Url, Error> {
        if let Some(wrong) = call.path.iter().find(|segment| matches!(segment.as_str(), "" | "." | "..")) {
            return Err(Error::Usage(format!("{wrong:?} is no name and no id")));
        }
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::Local(format!("{} has no path", self.base)))?
            .pop_if_empty()
            .extend(call.versioned.then_some("v1"))
            .extend(&call.path);
        Ok(url)
    }

    async fn problem(&self, call: &Call, response: Response) -> Error {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        // Whatever the body is, the status has been said.
        let body = self.whole_body(call, response).await.unwrap_or_default();
        let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        if problem.title.is_empty() {
            status.canonical_reason().unwrap_or_default().clone_into(&mut problem.title);
        }
        if status == StatusCode::NOT_FOUND && problem.detail.is_none() {
            problem.detail =
                Some(format!("{} has no {}: is it a controller of this version?", self.base, call.name()));
        }
        problem.status = status.as_u16();
        problem.call = call.name();
        problem.retry_after = retry_after;
        Error::Answered(Box::new(problem))
    }

    async fn whole_body(&self, call: &Call, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport_error(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(Error::BadAnswer {
                    call: call.name(),
                    reason: "it is longer than 64 MiB".into(),
                });
            }
        }
        Ok(body)
    }

    fn transport_error(&self, error: &reqwest::Error) -> Error {
        let url = self.base.clone();
        if let Some(handshake) = tls::handshake_error(error) {
            return match tls::wrong_certificate(handshake) {
                Some(wrong) => Error::WrongCertificate { url, wrong: Box::new(wrong) },
                None if matches!(handshake, rustls::Error::InvalidCertificate(_)) => {
                    Error::Untrusted { url, reason: handshake.to_string() }
                }
                None => Error::Unreachable { url, reason: format!("TLS: {handshake}"), connected: false },
            };
        }
        if error.is_timeout() {
            return Error::TimedOut { url, after: self.timeout };
        }
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let connected = !error.is_connect();
        let reason =
            if connected { format!("the connection broke: {innermost}") } else { innermost.to_string() };
        Error::Unreachable { url, reason, connected }
    }
}

/// Nothing listens there, or it took all its time: trying again at once only keeps the user waiting.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Unreachable { connected: false, .. } | Error::TimedOut { .. })
}

/// Reads a JSON value as `T`.
pub(crate) fn read<T: DeserializeOwned>(call: &Call, value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|error| Error::BadAnswer { call: call.name(), reason: error.to_string() })
}

#[cfg(test)]
pub(crate) mod tests;
