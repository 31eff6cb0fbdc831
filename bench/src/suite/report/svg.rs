//! Bars with whiskers as an SVG image.

use std::fmt::Write;

use super::stats::Spread;
use super::tables::number;

/// Bars that share an axis.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
}

/// One contender's median, with least and most.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) spread: Spread,
    /// The one that the plot is about.
    pub(super) ours: bool,
}

/// Whether an axis may be logarithmic. Of rates it may not: who looks at the bars of two contenders takes the ratio of
/// their lengths for that of their rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logarithmic {
    Never,
    IfFarApart,
}

/// `panels` one under the other, each with an axis of its own. Axes are logarithmic only where that `may` be and values
/// lie far apart, and the title says so.
pub(super) fn image(title: &str, panels: &[Panel], may: Logarithmic) -> String {
    let height = panels.iter().fold(TOP, |y, panel| y + panel.height());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let logarithmic = may == Logarithmic::IfFarApart && panels.iter().any(Panel::is_wide);
    let note = if logarithmic { " (logarithmic axis)" } else { "" };
    text(&mut svg, MARGIN, 22.0, "start", "#222222", &format!("{title}{note}"));
    let mut y = TOP;
    for panel in panels {
        panel.draw(&mut svg, y, logarithmic);
        y += panel.height();
    }
    svg + "</svg>\n"
}

impl Panel {
    fn height(&self) -> f64 {
        HEAD + self.bars.len() as f64 * ROW + GAP
    }

    /// Whether the smallest bar would hardly be seen beside the largest.
    fn is_wide(&self) -> bool {
        let medians = || self.bars.iter().map(|bar| bar.spread.median).filter(|median| *median > 0.0);
        let (least, most) = (medians().fold(f64::MAX, f64::min), medians().fold(0.0, f64::max));
        most > least * FAR_APART
    }

    fn draw(&self, svg: &mut String, top: f64, logarithmic: bool) {
        text(svg, MARGIN, top + 14.0, "start", "#222222", &self.title);
        let axis = Axis::of(&self.bars, logarithmic);
        for (i, bar) in self.bars.iter().enumerate() {
            let y = top + HEAD + i as f64 * ROW;
            let middle = y + ROW / 2.0;
            let Spread { median, min, max } = bar.spread;
            text(svg, LABEL - 8.0, middle + 4.0, "end", "#222222", &bar.label);
            let colour = if bar.ours { "#1f77b4" } else { "#9aa5b1" };
            line(
                svg,
                &format!(
                    "<rect x=\"{LABEL}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                    y + 3.0,
                    axis.at(median),
                    ROW - 6.0
                ),
            );
            let (from, to) = (LABEL + axis.at(min), LABEL + axis.at(max));
            line(
                svg,
                &format!(
                    "<path d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {0:.1}V{1:.1}M{to:.1} {0:.1}V{1:.1}\" \
                     stroke=\"#222222\" fill=\"none\"/>",
                    middle - 4.0,
                    middle + 4.0
                ),
            );
            text(
                svg,
                to.max(LABEL + axis.at(median)) + 6.0,
                middle + 4.0,
                "start",
                "#222222",
                &number(median),
            );
        }
    }
}

/// From values to widths.
struct Axis {
    /// At the left end; 0 of a linear axis.
    least: f64,
    most: f64,
}

impl Axis {
    fn of(bars: &[Bar], logarithmic: bool) -> Axis {
        let most = bars.iter().map(|bar| bar.spread.max).fold(f64::MIN_POSITIVE, f64::max);
        let least = bars.iter().map(|bar| bar.spread.min).filter(|min| *min > 0.0).fold(most, f64::min);
        // Half of the least, so that the shortest bar can be seen.
        Axis { least: if logarithmic { least / 2.0 } else { 0.0 }, most }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.least > 0.0 {
            (value.max(self.least) / self.least).ln() / (self.most / self.least).ln()
        } else {
            value / self.most
        };
        share.clamp(0.0, 1.0) * (WIDTH - LABEL - FOR_NUMBERS)
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    line(
        svg,
        &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"),
    );
}

fn line(svg: &mut String, line: &str) {
    // A String takes whatever is written.
    let _ = writeln!(svg, "{line}");
}

const WIDTH: f64 = 720.0;
const MARGIN: f64 = 12.0;
/// Height of the title.
const TOP: f64 = 36.0;
/// Where bars begin, behind their labels.
const LABEL: f64 = 120.0;
/// Behind the longest bar.
const FOR_NUMBERS: f64 = 70.0;
/// Height of a panel's title, of a bar, and between panels.
const HEAD: f64 = 22.0;
const ROW: f64 = 20.0;
const GAP: f64 = 14.0;

const FAR_APART: f64 = 50.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, median: f64) -> Bar {
        Bar {
            label: label.to_owned(),
            spread: Spread { median, min: median * 0.9, max: median * 1.1 },
            ours: false,
        }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let axis = Axis::of(&[bar("a", 10.0), bar("b", 5.0)], false);
        assert!((axis.at(10.0) / axis.at(5.0) - 2.0).abs() < 1e-9);
        assert!(axis.at(11.0) <= WIDTH - LABEL - FOR_NUMBERS && axis.at(0.0).abs() < 1e-9);
        let axis = Axis::of(&[bar("a", 10_000.0), bar("b", 1.0)], true);
        let steps = [1.0, 10.0, 100.0].map(|value| axis.at(value));
        assert!((steps[2] - steps[1] - (steps[1] - steps[0])).abs() < 1e-6 && steps[0] > 0.0);
    }

    #[test]
    fn an_image_names_what_it_shows_and_is_well_formed() {
        let panel = Panel { title: "p < 1".to_owned(), bars: vec![bar("tinc", 1.0), bar("bridge", 90.0)] };
        let svg = image("TCP & more", &[panel], Logarithmic::IfFarApart);
        for wanted in ["TCP &amp; more (logarithmic axis)", "p &lt; 1", ">tinc<", "</svg>"] {
            assert!(svg.contains(wanted), "{wanted} is not in {svg}");
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_at_all_is_drawn_without_a_division_by_zero() {
        let none = Bar { spread: Spread { median: 0.0, min: 0.0, max: 0.0 }, ..bar("a", 1.0) };
        let svg = image("t", &[Panel { title: String::new(), bars: vec![none] }], Logarithmic::IfFarApart);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
