//! Events of links and addresses, from the kernel's multicast groups to every subscriber.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Link, NetlinkError};

/// Something changed. An event says where to look, not what is there by now: read the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// A link is new, or one of its properties changed.
    LinkNew {
        /// Interface index.
        index: u32,
        /// Its name.
        name: String,
        /// Index of the bridge it is a port of.
        master: Option<u32>,
    },
    /// A link is gone.
    LinkGone {
        /// Interface index, which may be given again.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// A link gained or lost an address.
    AddressChanged {
        /// Interface index.
        index: u32,
    },
    /// Events were lost: read everything that matters again.
    Resync,
}

/// A subscription.
pub struct Watch {
    events: broadcast::Receiver<LinkEvent>,
}

impl Watch {
    pub(super) fn new(events: broadcast::Receiver<LinkEvent>) -> Watch {
        Watch { events }
    }

    /// The next event; `None` once every [`super::Netlink`] is dropped. Cancel safe. A subscriber that falls behind
    /// gets [`LinkEvent::Resync`] in place of what it missed.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(LinkEvent::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Opens the multicast connection and forwards its events until the task is aborted.
pub(super) fn start(events: broadcast::Sender<LinkEvent>) -> Result<JoinHandle<()>, NetlinkError> {
    let (mut connection, _, mut messages) = new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                () = &mut connection => {}
                () = forward(&mut messages, &events) => {}
            }
            warn!("the netlink watch ended: opening it again");
            loop {
                tokio::time::sleep(REOPEN_DELAY).await;
                if let Ok((new_connection, _, new_messages)) = new_multicast_connection(&GROUPS) {
                    (connection, messages) = (new_connection, new_messages);
                    break;
                }
            }
            // What happened meanwhile nobody told. No subscriber is no error.
            let _ = events.send(LinkEvent::Resync);
        }
    }))
}

async fn forward<A>(
    messages: &mut (impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, A)> + Unpin),
    events: &broadcast::Sender<LinkEvent>,
) {
    while let Some((message, _)) = messages.next().await {
        if let Some(event) = event_of(message.payload) {
            // No subscriber is no error.
            let _ = events.send(event);
        }
    }
}

fn event_of(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => Some(changed(&message)),
        // A bridge says in this way that a port left it, while the link lives on (br_ifinfo_notify).
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message))
            if message.header.interface_family == AddressFamily::Bridge =>
        {
            Some(match changed(&message) {
                LinkEvent::LinkNew { index, name, .. } => LinkEvent::LinkNew { index, name, master: None },
                other => other,
            })
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
            let link = Link::from_message(&message);
            Some(LinkEvent::LinkGone { index: link.index, name: link.name })
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
        ) => Some(LinkEvent::AddressChanged { index: message.header.index }),
        NetlinkPayload::Overrun(_) => Some(LinkEvent::Resync),
        _ => None,
    }
}

fn changed(message: &LinkMessage) -> LinkEvent {
    let link = Link::from_message(message);
    LinkEvent::LinkNew { index: link.index, name: link.name, master: link.master }
}

const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// Events that a subscriber may fall behind.
pub(super) const QUEUE: usize = 512;

const REOPEN_DELAY: Duration = Duration::from_secs(1);
