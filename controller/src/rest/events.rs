//! The stream of events: server-sent, resumable.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{self, KeepAlive},
    },
};
use controller_api::rest::Event;
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, convert,
    extract::Query,
    problem::{ApiError, ProblemKind},
};
use crate::engine::{LoggedEvent, Subscription};

/// The path of the stream.
pub(crate) const PATH: &str = "/v1/events";
const LAST_EVENT_ID: &str = "last-event-id";
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(watch_events))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WatchEvents {
    /// Only events of these kinds, with commas.
    #[param(example = "node-online,node-offline")]
    kind: Option<String>,
    /// Only events about this, by its id.
    #[param(example = "inst-12")]
    subject: Option<String>,
    /// Go on after the event with this id, as with the header `Last-Event-ID`; 0 for all that are still kept.
    #[param(example = "0")]
    after: Option<String>,
}

/// Watches events: a stream of server-sent events that does not end.
///
/// Each has its `id`, its kind as `event`, and as `data` an Event in JSON. An event `missed` says that some before the
/// next one are gone: read the lists again. Comments come every 15 seconds to keep the connection.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(WatchEvents, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event seen.")),
    responses((status = 200, description = "The stream.", body = Event, content_type = "text/event-stream")))]
async fn watch_events(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Query(query): Query<WatchEvents>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let last = headers.get(LAST_EVENT_ID).map(|last| last.to_str().unwrap_or("?"));
    let after = match (last, query.after.as_deref()) {
        (Some(last), _) => Some(number("Last-Event-ID", last)?),
        (None, Some(after)) => Some(number("after", after)?),
        (None, None) => None,
    };
    let permit = api.watchers.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(ProblemKind::TooMany, "too many clients watch events")
            .mend("end one that is not needed, or wait for operations with `get_operation`")
    })?;
    let subscription = api.engine.subscribe(after);
    let watch = Watch {
        // All that are kept was asked for: nothing is missed by that.
        missed: subscription.missed && after != Some(0),
        subscription,
        kinds: query.kind.map(|kinds| kinds.split(',').map(str::to_owned).collect()),
        subject: query.subject,
        _permit: permit,
    };
    let events = stream::unfold(watch, |mut watch| async move { Some((Ok(watch.next().await?), watch)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn number(field: &str, text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| ApiError::invalid(field, "this is the id of no event"))
}

struct Watch {
    missed: bool,
    subscription: Subscription,
    kinds: Option<HashSet<String>>,
    subject: Option<String>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if std::mem::take(&mut self.missed) {
                return Some(sse::Event::default().event("missed").data("{}"));
            }
            match self.subscription.next().await? {
                Err(_) => self.missed = true,
                Ok(logged) if self.wants(&logged) => return Some(event(&logged)),
                Ok(_) => {}
            }
        }
    }

    fn wants(&self, logged: &LoggedEvent) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(logged.event.kind.as_str()))
            && self.subject.as_ref().is_none_or(|subject| logged.event.subject == *subject)
    }
}

fn event(logged: &LoggedEvent) -> sse::Event {
    let (id, kind) = (logged.sequence.to_string(), logged.event.kind.as_str());
    let data = Event {
        id: id.clone(),
        at: convert::time(logged.event.at),
        kind: kind.to_owned(),
        subject: logged.event.subject.clone(),
        message: logged.event.message.clone(),
    };
    let data = serde_json::to_string(&data).expect("an event is JSON");
    sse::Event::default().id(id).event(kind).data(data)
}
