//! The controller: registers nodes and placement, introduces switches to each other, offers the management API.

pub mod config;
pub mod engine;
pub mod nodes;
pub mod provider;
pub mod store;
