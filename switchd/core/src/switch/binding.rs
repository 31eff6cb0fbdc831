//! Who lives where: the vocabulary of the binding table.

use std::net::IpAddr;
use std::time::Duration;

use crate::frame::Tags;
use crate::ids::{Generation, Mac, PeerId};

/// A binding as the controller, or the node's configuration, sets it; or one that a switch learned and announced,
/// as the controller passes it on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// VLAN tags of the instance's frames.
    pub tags: Tags,
    /// The instance's MAC.
    pub mac: Mac,
    /// The instance's IPs, empty where they are to be learned.
    pub ips: Vec<IpAddr>,
    /// Where it lives.
    pub at: Place,
    /// Orders the places that it has had.
    pub generation: Generation,
    /// [`Source::Controller`], or anything else for an announced one.
    pub source: Source,
    /// Whether it runs there already. An announced one does.
    pub state: State,
}

/// What names a binding within a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BindingKey {
    /// VLAN tags of the instance's frames.
    pub tags: Tags,
    /// The instance's MAC.
    pub mac: Mac,
}

/// Where an instance lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// On this node's bridge.
    Local,
    /// Behind a peer.
    Peer(PeerId),
}

/// Who says so. A controller's binding beats the others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The controller or the node's configuration.
    Controller,
    /// Another switch, which learned it and announced it to the controller; or, of a station of this bridge, this
    /// switch, and the controller confirmed it. One elsewhere does not age.
    Announced,
    /// Frames that were seen.
    Learned,
}

/// Whether the instance runs at its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    /// It runs: it is answered for and attracts traffic.
    #[default]
    Active,
    /// It is to run there: nothing is answered or forwarded by this binding until it is activated, by the
    /// controller or by the instance's first frame from there.
    Prepared,
}

/// What [`super::Switch::set_binding`] changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BindingChange {
    /// The instance was unknown.
    Added,
    /// The same as before.
    Unchanged,
    /// The same place, with other IPs, source or generation.
    Updated,
    /// The instance lived elsewhere.
    Moved {
        /// Where it lived.
        from: Place,
    },
    /// Noted for later; what is active stays so.
    Prepared,
    /// Nothing: the announcement is of the generation that is known already, and the station was seen elsewhere
    /// since.
    Overtaken,
    /// It is announced to be on this bridge, where it is not, or no longer: nobody is sent there. The shell
    /// withdraws it.
    NotHere,
}

/// Why a binding was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindingError {
    /// A newer one is known: the caller's is out of date.
    #[error("generation {} is older than generation {} of the binding of {}", offered.0, current.0, key.mac)]
    Stale {
        /// The binding.
        key: BindingKey,
        /// The caller's generation.
        offered: Generation,
        /// The table's generation.
        current: Generation,
    },
    /// The controller itself says where the station lives, and an announcement does not override it.
    #[error("the controller bound {}, which no announcement overrides: remove its binding first", .0.mac)]
    Controlled(BindingKey),
    /// An announced binding is only prepared, which a controller's alone can be.
    #[error("the announced binding of {} is only prepared: what a switch learned is active", .0.mac)]
    Prepared(BindingKey),
    /// Every entry of the table is a controller's binding; for an announced one, all that were looked at.
    #[error("the binding table is full: raise max_macs or max_ips")]
    TableFull,
    /// The MAC or an IP cannot be an instance's, or is the endpoint's.
    #[error("the address of {} cannot be bound: use unicast addresses other than the endpoint's", .0.mac)]
    Address(BindingKey),
}

/// A row of the binding table: a station with IPs, or one that the controller named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BindingView {
    /// The station.
    pub key: BindingKey,
    /// Its IPs, in no order.
    pub ips: Vec<IpAddr>,
    /// Where it lives, or is to live if only prepared.
    pub at: Place,
    /// Orders its places: the newest that the controller gave the station, 0 if none.
    pub generation: Generation,
    /// Who says so.
    pub source: Source,
    /// Whether it runs there.
    pub state: State,
    /// It is a router: by its own word (RA, or the R flag of an NA), by DHCPv4, or by the configuration.
    pub router: bool,
    /// Since its last frame; `None` if none was seen.
    pub age: Option<Duration>,
}

/// A row of the MAC table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacView {
    /// The station.
    pub key: BindingKey,
    /// Where its frames go.
    pub at: Place,
    /// Who says so.
    pub source: Source,
    /// Since its last frame; `None` if none was seen.
    pub age: Option<Duration>,
}

/// A station of this bridge that the controller did not place: what the shell announces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalStation {
    /// The station.
    pub key: BindingKey,
    /// Its IPs, in no order.
    pub ips: Vec<IpAddr>,
    /// The newest generation that the controller gave the station, here or elsewhere; 0 if none is known. A claim
    /// is made against it.
    pub seen_generation: Generation,
    /// [`Source::Announced`] if that generation is the confirmation that the station is here, else
    /// [`Source::Learned`].
    pub source: Source,
}
