//! Two nodes find ways to each other through invented networks, in invented time.

#![expect(clippy::unwrap_used, reason = "all of this is test code")]

mod changes;
mod chaos;

mod hostile;
mod matrix;
mod net;
mod world;
