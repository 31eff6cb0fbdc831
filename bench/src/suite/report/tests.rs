use std::collections::BTreeSet;

use super::super::{BASE, Figure};
use super::*;

fn some() -> Results {
    let mut results = Results::default();
    let figure = |name, value, unit| Figure { name, value, unit };
    for (round, speed) in [1.0, 1.1].into_iter().enumerate() {
        for (contender, factor) in [("underlay", 2.0), ("vxlan", 1.0), ("switchd", 0.5)] {
            let value = factor * speed;
            results.add(
                BASE,
                contender,
                round,
                vec![figure("tcp-1-flow", 10.0 * value, "Gb/s"), figure("udp-64", 1e6 * value, "packets/s")],
            );
            results.add("gigabit", contender, round, vec![figure("qperf-bandwidth", 900.0 * value, "Mb/s")]);
            results.add("mtu-9000", contender, round, vec![figure("tcp-1-flow", 12.0 * value, "Gb/s")]);
        }
    }
    results.absent.push(("tinc".to_owned(), "no tincd\nhere".to_owned()));
    results
}

#[test]
fn tables_have_medians_spread_and_ratio() {
    let text = tables::markdown(&some());
    assert!(text.contains("**TCP, Gb/s**\n\n| | one flow |\n|---|---|\n"), "{text}");
    assert!(text.contains("| vxlan | 10.5 (10 to 11) |"), "{text}");
    assert!(text.contains("| switchd | 5.25 (5 to 5.50), x 0.500 |"), "{text}");
    // Packets in thousands.
    assert!(text.contains("| switchd | 525 (500 to 550), x 0.500 |"), "{text}");
    assert!(text.contains("**One TCP flow, Gb/s**\n\n| | base | mtu-9000 |"), "{text}");
    assert!(
        text.contains("| switchd | 472 (450 to 495) | 31.8 | 0.250 | - | 19.63, containers on two VMs |"),
        "{text}"
    );
    assert!(!text.contains("tinc"), "{text}");
    assert_eq!(tables::absent(&some()), "Absent, or without a figure:\n\n- tinc: no tincd here");
}

#[test]
fn the_document_of_figures_is_json_with_machine_and_commit() {
    let (results, machine) = (some(), Machine::here());
    let judged = goals::judge(&results, goals::ALL);
    let options = ReportOptions { rounds: 2, seconds: 3.0, ..ReportOptions::default() };
    let json: serde_json::Value =
        serde_json::from_str(&json::text(&results, &options, &machine, &judged).unwrap()).unwrap();
    assert!(json["commit"].is_string() && json["machine"]["kernel"].is_string());
    let figure = &json["figures"][0];
    let keys: BTreeSet<_> = figure.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = ["name", "scenario", "contender", "value", "unit", "rounds", "min", "max"];
    assert_eq!(keys, BTreeSet::from(wanted));
    assert_eq!((figure["contender"].as_str(), figure["rounds"].as_u64()), (Some("underlay"), Some(2)));
    assert!((figure["value"].as_f64().unwrap() - 21.0).abs() < 1e-9);
    assert_eq!(json["goals"].as_array().unwrap().len(), goals::ALL.len());
    assert_eq!(json["absent"][0]["contender"], "tinc");
}

#[test]
fn every_family_and_the_scenarios_have_their_plots() {
    let plots = plots::all(&some());
    let files: Vec<_> = plots.iter().map(|plot| plot.file.as_str()).collect();
    assert_eq!(files, ["bench-tcp.svg", "bench-udp.svg", "bench-scenarios.svg"]);
    assert!(plots[0].svg.contains("switchd") && plots[0].title.contains("more is better"));
}

#[test]
fn no_figure_is_in_two_families() {
    let names: Vec<_> =
        families::ALL.iter().flat_map(|family| family.figures).map(|(name, _)| *name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
