//! What the benches share: a measurement that says allocations beside the time.

use std::time::Duration;

use bench_micro::{Counting, allocations};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Short runs: many figures, each of an operation that takes nanoseconds or a few microseconds.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
}

/// Measures `op` under its name and the allocations of one run of it, in the steady state.
pub(crate) fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut op: impl FnMut()) {
    let each = allocations_of(&mut op);
    group.bench_function(with_allocations(name, each), |b| b.iter(&mut op));
}

/// Allocations of one run, after some that may grow what is kept.
pub(crate) fn allocations_of(mut op: impl FnMut()) -> f64 {
    const RUNS: u32 = 256;
    (0..RUNS).for_each(|_| op());
    let before = allocations();
    (0..RUNS).for_each(|_| op());
    (allocations() - before) as f64 / f64::from(RUNS)
}

/// `name`, with its allocations behind it.
pub(crate) fn with_allocations(name: &str, each: f64) -> String {
    format!("{name} (allocations: {each})")
}
