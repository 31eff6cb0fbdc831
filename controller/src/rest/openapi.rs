//! The OpenAPI document. What all operations have in common (security, problems, the idempotency key) is added here
//! to what the handlers say of themselves.

use std::collections::HashMap;

use axum::{
    Router,
    http::{HeaderValue, Method, header},
    response::IntoResponse,
    routing::get,
};
use controller_api::rest::{PROBLEM_JSON, Problem};
use serde_json::{Value, json};
use utoipa::{OpenApi, openapi::OpenApi as Document};

/// Where the document is.
pub(crate) const PATH: &str = "/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Controller",
        description = "Compute nodes, types, networks, instances and bindings of a cluster.\n\nEvery call needs a token \
                       of the controller: `Authorization: Bearer skt_...`. Roles: reader (every GET but tokens), operator \
                       (all but tokens), admin.\n\nCalls that take long answer 202 with an operation: watch it with \
                       `get_operation` and `wait`, or with the events. A POST or DELETE with an `Idempotency-Key` may be repeated: \
                       the same request of the same caller within 24 hours gets the first one's answer, without secrets. \
                       Errors are problem documents (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "compute nodes"), (name = "types"), (name = "networks"), (name = "instances"), (name = "bindings"),
        (name = "links"), (name = "operations"), (name = "events"), (name = "access"), (name = "cluster"),
    ),
    components(schemas(Problem)),
)]
struct Base;

/// The paths that need no token.
pub(crate) fn is_open(path: &str) -> bool {
    matches!(path, PATH | "/healthz" | "/readyz")
}

/// The whole document, as `/openapi.json` has it.
pub fn document() -> Value {
    finish(super::routes().get_openapi())
}

pub(crate) fn base() -> Document {
    Base::openapi()
}

pub(crate) fn finish(document: &Document) -> Value {
    let mut document = serde_json::to_value(document).expect("an OpenAPI document is JSON");
    document["components"]["securitySchemes"]["token"] = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the controller, `skt_` and 43 characters."
    });
    document["components"]["responses"]["Problem"] = json!({
        "description": "Why the request was refused or failed.",
        "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } } }
    });
    document["paths"][PATH] = json!({ "get": {
        "operationId": "get_openapi",
        "summary": "This document.",
        "description": "Needs no token.",
        "tags": ["cluster"],
        "responses": { "200": { "description": "It.", "content": { "application/json": { "schema": { "type": "object" } } } } }
    }});
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().expect("a path is an object") {
            complete(path, method, operation);
        }
    }
    document
}

fn complete(path: &str, method: &str, operation: &mut Value) {
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    let mut statuses = vec!["500", "503"];
    if is_open(path) {
        operation["security"] = json!([]);
    } else {
        operation["security"] = json!([{ "token": [] }]);
        statuses.extend(["401", "403", "408", "413", "422"]);
    }
    if operation.get("requestBody").is_some() {
        statuses.extend(["400", "415"]);
    }
    // What a path or a filter names may not be there.
    if operation.get("parameters").is_some() {
        statuses.push("404");
    }
    if method != "get" {
        statuses.extend(["404", "409"]);
    }
    if path == super::events::PATH {
        statuses.push("429");
    }
    if matches!(method, "post" | "delete") {
        let parameter = json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "The caller's name for this request. Repeated within 24 hours by the same caller, the same \
                            request gets the first one's answer and does nothing; another one is refused.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
            "example": "4c1f0c5e-allocate-web"
        });
        match operation.get_mut("parameters").and_then(Value::as_array_mut) {
            Some(parameters) => parameters.push(parameter),
            None => operation["parameters"] = json!([parameter]),
        }
    }
    let responses = operation["responses"].as_object_mut().expect("an operation has responses");
    for status in statuses {
        responses.entry(status).or_insert_with(|| problem.clone());
    }
}

/// The operation ids by method and path.
pub(crate) fn operation_ids(document: &Value) -> HashMap<(Method, String), String> {
    let paths = document["paths"].as_object().expect("a document has paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object().into_iter().flatten().filter_map(move |(method, operation)| {
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).ok()?;
            Some(((method, path.clone()), operation["operationId"].as_str()?.to_owned()))
        })
    });
    operations.collect()
}

pub(crate) fn served<S: Clone + Send + Sync + 'static>(document: &Value) -> Router<S> {
    let text = axum::body::Bytes::from(document.to_string());
    let json = HeaderValue::from_static("application/json");
    Router::new().route(
        PATH,
        get(async move || ([(header::CONTENT_TYPE, json.clone())], text.clone()).into_response()),
    )
}
