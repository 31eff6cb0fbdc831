//! Runs instances on a node, as containers or QEMU guests, and reports them to the controller.
//!
//! [`reconcile`] decides, purely, what is to be done; [`engine`] does it by the drivers ([`container`], [`qemu`]) and
//! keeps the records of [`store`]; [`session`] brings what shall be and takes what is. Each instance runs under a
//! small process of its own ([`shim`]) and so survives the agent.

mod boundedlog;
pub mod capacity;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod container;
pub mod driver;
pub mod engine;
pub mod failure;
pub mod image;
mod launch;
pub mod net;
pub mod process;
pub mod qemu;
pub mod reconcile;
pub mod run;
pub mod session;
pub mod shim;
pub mod spec;
pub mod status;
pub mod store;
mod sys;
pub mod transfer;
pub mod volume;
