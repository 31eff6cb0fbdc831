//! What a run of the suite has to tell: `target/bench.json`, tables and plots in a document, and the goals.

mod families;
mod goals;
mod json;
mod machine;
mod plots;
mod stats;
mod svg;
mod tables;

use std::path::Path;

use anyhow::{Context, Result};
use netns_tests::nat::table;
use netns_tests::target_dir;

use self::machine::Machine;
use super::{ReportOptions, Results};

/// Writes `target/bench.json`, and where it is wanted tables and plots; prints the tables, and the goals last.
///
/// # Errors
///
/// A file cannot be written, or the document lacks the two comments between which the tables belong.
pub fn finish(results: &Results, options: &ReportOptions) -> Result<()> {
    let machine = Machine::here();
    let judged = goals::judge(results, goals::ALL);
    write(&target_dir().join("bench.json"), &json::text(results, options, &machine, &judged)?)?;
    if let Some(document) = &options.write {
        let plots = plots::all(results);
        let dir = document.parent().unwrap_or(Path::new(".")).join(PLOTS);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for plot in &plots {
            write(&dir.join(&plot.file), &plot.svg)?;
        }
        let links: Vec<_> =
            plots.iter().map(|plot| format!("![{}]({PLOTS}/{})", plot.title, plot.file)).collect();
        let text = [
            machine.sentence(options),
            goals::markdown(&judged),
            tables::markdown(results),
            links.join("\n\n"),
            tables::absent(results),
        ]
        .join("\n\n");
        table::write(document, SECTION, &text)?;
    }
    println!("\n{}\n\n{}\n", machine.sentence(options), tables::markdown(results));
    println!("{}\n\n{}", tables::absent(results), goals::plain(&judged));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Name of the comments in the document.
const SECTION: &str = "bench";

/// Folder beside the document.
const PLOTS: &str = "plots";

#[cfg(test)]
mod tests;
