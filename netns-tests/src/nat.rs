//! Nodes behind routers: an internet, sites with every usual kind of NAT, and what is measured in them.

mod lab;
mod net;
pub mod preset;
pub mod probe;

pub use lab::{BareLab, CONNECTS_WITHIN, Ground, NatLab, NatSpec, RELAYED, SiteSpec, is_direct};
pub use net::{CONTROLLER, Cut, Internet, SERVER_1, SERVER_2, Site, v4, v6};
pub use preset::{Preset, Quirks};
