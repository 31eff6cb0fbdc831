//! Benches: of the core's parts in `benches/`, of the whole system in `src/bin/` and [`suite`].

pub mod suite;
