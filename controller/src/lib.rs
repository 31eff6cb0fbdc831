//! The controller: registers nodes and placement, introduces switches to each other, offers the management API.

pub mod admin;
mod api_secret;
pub mod audit;
pub mod cli;
pub mod config;
pub mod engine;
pub mod metrics;
pub mod mgmt;
pub mod nodes;
pub mod provider;
pub mod provision;
pub mod relay;
pub mod rest;
pub mod run;
pub mod state_dir;
pub mod store;
