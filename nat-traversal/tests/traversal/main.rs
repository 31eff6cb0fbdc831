//! Two nodes find ways to each other through invented networks, in invented time.

mod changes;
mod hostile;
mod matrix;
mod net;
mod world;
