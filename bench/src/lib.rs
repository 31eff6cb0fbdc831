//! Benches of the whole system, in `src/bin/`. Those of the core's parts are a crate of their own, in `micro/`.
