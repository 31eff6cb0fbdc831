//! Benches of the whole system: [`suite`], and what else is in `src/bin/`. Those of the core's parts are a crate of
//! their own, in `micro/`.

pub mod suite;
