//! Nodes behind routers: some cells of the matrix that `make nat-matrix` runs whole.

use anyhow::{Result, anyhow};
use netns_tests::nat::Cell;
use netns_tests::nat::preset::*;

fn shown(cell: &Cell) -> Result<()> {
    let outcome = cell.run()?;
    println!("{outcome:?}");
    outcome.failure.map_or(Ok(()), |failure| Err(anyhow!("{}: {failure}", cell.name)))
}

#[test]
fn open_and_open() -> Result<()> {
    shown(&Cell::of(OPEN, OPEN))
}

#[test]
fn dual_stack_and_ipv6_only() -> Result<()> {
    shown(&Cell::of(DUAL_STACK, IPV6_ONLY))
}
