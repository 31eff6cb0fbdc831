//! Medians and spreads, and one contender's rounds beside another's.

use super::super::{Results, Row};

/// The middle of some values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None of nothing.
    pub(super) fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (below, above) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Spread { median: f64::midpoint(below, above), min, max })
    }
}

/// The row of one figure, if it has a value.
pub(super) fn find<'a>(results: &'a Results, scenario: &str, name: &str, contender: &str) -> Option<&'a Row> {
    results.rows.iter().find(|row| {
        row.scenario == scenario && row.name == name && row.contender == contender && !row.values.is_empty()
    })
}

/// `op` of the two values of each round that has both, so that whatever else the machine did in a round meets both.
pub(super) fn by_round(ours: &Row, theirs: &Row, op: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let both = ours.rounds.iter().zip(&ours.values).filter_map(|(round, value)| {
        let at = theirs.rounds.iter().position(|theirs| theirs == round)?;
        Some(op(*value, theirs.values[at]))
    });
    both.collect()
}

/// The standard deviation, of at least two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    (values.len() >= 2).then(|| {
        let mean = values.iter().sum::<f64>() / count;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::NAN]), None);
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[9.0, 1.0, 3.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn rounds_are_compared_in_pairs() {
        // The machine was twice as fast in the second round: the ratio does not care.
        let row = |values: &[f64], rounds: &[usize]| Row {
            scenario: String::new(),
            name: "",
            contender: "",
            unit: "",
            values: values.to_vec(),
            rounds: rounds.to_vec(),
        };
        let ratios = |ours, theirs| by_round(&ours, &theirs, |a, b| a / b);
        assert_eq!(ratios(row(&[4.0, 8.0], &[0, 1]), row(&[8.0, 16.0], &[0, 1])), [0.5, 0.5]);
        // A round that one of the two lacks counts for neither.
        assert_eq!(ratios(row(&[4.0, 8.0], &[0, 2]), row(&[8.0, 1.0, 16.0], &[0, 1, 2])), [0.5, 0.5]);
        assert_eq!(ratios(row(&[4.0, 8.0], &[0, 1]), row(&[1.0, 16.0], &[2, 1])), [0.5]);
        assert!(ratios(row(&[4.0], &[0]), row(&[], &[])).is_empty());
    }

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(deviation(&[1.0]), None);
        assert!((deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap() - 2.138).abs() < 0.001);
    }
}
