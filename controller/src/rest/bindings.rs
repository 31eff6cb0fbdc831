//! Bindings.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use axum::{Json, extract::State, http::StatusCode, response::Response};
use controller_api::rest::{Binding, BindingSource, BindingState, Page, SetBinding};
use controller_registry as registry;
use controller_registry::{BindingKey, Command, Generation, Mac, Registry, Vni};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    call::{Answer, Call, internal},
    convert,
    extract::{JsonBody, Path, Query},
    page::Part,
    problem::{ApiError, shortened},
};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list_bindings)).routes(routes!(
        get_binding,
        set_binding,
        remove_binding
    ))
}

/// Bindings that are looked at while the writer waits,
const EFFORT: usize = 2000;
/// and how many of these one that is shown counts for.
const EFFORT_OF_ONE: usize = 7;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListBindings {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
    /// Only those of this network, by VNI or name.
    network: Option<String>,
    /// Only those that live on this node, by id or name.
    compute_node: Option<String>,
    /// Only those with this IP.
    #[param(value_type = Option<String>, example = "10.0.0.2")]
    ip: Option<IpAddr>,
    /// Only those with this MAC.
    #[param(example = "02:73:69:00:00:01")]
    mac: Option<String>,
    /// Only those that are said by this source.
    #[param(inline)]
    source: Option<BindingSource>,
    /// Only those that are so.
    #[param(inline)]
    state: Option<BindingState>,
}

/// Lists the bindings, network by network.
#[utoipa::path(get, path = "/v1/bindings", tag = "bindings", params(ListBindings),
    responses((status = 200, description = "A part of the list.", body = Page<Binding>)))]
async fn list_bindings(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListBindings>,
) -> Result<Json<Page<Binding>>, ApiError> {
    let part = Part::<KeyText>::new(query.limit, query.cursor.as_deref())?;
    let mac = query.mac.as_deref().map(mac).transpose()?;
    let (node, network) = api
        .engine
        .read(|registry| {
            let node = query.compute_node.as_deref().map(|node| registry.find_node(node)).transpose()?;
            let network =
                query.network.as_deref().map(|network| registry.find_network(network)).transpose()?;
            Ok::<_, ApiError>((node.map(|node| node.id), network.map(|network| network.vni)))
        })
        .await?;
    let wanted = |binding: &registry::Binding| {
        mac.is_none_or(|mac| binding.key.mac == mac)
            && query.ip.is_none_or(|ip| binding.ips.contains(&ip))
            && query.source.is_none_or(|source| convert::binding_source(binding.source) == source)
            && query.state.is_none_or(|state| convert::binding_state(binding.state) == state)
    };
    let mut found = Vec::new();
    let mut after = part.after().map(|key| key.0.clone());
    // A little at a time: whatever the filter, the writer does not wait for long. What comes or goes meanwhile may be
    // in the answer or not, as between two parts.
    let mut more = true;
    while more {
        more = api
            .engine
            .read(|registry| {
                let mut effort = 0;
                for binding in registry.bindings_after(after.as_ref(), network, node) {
                    if effort >= EFFORT {
                        return true;
                    }
                    effort += 1;
                    after = Some(binding.key.clone());
                    if wanted(binding) {
                        effort += EFFORT_OF_ONE;
                        found.push((KeyText(binding.key.clone()), convert::binding(registry, binding)));
                        if part.is_filled_by(found.len()) {
                            return false;
                        }
                    }
                }
                false
            })
            .await;
    }
    let page = part.found(found);
    Ok(Json(page))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Vlans {
    /// Its VLAN tags with commas, outermost first; absent for untagged frames.
    #[param(example = "10,20", pattern = "^[0-9]{1,4}(,[0-9]{1,4})?$")]
    vlans: Option<String>,
}

/// Shows a binding.
#[utoipa::path(get, path = "/v1/bindings/{network}/{mac}", tag = "bindings",
    params(("network" = String, Path, description = "The network's VNI or name.", example = "blue"),
        ("mac" = String, Path, description = "The station's MAC.", example = "02:00:00:00:00:09"), Vlans),
    responses((status = 200, description = "The binding.", body = Binding)))]
async fn get_binding(
    State(api): State<Arc<Api>>,
    Path((network, mac)): Path<(String, String)>,
    Query(query): Query<Vlans>,
) -> Result<Json<Binding>, ApiError> {
    let key = api.binding_key(&network, &mac, query.vlans.as_deref()).await?;
    let found = api.engine.read(|registry| find(registry, &key)).await;
    found.map(Json).ok_or_else(|| ApiError::not_found("binding", &key.to_string(), "/v1/bindings"))
}

/// Sets the binding of something that is no instance.
#[utoipa::path(put, path = "/v1/bindings/{network}/{mac}", tag = "bindings", request_body = SetBinding,
    params(("network" = String, Path, description = "The network's VNI or name.", example = "blue"),
        ("mac" = String, Path, description = "The station's MAC.", example = "02:00:00:00:00:09"), Vlans),
    responses((status = 200, description = "The binding in force.", body = Binding)))]
