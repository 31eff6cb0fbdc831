//! Nodes behind routers: an internet, sites with every usual kind of NAT, and what is measured in them.

mod cell;
mod coturn;
mod gaps;
mod lab;
mod mesh;
mod net;
pub mod preset;
pub mod probe;
pub mod table;
mod view;

pub use cell::{Cell, Outcome, Wanted};
pub use coturn::{Coturn, NO_RELAY, Users, nat_table};
pub use gaps::{Harm, Noticed, Trial};
pub use lab::{BareLab, CONNECTS_WITHIN, Ground, NatLab, NatSpec, RELAYED, SiteSpec, is_direct};
pub use mesh::{Counted, Mesh, Quiet};
pub use net::{CONTROLLER, Cut, Forwarded, Internet, SERVER_1, SERVER_2, Site, v4, v6};
pub use preset::{Preset, Quirks};
pub use view::{Admin, Stage, Watcher};
