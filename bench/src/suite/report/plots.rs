//! Which plots there are.

use super::super::{BASE, Results};
use super::families::{self, Family};
use super::stats::{Spread, find};
use super::svg::{self, Bar, Logarithmic, Panel};
use super::tables::{contenders, scale, scenarios};

/// One image.
#[derive(Debug)]
pub(super) struct Plot {
    /// Name in the folder of plots.
    pub(super) file: String,
    pub(super) title: String,
    pub(super) svg: String,
}

/// One of each family that has a plot, and one TCP flow over all scenarios.
pub(super) fn all(results: &Results) -> Vec<Plot> {
    let mut plots: Vec<_> = families::ALL.iter().filter_map(|family| of(results, family)).collect();
    let panels: Vec<_> = scenarios(results)
        .iter()
        .filter_map(|scenario| panel(results, scenario, "tcp-1-flow", scenario))
        .collect();
    if panels.len() > 1 {
        plots.push(plot(
            "scenarios",
            "One TCP flow on different underlays, Gb/s",
            &panels,
            Logarithmic::Never,
        ));
    }
    plots
}

fn of(results: &Results, family: &Family) -> Option<Plot> {
    let figures = family.figures.iter();
    let panels: Vec<_> = figures.filter_map(|(name, head)| panel(results, BASE, name, head)).collect();
    let (better, axis) = if family.more_is_better {
        ("more is better", Logarithmic::Never)
    } else {
        ("less is better", Logarithmic::IfFarApart)
    };
    let file = family.plot.filter(|_| !panels.is_empty())?;
    Some(plot(file, &format!("{}; {better}", family.title), &panels, axis))
}

fn plot(file: &str, title: &str, panels: &[Panel], axis: Logarithmic) -> Plot {
    Plot { file: format!("bench-{file}.svg"), title: title.to_owned(), svg: svg::image(title, panels, axis) }
}

fn panel(results: &Results, scenario: &str, name: &str, title: &str) -> Option<Panel> {
    let bars: Vec<_> = contenders(results)
        .into_iter()
        .filter_map(|contender| {
            let row = find(results, scenario, name, contender)?;
            let Spread { median, min, max } = Spread::of(&row.values)?;
            let scale = scale(row.unit);
            let spread = Spread { median: median / scale, min: min / scale, max: max / scale };
            Some(Bar { label: contender.to_owned(), spread, ours: contender == "switchd" })
        })
        .collect();
    (!bars.is_empty()).then(|| Panel { title: title.to_owned(), bars })
}
