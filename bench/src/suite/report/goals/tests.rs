use super::*;

fn results(rows: &[(&str, &'static str, &'static str, &[f64])]) -> Results {
    let row = |(scenario, name, contender, values): &(&str, &'static str, &'static str, &[f64])| Row {
        scenario: (*scenario).to_owned(),
        name,
        contender,
        unit: "",
        values: values.to_vec(),
        rounds: (0..values.len()).collect(),
    };
    Results { rows: rows.iter().map(row).collect(), absent: Vec::new() }
}

fn judged(results: &Results, what: &str) -> Judged {
    judge(results, ALL).into_iter().find(|judged| judged.goal.what.starts_with(what)).unwrap()
}

#[test]
fn the_median_of_the_ratios_counts_and_not_the_ratio_of_the_medians() {
    let results = results(&[
        (BASE, "tcp-1-flow", "switchd", &[4.0, 9.0, 5.0]),
        (BASE, "tcp-1-flow", "vxlan", &[5.0, 10.0, 10.0]),
    ]);
    let line = judged(&results, "one TCP flow, against VXLAN");
    assert_eq!(line.measured, Ok(Spread { median: 0.8, min: 0.5, max: 0.9 }));
    assert_eq!(line.verdict(), "at least");
}

#[test]
fn each_verdict_has_its_side_of_the_limits() {
    for (ours, verdict) in [(9.0, "met"), (8.99, "at least"), (6.5, "at least"), (6.49, "short")] {
        let results =
            results(&[(BASE, "tcp-1-flow", "switchd", &[ours]), (BASE, "tcp-1-flow", "vxlan", &[10.0])]);
        assert_eq!(judged(&results, "one TCP flow, against VXLAN").verdict(), verdict, "{ours}");
    }
    // Where little is wanted, less is better.
    for (ours, verdict) in [(35.0, "met"), (40.0, "at least"), (91.0, "short"), (5.0, "met")] {
        let results = results(&[
            (BASE, "udp-request-spaced-p50", "switchd", &[ours]),
            (BASE, "udp-request-spaced-p50", "vxlan", &[10.0]),
        ]);
        assert_eq!(judged(&results, "median RTT over VXLAN's, idle, UDP every").verdict(), verdict, "{ours}");
    }
}

#[test]
fn the_best_peer_is_found_and_named() {
    let results = results(&[
        (BASE, "tcp-1-flow", "switchd", &[6.0]),
        (BASE, "tcp-1-flow", "tinc", &[0.5]),
        (BASE, "tcp-1-flow", "vpncloud", &[1.5]),
        // No peer: it does not encrypt.
        (BASE, "tcp-1-flow", "vxlan", &[10.0]),
    ]);
    let line = judged(&results, "one TCP flow, against the best");
    assert_eq!(line.measured.clone().unwrap().median, 4.0);
    assert!(plain(&[line]).contains("peer (vpncloud; without wireguard-go, n2n, openvpn)"));
}

#[test]
fn what_is_missing_is_named_and_never_zero() {
    let results = results(&[(BASE, "tcp-1-flow", "switchd", &[6.0]), (BASE, "tcp-1-flow", "vxlan", &[])]);
    let all = judge(&results, ALL);
    assert!(
        all.iter().all(|judged| judged.measured.is_err() && judged.verdict().starts_with("not measured: "))
    );
    assert_eq!(
        judged(&results, "one TCP flow, against VXLAN").verdict(),
        "not measured: no tcp-1-flow of vxlan in base"
    );
    assert!(judged(&results, "one TCP flow, against the best").verdict().contains("n2n"));
    assert!(judged(&results, "Table II").verdict().contains("in gigabit"));
}

#[test]
fn nothing_is_divided_by_a_round_that_carried_nothing() {
    let results = results(&[(BASE, "udp-64", "switchd", &[6.0, 7.0]), (BASE, "udp-64", "tinc", &[0.0, 2.0])]);
    assert!(judged(&results, "UDP 64").measured.is_err());
}

#[test]
fn what_was_sent_again_is_not_taken_for_reordered() {
    let results = results(&[
        (BASE, "tcp-1-flow-resent", "switchd", &[0.0, 3.0, 2.0]),
        (BASE, "tcp-1-flow-late", "switchd", &[0.0, 0.0, 1.0]),
        (BASE, "tcp-1-flow-out-of-order", "switchd", &[4.0, 90.0, 80.0]),
    ]);
    let line = judged(&results, "reordered segments");
    assert_eq!(line.measured, Ok(Spread { median: 1.0, min: 0.0, max: 4.0 }));
    assert_eq!(line.verdict(), "short");
}

#[test]
fn what_shall_never_be_is_judged_by_the_worst_round() {
    let verdict = |rounds: &[f64]| {
        judged(&results(&[(BASE, "udp-64-reordered", "switchd", rounds)]), "reordered datagrams").verdict()
    };
    assert_eq!(verdict(&[0.0, 0.0, 0.0]), "met");
    assert_eq!(verdict(&[0.0, 0.0, 1.0]), "short");
}

#[test]
fn the_table_has_a_line_for_each_goal() {
    let all = judge(&Results::default(), ALL);
    assert_eq!(plain(&all).lines().count(), ALL.len() + 1);
    assert_eq!(markdown(&all).lines().count(), ALL.len() + 2);
    assert!(markdown(&all).lines().all(|line| line.matches('|').count() == 6), "{}", markdown(&all));
}
