//! What is told at the end.

use anyhow::Result;
use netns_tests::measure;

use super::{ReportOptions, Results};

/// Prints medians.
pub fn finish(results: &Results, options: &ReportOptions) -> Result<()> {
    println!("\nMedians of {} rounds:", options.rounds);
    for row in &results.rows {
        println!(
            "{:<10} {:<16} {:<14} {:.3} {}",
            row.scenario,
            row.name,
            row.contender,
            measure::median(&row.values),
            row.unit
        );
    }
    Ok(())
}
