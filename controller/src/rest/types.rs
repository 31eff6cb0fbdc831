//! Instance types.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use controller_api::rest::{AddType, InstanceType, Page};
use controller_registry::{Command, NewType, Outcome, TypeId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    call::{Answer, Call, internal, unexpected},
    convert,
    extract::{JsonBody, Path, Query},
    page::Part,
    problem::ApiError,
};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list_types, add_type)).routes(routes!(get_type, delete_type))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListTypes {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
}

/// Lists the types.
#[utoipa::path(get, path = "/v1/types", tag = "types", params(ListTypes),
    responses((status = 200, description = "A part of the list.", body = Page<InstanceType>)))]
async fn list_types(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListTypes>,
) -> Result<Json<Page<InstanceType>>, ApiError> {
    let part = Part::<TypeId>::new(query.limit, query.cursor.as_deref())?;
    let page = api
        .engine
        .read(|registry| part.of(registry.types().values(), |t| t.id, convert::instance_type))
        .await;
    Ok(Json(page))
}

/// Adds a type: what an instance of it may take, and how it runs.
#[utoipa::path(post, path = "/v1/types", tag = "types", request_body = AddType,
    responses((status = 201, description = "The type.", body = InstanceType,
        headers(("Location" = String, description = "Where it is.")))))]
async fn add_type(
    State(api): State<Arc<Api>>,
    call: Call,
    JsonBody(add): JsonBody<AddType>,
) -> Result<Response, ApiError> {
    let command = Command::AddType(NewType {
        name: add.name,
        cores_milli: thousandths(add.cores)?,
        memory_bytes: bytes("memory_mib", add.memory_mib, 20, MAX_MEMORY_MIB)?,
        disk_bytes: bytes("disk_gib", add.disk_gib, 30, MAX_DISK_GIB)?,
        driver: add.driver.as_str().to_owned(),
        image: add.image.unwrap_or_default(),
        description: add.description.unwrap_or_default(),
    });
    let answer = async |outcome, _| {
        let Outcome::Type(id) = outcome else { return Err(unexpected(&outcome)) };
        let found = api.engine.read(|registry| registry.types().get(&id).map(convert::instance_type)).await;
        let found = found.ok_or_else(|| internal("the type went at once"))?;
        let answer = Answer::new(StatusCode::CREATED, &found)?.at(format!("/v1/types/{id}"));
        Ok(answer.noting(Some(found.id), None))
    };
    call.carry_out(&api, command, answer).await
}

/// Shows a type.
#[utoipa::path(get, path = "/v1/types/{type}", tag = "types",
    params(("type" = String, Path, description = "Its id or name.", example = "small")),
    responses((status = 200, description = "The type.", body = InstanceType)))]
async fn get_type(
    State(api): State<Arc<Api>>,
    Path(reference): Path<String>,
) -> Result<Json<InstanceType>, ApiError> {
    Ok(Json(api.engine.read(|registry| registry.find_type(&reference).map(convert::instance_type)).await?))
}

/// Deletes a type. Instances of it keep what it gave them.
#[utoipa::path(delete, path = "/v1/types/{type}", tag = "types",
    params(("type" = String, Path, description = "Its id or name.", example = "small")),
    responses((status = 204, description = "It is gone.")))]
async fn delete_type(
    State(api): State<Arc<Api>>,
    call: Call,
    Path(reference): Path<String>,
) -> Result<Response, ApiError> {
    let note = reference.clone();
    let answer = async |_, _| Ok(Answer::nothing().noting(Some(note), None));
    call.carry_out(&api, Command::DeleteType { reference }, answer).await
}

const MAX_CORES: f64 = 1024.0;
const MAX_MEMORY_MIB: u64 = 1 << 24;
const MAX_DISK_GIB: u64 = 1 << 20;

fn thousandths(cores: f64) -> Result<u32, ApiError> {
    let milli = (cores * 1000.0).round();
    if !(1.0..=MAX_CORES * 1000.0).contains(&milli) {
        return Err(ApiError::invalid("cores", format!("a type has 0.001 to {MAX_CORES} cores")));
    }
    // In range by the check above.
    Ok(milli as u32)
}

fn bytes(field: &str, count: u64, shift: u32, max: u64) -> Result<u64, ApiError> {
    if count > max {
        return Err(ApiError::invalid(field, format!("at most {max}")));
    }
    Ok(count << shift)
}
