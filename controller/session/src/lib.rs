//! Keys, join tokens and the TLS of node sessions, for both of their ends.

pub mod key;
