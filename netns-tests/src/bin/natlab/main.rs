//! `natlab`: what is measured with nodes behind routers. Each command prints a Markdown table, and puts it into a
//! document if told to.

mod gaps;
mod matrix;
mod mesh;
mod relays;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use netns_tests::nat::table;
use netns_tests::{require_root, target_dir};
use serde::Serialize;

/// Links through NATs in network namespaces: who connects, how fast, and what interrupts a running flow.
#[derive(Parser)]
struct Options {
    /// Put the table into this document, between the comments that name the command
    #[arg(long, global = true, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Each kind of NAT with each: the path, the time to the first frame and to a direct path
    Matrix(matrix::Args),
    /// How long a TCP flow is cut by what happens to paths, addresses and servers
    Gaps(gaps::Args),
    /// Throughput of direct and of relayed links, by the controller's relay and by coturn
    Relays(relays::Args),
    /// Many nodes, each with a link to every other: time, memory, idle traffic
    Mesh(mesh::Args),
}

/// What a command leaves: a table, and what failed.
struct Done {
    section: &'static str,
    /// Only a part was run: not for a document.
    part: bool,
    table: String,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("natlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    require_root()?;
    let done = match &options.command {
        Command::Matrix(args) => matrix::run(args)?,
        Command::Gaps(args) => gaps::run(args)?,
        Command::Relays(args) => relays::run(args)?,
        Command::Mesh(args) => mesh::run(args)?,
    };
    println!("\n{}", done.table);
    if let Some(document) = &options.write {
        if done.part {
            println!("{} stays as it is: only a part was run", document.display());
        } else {
            table::write(document, done.section, &done.table)?;
        }
    }
    done.failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    Ok(done.failures.is_empty())
}

/// Keeps the whole result in the target folder.
fn keep(name: &str, result: &impl Serialize) -> Result<()> {
    let path: &Path = &target_dir().join(name);
    std::fs::write(path, serde_json::to_string_pretty(result)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}
