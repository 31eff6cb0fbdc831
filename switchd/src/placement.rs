//! Which CPU the worker runs on: the kernel's choice, except where the worker waits for a CPU while another one
//! has nothing to do (decision 20).

mod host;
mod rule;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::Pid;

use crate::view::WorkerStats;
use host::Host;
use rule::{Place, Rule};

/// A thread of this process.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    id: Pid,
    moves: Arc<AtomicU64>,
}

impl Thread {
    pub(crate) fn new(id: Pid) -> Thread {
        Thread { id, moves: Arc::default() }
    }

    /// What it did since its start; none if the kernel does not say.
    pub(crate) fn stats(&self) -> Option<WorkerStats> {
        let times = host::times_of(self.id).ok()?;
        Some(WorkerStats { ran: times.ran, waited: times.waited, moves: self.moves.load(Ordering::Relaxed) })
    }

    /// Places it from now on, until it ends, somebody else places it, or the kernel does not allow it.
    pub(crate) async fn place(self) {
        match Host::open(self.id) {
            Ok(Some(host)) => {
                let e = self.mind(host, Rule::default()).await;
                tracing::info!(error = %e, "the kernel alone chooses the worker's CPU from now on");
            }
            Ok(None) => {} // there is one CPU
            Err(e) => tracing::info!(error = %e, "the kernel alone chooses the worker's CPU"),
        }
    }

    async fn mind(&self, mut host: Host, mut rule: Rule) -> io::Error {
        loop {
            tokio::time::sleep(LOOK.mul_f64(0.75 + 0.5 * chance())).await;
            let place = match host.look() {
                Ok(look) => rule.decide(&look, chance() < 0.5),
                Err(e) => return e,
            };
            let Some(place) = place else { continue };
            if let Err(e) = host.put(place) {
                return e;
            }
            self.moves.fetch_add(1, Ordering::Relaxed);
            match place {
                Place::Cpu(cpu) => tracing::debug!(cpu, "the worker waited beside an idle CPU: moved to it"),
                Place::Any => tracing::debug!("the worker waited for its CPU: the kernel chooses again"),
            }
        }
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let mut byte = [0];
    aws_lc_rs::rand::fill(&mut byte).expect("the operating system has randomness");
    f64::from(byte[0]) / 256.0
}

/// How often, on average: the kernel tells idle times in hundredths of a second.
const LOOK: Duration = Duration::from_millis(120);
