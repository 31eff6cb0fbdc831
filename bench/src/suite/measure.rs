//! What is measured between the two ends of an arena.

mod bulk;
mod cost;
mod netstat;
mod offload;
mod qperf;
mod request;
mod tcp;
mod udp;

use std::time::Duration;

use anyhow::Result;

use super::{Arena, Figure};

/// One thing to measure. Each takes about the time it is given, some up to twice that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// One TCP flow, what it costs, and what of it came out of order.
    TcpOne,
    /// Four TCP flows in one direction.
    TcpFour,
    /// One TCP flow in each direction at once.
    TcpBoth,
    /// One TCP flow while neither end's interface has any offload.
    TcpNoOffload,
    /// Datagrams of this many bytes: as many as can be sent, and as many as can be sent with under 1 % lost. One of
    /// [`Measure::UDP_SIZES`].
    Udp(u16),
    /// Requests and responses with nothing else under way.
    RequestIdle,
    /// Requests and responses beside a TCP flow in the requests' direction.
    RequestLoaded,
    /// The paper's Table II: bandwidth, and latency, by qperf.
    Qperf,
    /// Resident memory of the contender's processes, whatever passed before.
    Memory,
}

impl Measure {
    /// Payloads of [`Measure::Udp`], in bytes.
    pub const UDP_SIZES: [u16; 4] = [64, 512, 1400, 8192];

    /// All of them. Latencies come before whatever may leave queues full, memory after everything else.
    pub fn all() -> Vec<Measure> {
        let mut all = vec![
            Measure::RequestIdle,
            Measure::TcpOne,
            Measure::TcpFour,
            Measure::TcpBoth,
            Measure::TcpNoOffload,
            Measure::RequestLoaded,
        ];
        all.extend(Measure::UDP_SIZES.map(Measure::Udp));
        all.extend([Measure::Qperf, Measure::Memory]);
        all
    }

    /// For example `tcp-1`.
    pub fn name(&self) -> &'static str {
        match self {
            Measure::TcpOne => "tcp-1",
            Measure::TcpFour => "tcp-4",
            Measure::TcpBoth => "tcp-both",
            Measure::TcpNoOffload => "tcp-no-offload",
            Measure::Udp(size) => udp::name(*size),
            Measure::RequestIdle => "request-idle",
            Measure::RequestLoaded => "request-loaded",
            Measure::Qperf => "qperf",
            Measure::Memory => "memory",
        }
    }

    /// Measures once, for about `time`.
    pub fn run(&self, arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
        match self {
            Measure::TcpOne => tcp::one(arena, time),
            Measure::TcpFour => tcp::four(arena, time),
            Measure::TcpBoth => tcp::both(arena, time),
            Measure::TcpNoOffload => tcp::without_offload(arena, time),
            Measure::Udp(size) => udp::datagrams(arena, *size, time),
            Measure::RequestIdle => request::idle(arena, time),
            Measure::RequestLoaded => request::loaded(arena, time),
            Measure::Qperf => qperf::table(arena, time),
            Measure::Memory => cost::memory(arena),
        }
    }
}

#[cfg(test)]
mod tests;
