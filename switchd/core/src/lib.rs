//! The pure core of the switch.
//!
//! Everything here is a function of (state, input, now): no socket, clock, thread or random source. The shell
//! (`switchd`) owns the I/O, hands frames and datagrams in, and carries out the [`switch::Verdict`].
//!
//! - [`frame`]: Ethernet II, VLAN tags, ARP, IPv4, IPv6 and ND, by checked parse.
//! - [`switch`]: bindings, the four ARP cases, ND, flooding, policies.
//! - [`wire`] and [`seal`]: the sealed datagram.
//! - [`offload`]: splitting super-frames, coalescing segments, MSS clamp.
//! - [`fragment`]: frames that do not fit the path.
//! - [`lanes`]: which frames go ahead of others.

pub mod fragment;
pub mod frame;
pub mod ids;
pub mod lanes;
pub mod offload;
pub mod seal;
pub mod switch;
pub mod time;
pub mod vnet;
pub mod wire;
