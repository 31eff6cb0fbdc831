//! The controller: registers nodes and placement, introduces switches to each other, offers the management API.

pub mod config;
pub mod provider;
pub mod store;
