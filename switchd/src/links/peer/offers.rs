//! The ways to a peer: what is said of them, which of them the worker is told of, and by which it is dialled.

use std::time::Instant;

use nat_traversal::{Offer, PathEvent, PathId, PathNews, Route};

use super::super::session::CLOSE_SILENT;
use super::{PeerLink, slot};
use crate::dataplane::Command;
use crate::traversal::News;

impl PeerLink {
    pub(super) fn handle_path(&mut self, event: PathEvent) {
        let news = match event {
            PathEvent::Selected { route, pair, .. } => Some(PathNews::Selected(route, pair.kind())),
            PathEvent::Dead { route, .. } => Some(PathNews::Dead(route)),
            PathEvent::AllDead | PathEvent::Lost => Some(PathNews::AllDead),
            // No other was found: checks may end.
            PathEvent::Alive => {
                self.route().map(|route| PathNews::Selected(route, self.order.pair(route).kind()))
            }
            PathEvent::Learned { .. } => None,
        };
        if let (Some(traversals), Some(news)) = (self.shared.traversals.get(), news) {
            traversals.path(self.config.id, news);
        }
        match event {
            PathEvent::Selected { route, pair, .. } => {
                tracing::info!(parent: &self.span, address = %route, path = pair.kind().name(), "path");
                self.meet(route);
                self.shared.paths_mut().select(slot(self.config.id), route);
                self.status().route = Some(route);
            }
            // QUIC takes nothing of the peer's by a way that is not known to be its.
            PathEvent::Learned { route } => self.shared.paths_mut().know(slot(self.config.id), route),
            PathEvent::Dead { route, .. } => {
                tracing::debug!(parent: &self.span, address = %route, "a path does not answer");
            }
            // A peer that was restarted knows nothing of the session: QUIC is told so by its first packet.
            PathEvent::AllDead => self.announce_networks(),
            PathEvent::Alive => {}
            PathEvent::Lost => {
                let silent = self.shared.config.load().dead_after;
                self.status().last_error = Some(format!("no answer for {} s", silent.as_secs_f64()));
                for live in self.live.values() {
                    live.connection.close(CLOSE_SILENT.into(), b"no path answers");
                }
            }
        }
    }

    /// What checks say. While the link is down it is made by what they found at once, not by guesses.
    pub(super) fn handle_news(&mut self, news: News, now: Instant) {
        match news {
            News::Found(route, pair) => {
                tracing::debug!(parent: &self.span, address = %route, path = pair.kind().name(), "a way is found");
                self.order.found(route, pair);
                self.offer(route, false);
                if self.sessions.active().is_some() {
                    return;
                }
                // Its end is a failed dial, and the next one takes what was found.
                let cancelled = self.cancel_dial.take().is_some_and(|cancel| cancel.send(()).is_ok());
                if !cancelled && !self.sessions.dialling() {
                    self.sessions.set_may_dial(self.may_dial(), now);
                }
            }
            News::Gone(route) => {
                self.order.gone(route);
                self.withdraw(route);
            }
        }
    }

    pub(super) fn look_for_ways(&self) {
        if let Some(traversals) = self.shared.traversals.get() {
            traversals.wake(self.config.id);
        }
    }

    /// Tells the worker of a way to the peer.
    pub(super) fn offer(&mut self, route: Route, proven: bool) {
        let known = self.offers.iter().find(|(_, other)| *other == route).map(|(id, _)| *id);
        let id = known.unwrap_or_else(|| {
            let id = PathId(self.next_path);
            self.next_path = (self.next_path + 1) % PathId::OWN;
            self.offers.push((id, route));
            id
        });
        if self.offers.len() > MAX_PATHS
            && let Some(oldest) = self.spare_route(route)
        {
            self.withdraw(oldest);
        }
        let pair = self.order.pair(route);
        self.shared.paths_mut().know(slot(self.config.id), route);
        self.shared.worker.send(Command::OfferPath(self.config.id, Offer { id, route, pair, proven }));
    }

    pub(super) fn withdraw(&mut self, route: Route) {
        let Some(at) = self.offers.iter().position(|(_, other)| *other == route) else { return };
        let (id, _) = self.offers.remove(at);
        if self.route() != Some(route) {
            self.shared.paths_mut().forget_route(slot(self.config.id), route);
        }
        self.shared.worker.send(Command::WithdrawPath(self.config.id, id));
    }

    pub(super) fn meet(&mut self, route: Route) {
        self.order.met(route);
    }

    /// The oldest way that is not in use and not `new`; relayed ones are kept, to fall back on.
    fn spare_route(&self, new: Route) -> Option<Route> {
        let in_use = self.route();
        let spare = |route: &Route| Some(*route) != in_use && *route != new;
        let routes = || self.offers.iter().map(|(_, route)| *route).filter(spare);
        routes().find(|route| matches!(route, Route::Direct(_))).or_else(|| routes().next())
    }

    /// The way of the next dial, while there is no session.
    pub(super) fn select_route(&mut self, route: Route) {
        self.note_route(route);
        self.sessions.set_may_dial(self.may_dial(), Instant::now());
    }

    pub(super) fn note_route(&self, route: Route) {
        self.shared.paths_mut().select_only(slot(self.config.id), route);
        self.status().route = Some(route);
    }

    pub(super) fn route(&self) -> Option<Route> {
        self.shared.paths().route(slot(self.config.id))
    }
}

/// Ways that the worker is told of; it keeps some for those that it learns itself.
const MAX_PATHS: usize = 6;
