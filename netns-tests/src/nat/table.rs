//! Outcomes as Markdown, and where a table stands in a document.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::cell::Outcome;
use super::lab::RELAYED;
use super::preset;

/// The matrix: a grid of every kind with each, a list of the special cells, times by group, and what failed by name.
pub fn matrix(outcomes: &[Outcome]) -> String {
    let by_name: BTreeMap<&str, Vec<&Outcome>> = outcomes.iter().fold(BTreeMap::new(), |mut map, outcome| {
        map.entry(outcome.name.as_str()).or_insert_with(Vec::new).push(outcome);
        map
    });
    let mut text = String::from(
        "Each cell: kind of path in the end, with the relays that a frame passes as the relay counts datagrams; ms to \
         the first frame, ms to a direct path of both nodes. The row's node is the first of the two.\n\n",
    );
    let names = preset::ALL.map(|preset| preset.name);
    line(&mut text, &format!("| | {} |", names.join(" | ")));
    line(&mut text, &format!("|---|{}", "---|".repeat(names.len())));
    for row in names {
        let cells = names.map(|column| {
            by_name.get(format!("{row} / {column}").as_str()).map_or("not run".to_owned(), |runs| short(runs))
        });
        line(&mut text, &format!("| {row} | {} |", cells.join(" | ")));
    }
    let special: Vec<_> = by_name
        .iter()
        .filter(|(name, _)| {
            !names.iter().any(|row| names.iter().any(|column| **name == format!("{row} / {column}")))
        })
        .collect();
    if !special.is_empty() {
        text += "\n| Beyond the grid | |\n|---|---|\n";
        for (name, runs) in special {
            line(&mut text, &format!("| {name} | {} |", short(runs)));
        }
    }
    text += "\n| Time to the first frame, ms | runs | p50 | p99 | max | wanted p50 |\n|---|---|---|---|---|---|\n";
    for Group { name, wanted, times } in groups(outcomes).iter().filter(|group| !group.times.is_empty()) {
        line(&mut text, &format!("| {name} | {} | {} | {} |", times.len(), spread(times), ms(*wanted)));
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.failure.is_some()).collect();
    let connected = outcomes.iter().filter(|o| o.first_frame.is_some()).count();
    line(&mut text, &format!("\n{connected} of {} runs connected.", outcomes.len()));
    if failed.is_empty() {
        text += "Every one has the path that is expected of it.\n";
    } else {
        text += "These do not have what is expected of them:\n\n";
        for outcome in failed {
            line(
                &mut text,
                &format!("- {}: {}", outcome.name, outcome.failure.as_deref().unwrap_or_default()),
            );
        }
    }
    text
}

/// Groups of outcomes whose middle time to the first frame is longer than it shall be, as sentences.
pub fn late(outcomes: &[Outcome]) -> Vec<String> {
    let late = |group: Group| {
        let middle = percentile(&group.times, 0.5)?;
        (middle > group.wanted).then(|| {
            format!("{}: the first frame took {} ms, {} are wanted", group.name, ms(middle), ms(group.wanted))
        })
    };
    groups(outcomes).into_iter().filter_map(late).collect()
}

/// Outcomes of which the same speed is wanted.
struct Group {
    name: &'static str,
    wanted: Duration,
    /// To the first frame, sorted.
    times: Vec<Duration>,
}

fn groups(outcomes: &[Outcome]) -> [Group; 3] {
    let host = |o: &Outcome| o.paths.iter().all(|path| path == "host");
    let relayed = |o: &Outcome| o.paths.iter().any(|path| path == RELAYED);
    let group = |name, wanted, is: &dyn Fn(&Outcome) -> bool| {
        let mut times: Vec<_> = outcomes.iter().filter(|o| is(o)).filter_map(|o| o.first_frame).collect();
        times.sort();
        Group { name, wanted: Duration::from_millis(wanted), times }
    };
    [
        group("nothing between them is translated", 150, &host),
        group("through NAT", 500, &|o| !host(o) && !relayed(o)),
        group("relayed to the end", 500, &relayed),
    ]
}

/// The p50, p99 and maximum of sorted times, in ms, as three columns.
pub fn spread(sorted: &[Duration]) -> String {
    let at = |share: f64| percentile(sorted, share).map_or("-".to_owned(), ms);
    format!("{} | {} | {}", at(0.5), at(0.99), at(1.0))
}

/// The smallest time that at least this share of the sorted times does not exceed.
pub fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Milliseconds without a fraction.
pub fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

/// Puts `table` between the two comments that name `section` in a document.
pub fn write(document: &Path, section: &str, table: &str) -> Result<()> {
    let text =
        std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
    let (begin, end) = (format!("<!-- {section}: begin -->"), format!("<!-- {section}: end -->"));
    let missing = || anyhow!("{} has no {begin} followed by {end}", document.display());
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    std::fs::write(document, format!("{before}{begin}\n\n{}\n\n{end}{after}", table.trim()))
        .with_context(|| format!("cannot write {}", document.display()))
}

fn short(runs: &[&Outcome]) -> String {
    // The worst of several runs stands for all.
    let Some(worst) = runs.iter().max_by_key(|run| (run.failure.is_some(), run.first_frame)) else {
        return String::new();
    };
    let kind = |path: &str| match path {
        "server-reflexive" => "srflx".to_owned(),
        "peer-reflexive" => "prflx".to_owned(),
        RELAYED => match worst.relay_hops {
            Some(1) => "relay 1 hop".to_owned(),
            Some(hops) => format!("relay {hops} hops"),
            None => "relay".to_owned(),
        },
        "" => "down".to_owned(),
        other => other.to_owned(),
    };
    let [one, two] = &worst.paths;
    let mut kinds = kind(one);
    if one != two {
        kinds = format!("{kinds}, {}", kind(two));
    }
    let time = |time: Option<Duration>| time.map_or("-".to_owned(), ms);
    let text = format!("{kinds} {} {}", time(worst.first_frame), time(worst.direct));
    if worst.failure.is_some() { format!("**{text}**") } else { text }
}

fn line(text: &mut String, line: &str) {
    // A String takes whatever is written.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, first: u64) -> Outcome {
        Outcome {
            name: name.to_owned(),
            wanted: crate::nat::Wanted::Direct,
            paths: ["server-reflexive".into(), "peer-reflexive".into()],
            first_frame: Some(Duration::from_millis(first)),
            direct: Some(Duration::from_millis(first + 5)),
            relay_hops: None,
            failure: (first > 1000).then(|| "late".into()),
        }
    }

    #[test]
    fn the_worst_run_of_a_cell_is_shown_and_failures_are_named() {
        let text = matrix(&[outcome("open / masq", 100), outcome("open / masq", 120), outcome("odd", 2000)]);
        assert!(text.contains("| srflx, prflx 120 125 |"), "{text}");
        let relayed = Outcome { paths: [RELAYED.into(), "".into()], relay_hops: Some(2), ..outcome("a", 1) };
        assert!(short(&[&relayed]).starts_with("relay 2 hops, down 1 "));
        assert!(text.contains("- odd: late") && text.contains("3 of 3"), "{text}");
        assert!(text.contains("through NAT | 3 | 120 | 2000 | 2000 | 500 |"), "{text}");
        assert!(late(&[outcome("a", 700), outcome("b", 800), outcome("c", 100)]).len() == 1);
    }

    #[test]
    fn a_section_is_replaced_and_the_rest_stays() {
        let path = std::env::temp_dir().join(format!("nat-table-{}.md", std::process::id()));
        std::fs::write(&path, "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n").unwrap();
        write(&path, "x", "new\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n");
        assert!(write(&path, "y", "").is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
