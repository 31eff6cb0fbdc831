//! What is measured of a contender.

use std::time::Duration;

use anyhow::Result;
use netns_tests::measure;

use super::{Arena, Figure};

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// One TCP flow.
    TcpOne,
}

impl Measure {
    /// All of them.
    pub fn all() -> Vec<Measure> {
        vec![Measure::TcpOne]
    }

    /// Its name, with which its figures' begin.
    pub fn name(&self) -> &'static str {
        "tcp-1-flow"
    }

    /// Measures once.
    pub fn run(&self, arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
        let seconds = time.as_secs().max(1) as u32;
        let bits = measure::iperf(arena.client, arena.server, arena.address, seconds)?;
        Ok(vec![Figure { name: "tcp-1-flow", value: bits / 1e9, unit: "Gb/s" }])
    }
}
