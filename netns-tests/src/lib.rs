//! A lab of network namespaces that runs the shipped binaries, for black-box tests, the demo and the system benches.
//!
//! A [`LabSpec`] says which nodes, bridges, instances and underlays there are; [`Lab::build`] makes them with
//! iproute2 and removes them on drop. [`lab_test`] runs one test in one lab and keeps evidence when it fails.
//! Content-checking traffic is in [`traffic`], raw frames in [`packet`] and [`frames`], iperf3 and ping in
//! [`measure`], and the plaintext kernel VXLAN to compare with in [`vxlan`].
//!
//! Everything needs root. Nothing outside the namespaces of the lab is touched.

mod cgroups;
pub mod cluster;
pub mod cmd;
pub mod config;
pub mod counters;
pub mod ctl;
mod daemon;
pub mod dhcp;
mod evidence;
pub mod frames;
mod lab;
pub mod measure;
pub mod nat;
mod ns;
pub mod packet;
mod sys;
pub mod traffic;
pub mod vxlan;
mod wait;

pub use config::SwitchdConfig;
pub use daemon::{bin, switchctl_bin, switchd_bin};
pub use lab::{
    BridgeSpec, Instance, InstanceSpec, Lab, LabSpec, Node, NodeSpec, UnderlaySpec, lab_test, require_root,
    sweep, target_dir,
};
pub use ns::Namespace;
pub use wait::{expect, wait_for, wait_ok};
