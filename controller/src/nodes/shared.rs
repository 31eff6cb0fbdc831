//! What many nodes are told at once, encoded once: a changed binding goes to a thousand sessions as the same bytes.
//!
//! Nodes that see the same networks are told the same of bindings. What is a node's own, its networks and peers, is
//! made for it and goes before the shared parts, in the same revision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use controller_registry::{Delta, NodeId, Registry, Revision, Snapshot, Stations, View};

use super::state;
use crate::engine::Engine;

/// The encoded parts that are in use.
#[derive(Debug, Default)]
pub(super) struct Shared {
    steps: Mutex<Steps>,
    /// The newest of each view. Held while one is made, so that a thousand nodes that come at once wait for one.
    snapshots: tokio::sync::Mutex<HashMap<View, Encoded>>,
}

/// From one revision to another. None gets wrong: what a step has that is older than the newest is in a later step
/// too.
#[derive(Debug, Default)]
struct Steps {
    bytes: usize,
    by: HashMap<(View, Revision, Revision), Arc<[Bytes]>>,
}

#[derive(Clone, Debug)]
struct Encoded {
    revision: Revision,
    parts: Arc<[Bytes]>,
}

/// What a node is to be told.
#[derive(Debug)]
pub(super) struct Told {
    /// Then it has everything up to this.
    pub(super) revision: Revision,
    /// There is more to be told after it.
    pub(super) behind: bool,
    /// Encoded messages; nothing for nothing.
    pub(super) parts: Vec<Bytes>,
}

/// What a look at the registry found.
enum News {
    Nothing,
    /// What is the node's own, and bindings that were encoded before.
    Known(Delta, Arc<[Bytes]>),
    /// What is the node's own, and bindings.
    Stations(View, Delta, Stations),
    /// Networks changed as well.
    Networks(Delta),
}

impl Shared {
    /// What is new for a node since a revision, or the first step of it; none if it needs a snapshot.
    pub(super) async fn delta(&self, engine: &Engine, node: NodeId, known: Revision) -> Option<Told> {
        let mut after = known;
        loop {
            let look = |registry: &Registry| {
                (epoch(registry), registry.revision(), self.look(registry, node, after))
            };
            let (epoch, newest, news) = engine.read(look).await;
            let (revision, parts) = match news? {
                News::Nothing => (after, Vec::new()),
                News::Networks(delta) => (delta.revision, state::delta(epoch, &delta)),
                News::Known(own, shared) => (own.revision, joined(epoch, &own, &shared)),
                News::Stations(view, own, stations) => {
                    let shared: Arc<[Bytes]> = state::stations(epoch, &stations).into();
                    self.keep((view, after, own.revision), shared.clone());
                    (own.revision, joined(epoch, &own, &shared))
                }
            };
            // A step in which nothing concerns the node.
            if parts.is_empty() && revision < newest {
                after = revision;
                continue;
            }
            return Some(Told { revision, behind: revision < newest, parts });
        }
    }

    /// All that a node sees. It may be a little old: a delta goes after it.
    pub(super) async fn snapshot(&self, engine: &Engine, node: NodeId) -> Told {
        let few = engine.read(|registry| {
            let few = registry.bindings().len() <= FEW;
            few.then(|| (epoch(registry), registry.snapshot_for(node)))
        });
        if let Some((epoch, few)) = few.await {
            let parts = state::snapshot(epoch, &few);
            return Told { revision: few.revision, behind: false, parts };
        }
        let mut snapshots = self.snapshots.lock().await;
        // One look for all of it, so that it is of one revision; or of the kept one, with peers that are newer.
        let (epoch, own, view, kept, whole) = engine
            .read(|registry| {
                let view = registry.view_of(node);
                let lag = |kept: &Encoded| registry.stations_changed(kept.revision);
                let kept = view.as_ref().and_then(|view| snapshots.get(view)).cloned();
                let kept = kept.filter(|kept| lag(kept).is_some_and(|lag| lag <= LAG));
                let whole = view.as_ref().filter(|_| kept.is_none()).map(|view| registry.stations_of(view));
                (epoch(registry), registry.surroundings_of(node), view, kept, whole)
            })
            .await;
        let encoded = match (kept, view) {
            (Some(encoded), _) => encoded,
            (None, view) => {
                // Of a node that is none any more there is nothing.
                let whole =
                    whole.unwrap_or_else(|| Stations { revision: own.revision, ..Stations::default() });
                let parts = state::whole_stations(epoch, &whole).into();
                let encoded = Encoded { revision: whole.revision, parts };
                // Few views are in use at a time, if not this one alone.
                if snapshots.len() >= VIEWS {
                    snapshots.clear();
                }
                if let Some(view) = view {
                    snapshots.insert(view, encoded.clone());
                }
                encoded
            }
        };
        drop(snapshots);
        let mut parts = state::surroundings(epoch, &Snapshot { revision: encoded.revision, ..own });
        parts.extend_from_slice(&encoded.parts);
        Told { revision: encoded.revision, behind: true, parts }
    }

    fn look(&self, registry: &Registry, node: NodeId, known: Revision) -> Option<News> {
        let newest = registry.revision();
        if known == newest {
            return Some(News::Nothing);
        }
        let view = registry.view_of(node)?;
        if registry.stations_changed(known).is_none() {
            return registry.changes_since(node, known).map(News::Networks);
        }
        // Steps end at the same revisions for all nodes, however far behind each one is.
        let until = Revision((known.0 / STEP + 1).saturating_mul(STEP)).min(newest);
        let own = registry.peers_between(node, known, until);
        let key = (view, known, until);
        let kept = self.steps.lock().unwrap_or_else(PoisonError::into_inner).by.get(&key).cloned();
        Some(match kept {
            Some(shared) => News::Known(own, shared),
            None => {
                let stations = registry.stations_between(&key.0, known, until);
                News::Stations(key.0, own, stations)
            }
        })
    }

    fn keep(&self, key: (View, Revision, Revision), parts: Arc<[Bytes]>) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.bytes > STEPS_BYTES || steps.by.len() >= STEPS {
            *steps = Steps::default();
        }
        steps.bytes += parts.iter().map(Bytes::len).sum::<usize>();
        steps.by.insert(key, parts);
    }
}

fn joined(epoch: u64, own: &Delta, shared: &[Bytes]) -> Vec<Bytes> {
    let mut parts = state::own(epoch, own, !shared.is_empty());
    parts.extend_from_slice(shared);
    parts
}

fn epoch(registry: &Registry) -> u64 {
    registry.cluster().map_or(0, |cluster| cluster.epoch)
}

/// Revisions in one step: about 256 KiB of bindings, which a session has under way at a time.
const STEP: u64 = 4096;
/// Steps that are kept, and their bytes.
const STEPS: usize = 1024;
const STEPS_BYTES: usize = 16 << 20;
/// Changes that a snapshot may lag behind: a delta with so many costs little beside it.
const LAG: usize = 8192;
/// With so few bindings a snapshot is made for each node, in one message.
const FEW: usize = 64;
/// Snapshots that are kept.
const VIEWS: usize = 16;