async fn set_binding(
    State(api): State<Arc<Api>>,
    call: Call,
    Path((network, mac)): Path<(String, String)>,
    Query(query): Query<Vlans>,
    JsonBody(set): JsonBody<SetBinding>,
) -> Result<Response, ApiError> {
    let key = api.binding_key(&network, &mac, query.vlans.as_deref()).await?;
    let command = Command::SetBinding {
        key: key.clone(),
        ips: set.ips,
        node: set.compute_node,
        state: match set.state {
            Some(BindingState::Prepared) => registry::BindingState::Prepared,
            Some(BindingState::Active) | None => registry::BindingState::Active,
        },
        expected: set.expected_generation.map(Generation),
    };
    let answer = async |_, _| {
        let found = api.engine.read(|registry| find(registry, &key)).await;
        let found = found.ok_or_else(|| internal("the binding went at once"))?;
        Ok(Answer::new(StatusCode::OK, &found)?.noting(Some(key.to_string()), None))
    };
    call.carry_out(&api, command, answer).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RemoveBinding {
    /// Its VLAN tags with commas, outermost first; absent for untagged frames.
    #[param(example = "10,20", pattern = "^[0-9]{1,4}(,[0-9]{1,4})?$")]
    vlans: Option<String>,
    /// Refuse unless it has this generation; absent to remove it whatever it has.
    expected_generation: Option<u64>,
}

/// Removes a binding that no placement set.
#[utoipa::path(delete, path = "/v1/bindings/{network}/{mac}", tag = "bindings",
    params(("network" = String, Path, description = "The network's VNI or name.", example = "blue"),
        ("mac" = String, Path, description = "The station's MAC.", example = "02:00:00:00:00:09"), RemoveBinding),
    responses((status = 204, description = "It is gone.")))]
async fn remove_binding(
    State(api): State<Arc<Api>>,
    call: Call,
    Path((network, mac)): Path<(String, String)>,
    Query(query): Query<RemoveBinding>,
) -> Result<Response, ApiError> {
    let key = api.binding_key(&network, &mac, query.vlans.as_deref()).await?;
    let note = key.to_string();
    let command = Command::RemoveBinding { key, expected: query.expected_generation.map(Generation) };
    call.carry_out(&api, command, async |_, _| Ok(Answer::nothing().noting(Some(note), None))).await
}

impl Api {
    async fn binding_key(
        &self,
        network: &str,
        text: &str,
        vlans: Option<&str>,
    ) -> Result<BindingKey, ApiError> {
        let mac = mac(text)?;
        let vlans = vlans.map(|text| tags(text, ',')).transpose()?.unwrap_or_default();
        let vni = self.engine.read(|registry| registry.find_network(network).map(|n| n.vni)).await?;
        Ok(BindingKey { vni, vlans, mac })
    }
}

fn find(registry: &Registry, key: &BindingKey) -> Option<Binding> {
    registry.bindings().get(key).map(|binding| convert::binding(registry, binding))
}

fn mac(text: &str) -> Result<Mac, ApiError> {
    text.parse().map_err(|_| {
        ApiError::invalid("mac", format!("`{}` is not a MAC", shortened(text)))
            .mend("write six hexadecimal bytes with colons, 02:73:69:00:00:01")
    })
}

fn tags(text: &str, separator: char) -> Result<Vec<u16>, ApiError> {
    let tag = |tag: &str| tag.parse().ok().filter(|tag| (1..=4094).contains(tag));
    let tags: Option<Vec<u16>> = text.split(separator).map(tag).collect();
    tags.filter(|tags| tags.len() <= 2).ok_or_else(|| {
        ApiError::invalid("vlans", format!("`{}` are no VLAN tags", shortened(text)))
            .mend("write one or two of 1 to 4094, with a comma")
    })
}

/// A binding's key in a cursor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct KeyText(BindingKey);

impl fmt::Display for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyText {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<KeyText, ApiError> {
        let wrong = || ApiError::invalid("cursor", "not a binding's key");
        let mut parts = text.split('/');
        let vni = parts.next().and_then(|vni| vni.parse().ok()).map(Vni).ok_or_else(wrong)?;
        let (second, third) = (parts.next().ok_or_else(wrong)?, parts.next());
        let (vlans, text) = match third {
            Some(third) => (tags(second, '.')?, third),
            None => (Vec::new(), second),
        };
        Ok(KeyText(BindingKey { vni, vlans, mac: mac(text)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_text_is_read_back() {
        for vlans in [vec![], vec![10], vec![10, 20]] {
            let key = KeyText(BindingKey { vni: Vni(100), vlans, mac: Mac([2, 0, 0, 0, 0, 9]) });
            assert!(key.to_string().parse::<KeyText>().is_ok_and(|read| read == key));
        }
        for text in ["", "100", "100/x", "x/02:00:00:00:00:09", "100/0/02:00:00:00:00:09"] {
            assert!(text.parse::<KeyText>().is_err(), "{text}");
        }
    }
}
