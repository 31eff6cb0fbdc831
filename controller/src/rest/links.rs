//! Links: who reaches whom, and how.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use axum::{Json, extract::State};
use controller_api::{
    node::LinkStatus,
    rest::{Link, LinkState, Page},
};
use controller_registry::{NodeId, Registry, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, convert, extract::Query, page::Part, problem::ApiError};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list_links))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListLinks {
    /// How many entries at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
    /// Only those with this node at either end, by id or name.
    compute_node: Option<String>,
    /// Only those that are so.
    #[param(inline)]
    state: Option<LinkState>,
}

/// Lists the links as the nodes last reported them: each end reports its own.
#[utoipa::path(get, path = "/v1/links", tag = "links", params(ListLinks),
    responses((status = 200, description = "A part of the list.", body = Page<Link>)))]
async fn list_links(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListLinks>,
) -> Result<Json<Page<Link>>, ApiError> {
    let part = Part::<Ends>::new(query.limit, query.cursor.as_deref())?;
    let links = api.observed.links();
    let at: BTreeMap<NodeId, Timestamp> = links
        .iter()
        .map(|(node, ..)| *node)
        .filter_map(|node| Some((node, api.observed.node(node)?.links_at)))
        .collect();
    let page = api
        .engine
        .read(|registry| {
            let node = query.compute_node.as_deref().map(|node| registry.find_node(node)).transpose()?;
            let wanted = |(from, to, link): &&(NodeId, NodeId, LinkStatus)| {
                node.is_none_or(|node| *from == node.id || *to == node.id)
                    && query.state.is_none_or(|wanted| state(&link.state) == wanted)
            };
            let links = links.iter().filter(wanted);
            Ok::<_, ApiError>(part.of(
                links,
                |(from, to, _)| Ends(*from, *to),
                |(from, to, link)| {
                    convert_link(registry, *from, *to, link, at.get(from).copied().unwrap_or_default())
                },
            ))
        })
        .await?;
    Ok(Json(page))
}

fn convert_link(registry: &Registry, from: NodeId, to: NodeId, link: &LinkStatus, at: Timestamp) -> Link {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Link {
        compute_node: from.to_string(),
        compute_node_name: convert::node_name(registry, from),
        peer: to.to_string(),
        peer_name: convert::node_name(registry, to),
        state: state(&link.state),
        address: text(&link.address),
        path: text(&link.path),
        local_candidate: text(&link.local_candidate),
        remote_candidate: text(&link.remote_candidate),
        why_relayed: text(&link.why_relayed),
        rtt_us: Some(link.rtt_us).filter(|rtt| *rtt != 0),
        path_mtu: Some(link.path_mtu).filter(|mtu| *mtu != 0),
        loss_ppm: link.loss_ppm,
        datagrams_to_peer: link.datagrams_to_peer,
        datagrams_from_peer: link.datagrams_from_peer,
        bytes_to_peer: link.bytes_to_peer,
        bytes_from_peer: link.bytes_from_peer,
        last_error: text(&link.last_error),
        reported_at: convert::time(at),
    }
}

fn state(text: &str) -> LinkState {
    match text {
        "up" => LinkState::Up,
        "connecting" => LinkState::Connecting,
        _ => LinkState::Down,
    }
}

/// A link's ends in a cursor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ends(NodeId, NodeId);

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

impl FromStr for Ends {
    type Err = ();

    fn from_str(text: &str) -> Result<Ends, ()> {
        let (from, to) = text.split_once('/').ok_or(())?;
        Ok(Ends(from.parse().map_err(|_| ())?, to.parse().map_err(|_| ())?))
    }
}
