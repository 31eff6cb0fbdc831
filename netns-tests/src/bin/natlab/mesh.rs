//! Many nodes, each with a link to every other.

use std::time::Duration;

use anyhow::Result;
use netns_tests::nat::Mesh;
use serde_json::json;

use super::{Done, keep};

#[derive(clap::Args)]
pub(super) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// Seconds without traffic before counting, for what new links have to say
    #[arg(long, default_value_t = 30)]
    rest: u64,
    /// Seconds for which packets are counted
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(super) fn run(args: &Args) -> Result<Done> {
    let mesh = Mesh::build(args.nodes)?;
    println!("{} nodes are online", args.nodes);
    let took = mesh.connect()?;
    println!("{} links are up after {took:?}", mesh.links());
    mesh.listen(Duration::from_secs(args.rest))?;
    let before = mesh.cpu_time()?;
    let quiet = mesh.listen(Duration::from_secs(args.seconds))?;
    let cpu = mesh.cpu_time()?.saturating_sub(before).as_secs_f64();
    let memory = mesh.memory()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let links = mesh.links() as f64;
    let seconds = quiet.time.as_secs_f64();
    let each = |bytes: u64| bytes as f64 * 8.0 / links / seconds;
    let [straight, by_relay] = [each(quiet.straight.bytes), each(quiet.by_relay.bytes)];
    let bits = straight + by_relay;
    let packets = (quiet.straight.packets + quiet.by_relay.packets) as f64 / links / seconds;
    let share = cpu / seconds / args.nodes as f64 * 100.0;
    let (middle, most) = (memory[memory.len() / 2], memory[memory.len() - 1]);
    let table = format!(
        "| | {} nodes |\n|---|---|\n| links, all up | {links} |\n| from the network's making to the last link, s | {:.1} |\n\
         | resident memory of a switchd, median and largest, MiB | {:.1}, {:.1} |\n\
         | idle traffic of a link, both ways, IP headers included, bit/s | {bits:.0} |\n\
         | of it between nodes and relay, with their STUN, bit/s | {by_relay:.0} |\n\
         | the whole in packets/s | {packets:.2} |\n| CPU of a switchd, idle, % of a core | {share:.2} |\n",
        args.nodes,
        took.as_secs_f64(),
        mib(middle),
        mib(most),
    );
    keep(
        "nat-mesh.json",
        &json!({
            "nodes": args.nodes, "links": links, "seconds": took.as_secs_f64(), "resident_bytes": memory,
            "idle_bits_per_second": bits, "idle_bits_per_second_by_relay": by_relay, "idle_packets_per_second": packets, "idle_cpu_percent": share,
        }),
    )?;
    let mut failures = Vec::new();
    if bits > IDLE_BITS {
        failures.push(format!("{bits:.0} bit/s on an idle link, at most {IDLE_BITS} are wanted"));
    }
    Ok(Done { section: "nat-mesh", part: false, table, failures })
}

/// What an idle link may cost.
const IDLE_BITS: f64 = 1000.0;
