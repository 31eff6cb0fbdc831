//! Reading what `switchctl --json` answers.

use serde_json::Value;

/// True if a `status` answer says that the daemon is ready.
pub fn ready(status: &Value) -> bool {
    status["ready"] == true
}

/// True if a `links` answer has a link to `peer` that is up.
pub fn link_up(links: &Value, peer: &str) -> bool {
    link(links, peer).is_some_and(|link| link["state"] == "up")
}

/// The link to `peer` in a `links` answer.
pub fn link<'a>(links: &'a Value, peer: &str) -> Option<&'a Value> {
    rows(links, "links").iter().find(|link| link["peer"] == peer)
}

/// The rows of a table: the answer itself, or its member `name`.
pub fn rows<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.as_array().or_else(|| answer[name].as_array()).map_or(&[], Vec::as_slice)
}

/// The sum of every number found under a key `name`, however deep: enough to see a counter move.
pub fn sum(value: &Value, name: &str) -> u64 {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, inner)| match inner {
                Value::Number(n) if key == name => n.as_u64().unwrap_or(0),
                _ => sum(inner, name),
            })
            .sum(),
        // Counters by label are pairs: ["bad_tag", 3].
        Value::Array(items) => match items.as_slice() {
            [Value::String(label), Value::Number(n)] => {
                if label == name {
                    n.as_u64().unwrap_or(0)
                } else {
                    0
                }
            }
            _ => items.iter().map(|item| sum(item, name)).sum(),
        },
        _ => 0,
    }
}

/// How often a case of `arp` or `nd` in a `stats` answer ended in `outcome`, over all networks.
pub fn outcome(stats: &Value, protocol: &str, outcome: &str) -> u64 {
    let cases = rows(stats, "networks").iter().flat_map(|network| rows(&network[protocol], ""));
    cases.filter(|case| case["outcome"] == outcome).filter_map(|case| case["count"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_links_and_sums_counters() {
        let links = serde_json::json!({"links": [{"peer": "node-b", "state": "up"}]});
        assert!(link_up(&links, "node-b") && !link_up(&links, "node-c"));
        let stats =
            serde_json::json!({"networks": [{"drops": [["bad_tag", 3], ["loop", 1]]}, {"bad_tag": 4}]});
        assert_eq!(sum(&stats, "bad_tag"), 7);
    }
}
