//! Counters of a namespace, by their names in nstat(8) (`TcpExtTCPOFOQueue`, `Ip6InCEPkts`) or in nftables.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::ctl;
use crate::ns::Namespace;

/// What the kernel's network stack has counted in a namespace so far.
#[derive(Clone, Debug)]
pub struct Counters(HashMap<String, u64>);

impl Counters {
    /// Up to now.
    pub fn of(ns: &Namespace) -> Result<Counters> {
        // /proc/net is that of the process's first thread, which is in another namespace.
        let read = |file: &str| {
            let path = format!("/proc/thread-self/net/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (tables, ipv6) = ns.enter(|| Ok((read("netstat")?, read("snmp6")?)))?;
        Ok(Counters(parse(&tables, &ipv6)))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Result<u64> {
        self.0.get(name).copied().with_context(|| format!("the kernel has no counter {name}"))
    }
}

/// `netstat` has two lines for each table, names and values, both behind the table's; `snmp6` a line for each counter.
fn parse(netstat: &str, snmp6: &str) -> HashMap<String, u64> {
    let mut counters = HashMap::new();
    let lines: Vec<&str> = netstat.lines().collect();
    for table in lines.chunks_exact(2) {
        let Some((of, names)) = table[0].split_once(':') else { continue };
        let values = table[1].split_whitespace().skip(1);
        for (name, value) in names.split_whitespace().zip(values) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{of}{name}"), value);
            }
        }
    }
    for line in snmp6.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace)
            && let Ok(value) = value.trim().parse()
        {
            counters.insert(name.to_owned(), value);
        }
    }
    counters
}

/// A named counter of nftables, one of `table` (`inet marks`) or of any: its `packets` or `bytes`.
pub fn nft_counter(ns: &Namespace, table: Option<&str>, name: &str, unit: &str) -> Result<u64> {
    let mut args = vec!["nft", "-j", "list", "counters"];
    if let Some(table) = table {
        args.push("table");
        args.extend(table.split_whitespace());
    }
    let text = ns.exec(&args)?;
    let json: Value = serde_json::from_str(&text).context("nft's JSON")?;
    let mut counters = ctl::rows(&json, "nftables").iter().map(|row| &row["counter"]);
    let counter = counters.find(|counter| counter["name"] == name);
    counter
        .and_then(|counter| counter[unit].as_u64())
        .with_context(|| format!("no {unit} of {name} in {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_table_s_name_in_front() {
        let netstat =
            "TcpExt: SyncookiesSent TCPOFOQueue\nTcpExt: 9 30\nIpExt: InNoRoutes TCPOFOQueue\nIpExt: 5 6\n";
        let counters = Counters(parse(netstat, "Ip6InReceives                   \t7\nIp6InCEPkts \t8\n"));
        for (name, value) in [("TcpExtTCPOFOQueue", 30), ("IpExtTCPOFOQueue", 6), ("Ip6InCEPkts", 8)] {
            assert_eq!(counters.get(name).unwrap(), value, "{name}");
        }
        assert!(counters.get("TCPOFOQueue").is_err());
        assert!(Counters(parse("TcpExt: TCPOFOQueue\n", "")).get("TcpExtTCPOFOQueue").is_err());
    }
}
