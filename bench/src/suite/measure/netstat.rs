//! TCP counters of a namespace.

use anyhow::{Context, Result};
use netns_tests::Namespace;

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
        // /proc/net is that of the process's first thread, which is in another namespace.
        let path = "/proc/thread-self/net/netstat";
        let text =
            ns.enter(|| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}")))?;
        parse(&text).with_context(|| format!("{path} has no counters of order"))
    }
}

fn parse(text: &str) -> Option<Order> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let counter = |wanted: &str| {
        let found = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == wanted);
        found?.1.parse::<u64>().ok()
    };
    let reordered = ["TCPSACKReorder", "TCPTSReorder", "TCPRenoReorder"].map(counter);
    Some(Order {
        out_of_order: counter("TCPOFOQueue")?,
        reordered: reordered.into_iter().sum::<Option<u64>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counters_by_their_names() {
        let text = "TcpExt: SyncookiesSent TCPRenoReorder TCPSACKReorder TCPOFOQueue TCPTSReorder\n\
                    TcpExt: 9 1 2 30 4\nIpExt: InNoRoutes TCPOFOQueue\nIpExt: 5 6\n";
        assert_eq!(parse(text), Some(Order { out_of_order: 30, reordered: 7 }));
        assert_eq!(parse("TcpExt: TCPOFOQueue\nTcpExt: 1\n"), None);
    }
}
