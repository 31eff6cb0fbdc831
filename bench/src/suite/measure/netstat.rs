//! TCP counters of a namespace.

use anyhow::Result;
use netns_tests::Namespace;
use netns_tests::counters::Counters;

/// The counters of a namespace's TCP that tell of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Segments that a receiver had to keep until what was missing before them came (`TCPOFOQueue`), be that late or
    /// sent a second time.
    pub(super) out_of_order: u64,
    /// How often a sender saw that something was late and not lost (`TCPSACKReorder`, `TCPTSReorder`,
    /// `TCPRenoReorder`).
    pub(super) reordered: u64,
}

impl Order {
    /// Up to now.
    pub(super) fn of(ns: &Namespace) -> Result<Order> {
        let counters = Counters::of(ns)?;
        let reordered = ["TcpExtTCPSACKReorder", "TcpExtTCPTSReorder", "TcpExtTCPRenoReorder"];
        Ok(Order {
            out_of_order: counters.get("TcpExtTCPOFOQueue")?,
            reordered: reordered.into_iter().map(|name| counters.get(name)).sum::<Result<u64>>()?,
        })
    }
}
