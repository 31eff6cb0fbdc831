//! What travels on the node's one UDP socket, and by which path a peer is reached. Pure: no socket, no clock.
//!
//! | Module | What |
//! |---|---|
//! | `route` | the words: routes, candidates, relays |
//! | `demux`, `paths` | telling datagrams apart; the address that QUIC knows a peer by |
//! | `stun`, `relay`, `netcheck` | what servers tell this node: its mapped addresses, its allocations, its NAT |
//! | `ice`, `signal`, `traversal` | finding ways to one peer |
//! | `path_set` | which of them carries frames |
//! | `budget` | a rate with a burst |

mod budget;
mod demux;
mod ice;
mod netcheck;
mod path_set;
mod paths;
mod relay;
mod route;
mod signal;
mod stun;
mod traversal;

pub use budget::Budget;
pub use demux::{Protocol, classify};
pub use netcheck::{FamilyReport, Filtering, Mapping, NatReport, NetCheck, NetCheckConfig, ServerReport};
pub use path_set::{
    FULL, MAX_PATHS, Offer, PathConfig, PathEvent, PathId, PathProbe, PathSet, PathState, PathView,
};
pub use paths::{PathTable, Slot, canonical, is_real_source};
pub use relay::{
    LostReason, PeerRefusal, RelayClient, RelayConfig, RelayError, RelayEvent, RelayFamily, RelayTransport,
    StreamError, StreamSplitter, frame,
};
pub use route::{Candidate, CandidateKind, CandidatePair, RelayId, Route, is_global};
pub use signal::{Heard, Signal, SignalCandidate, SignalError};
pub use stun::{StunClient, StunEvent};
pub use traversal::{
    PairReport, PairState, PathNews, StunRouter, Transmit, Traversal, TraversalConfig, TraversalEvent,
    TraversalReport, TraversalState, TraversalTiming, stun_username,
};
