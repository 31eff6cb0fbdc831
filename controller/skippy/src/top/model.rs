//! What is shown, from samples of the API: pure.

use std::collections::HashMap;

use controller_api::rest::{ComputeNode, ComputeNodeState, Link, LinkState, Timestamp};
use serde_json::{Value, json};

use crate::output::{clean, table};
use crate::{tables, units};

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) nodes: Vec<ComputeNode>,
    pub(crate) links: Vec<Link>,
    pub(crate) at: Timestamp,
}

/// The latest sample, with rates from those before.
#[derive(Debug, Default)]
pub(crate) struct Model {
    sample: Sample,
    rates: HashMap<(String, String), Rates>,
}

/// What a link carries, in bytes a second; nothing before its second report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    to_peer: Option<f64>,
    from_peer: Option<f64>,
}

/// A table to be sorted and drawn.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) names: &'static [&'static str],
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// What is shown, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) text: String,
    number: Option<f64>,
}

pub(crate) const NODE_COLUMNS: &[&str] =
    &["NODE", "STATE", "AGENT", "INSTANCES", "CORES", "MEMORY", "DISK", "TO PEERS", "FROM PEERS"];
pub(crate) const LINK_COLUMNS: &[&str] =
    &["NODE", "PEER", "STATE", "PATH", "RTT", "TO PEER", "FROM PEER", "LAST ERROR"];

impl Model {
    pub(crate) fn update(&mut self, sample: Sample) {
        let before: HashMap<_, _> = self.sample.links.iter().map(|link| (key(link), link)).collect();
        let rates = sample
            .links
            .iter()
            .map(|link| {
                let key = key(link);
                let old = self.rates.get(&key).copied().unwrap_or_default();
                let rates = before.get(&key).map_or(Rates::default(), |before| old.next(before, link));
                (key, rates)
            })
            .collect();
        self.rates = rates;
        self.sample = sample;
    }

    pub(crate) fn nodes(&self) -> Grid {
        let rows = self.sample.nodes.iter().map(|node| {
            let (to, from) = self.of_node(&node.id);
            vec![
                text(&node.name),
                text(&tables::node_state(node)),
                text(if node.agent_online { "online" } else { "offline" }),
                number(node.instances.to_string(), node.instances as f64),
                number(tables::share(node, |c| units::cores_f64(c.cores)), node.allocated.cores),
                number(
                    tables::share(node, |c| units::size(c.memory_mib << 20)),
                    node.allocated.memory_mib as f64,
                ),
                number(
                    tables::share(node, |c| units::size(c.disk_gib << 30)),
                    node.allocated.disk_gib as f64,
                ),
                rate(to),
                rate(from),
            ]
        });
        Grid { names: NODE_COLUMNS, rows: rows.collect() }
    }

    pub(crate) fn links(&self) -> Grid {
        let rows = self.sample.links.iter().map(|link| {
            let rates = self.rates.get(&key(link)).copied().unwrap_or_default();
            vec![
                text(&link.compute_node_name),
                text(&link.peer_name),
                text(&tables::word(&link.state)),
                text(link.path.as_deref().unwrap_or("-")),
                link.rtt_us.map_or_else(|| text("-"), |us| number(units::milliseconds(us.into()), us.into())),
                rate(rates.to_peer),
                rate(rates.from_peer),
                text(link.last_error.as_deref().filter(|_| link.state != LinkState::Up).unwrap_or("-")),
            ]
        });
        Grid { names: LINK_COLUMNS, rows: rows.collect() }
    }

    /// One line of sums.
    pub(crate) fn totals(&self) -> String {
        let nodes = &self.sample.nodes;
        let online = nodes.iter().filter(|node| node.state == ComputeNodeState::Online).count();
        let instances: u64 = nodes.iter().map(|node| node.instances).sum();
        let up = self.sample.links.iter().filter(|link| link.state == LinkState::Up).count();
        format!(
            "nodes {online}/{} online, instances {instances}, links {up}/{} up, between nodes {}",
            nodes.len(),
            self.sample.links.len(),
            self.throughput().map_or_else(|| "-".to_owned(), units::rate)
        )
    }

    /// Everything as text, for one picture.
    pub(crate) fn text(&self) -> String {
        let plain = |grid: Grid| {
            let rows =
                grid.rows.into_iter().map(|row| row.into_iter().map(|cell| cell.text).collect()).collect();
            table(grid.names, rows)
        };
        format!("{}\n\n{}\n{}", self.totals(), plain(self.nodes()), plain(self.links()))
    }

    /// Everything for machines: the API's nodes and links, and the rates in bits a second.
    pub(crate) fn json(&self) -> Value {
        let links = self.sample.links.iter().map(|link| {
            let rates = self.rates.get(&key(link)).copied().unwrap_or_default();
            let mut value = json!(link);
            value["bits_per_second_to_peer"] = json!(rates.to_peer.map(|rate| rate * 8.0));
            value["bits_per_second_from_peer"] = json!(rates.from_peer.map(|rate| rate * 8.0));
            value
        });
        let links: Vec<Value> = links.collect();
        json!({
            "at": self.sample.at, "compute_nodes": self.sample.nodes, "links": links,
            "bits_per_second": self.throughput().map(|rate| rate * 8.0),
        })
    }

    /// What all nodes send to each other: each byte is counted at its sender.
    fn throughput(&self) -> Option<f64> {
        sum(self.rates.values().map(|rates| rates.to_peer))
    }

    fn of_node(&self, id: &str) -> (Option<f64>, Option<f64>) {
        let of = self.rates.iter().filter(|((node, _), _)| node == id).map(|(_, rates)| *rates);
        (sum(of.clone().map(|rates| rates.to_peer)), sum(of.map(|rates| rates.from_peer)))
    }
}

impl Rates {
    fn next(self, before: &Link, now: &Link) -> Self {
        let millis = now.reported_at.unix_millis().saturating_sub(before.reported_at.unix_millis());
        if millis == 0 {
            // The same report again says nothing new.
            return self;
        }
        // Counters that fell are those of a link that was made anew.
        let rate = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 * 1000.0 / millis as f64);
        Self {
            to_peer: rate(before.bytes_to_peer, now.bytes_to_peer),
            from_peer: rate(before.bytes_from_peer, now.bytes_from_peer),
        }
    }
}

impl Grid {
    /// Orders the rows by a column; what has no number comes before what has.
    pub(crate) fn sort(&mut self, column: usize, reverse: bool) {
        self.rows.sort_by(|a, b| {
            let (a, b) = (&a[column], &b[column]);
            let order = match (a.number, b.number) {
                (Some(x), Some(y)) => x.total_cmp(&y),
                (Some(_), None) => std::cmp::Ordering::Greater,
                (None, Some(_)) => std::cmp::Ordering::Less,
                (None, None) => a.text.cmp(&b.text),
            };
            if reverse { order.reverse() } else { order }
        });
    }
}

fn key(link: &Link) -> (String, String) {
    (link.compute_node.clone(), link.peer.clone())
}

fn sum(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    rates.flatten().fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate))
}

fn text(text: &str) -> Cell {
    Cell { text: clean(if text.is_empty() { "-" } else { text }), number: None }
}

fn number(text: String, number: f64) -> Cell {
    Cell { text, number: Some(number) }
}

fn rate(rate: Option<f64>) -> Cell {
    rate.map_or_else(|| text("-"), |rate| number(units::rate(rate), rate))
}
