//! How long responses took.

use std::time::Duration;

/// Times of many requests.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Sorted by [`Times::end`]. A request without response counts with the time for which it was waited for.
    all: Vec<Duration>,
    answered: usize,
    took: Duration,
}

impl Times {
    pub(super) fn add(&mut self, time: Duration, answered: bool) {
        self.all.push(time);
        self.answered += usize::from(answered);
    }

    /// No more will be added; all together took this long.
    pub(super) fn end(&mut self, took: Duration) {
        self.all.sort_unstable();
        self.took = took;
    }

    /// Responses in a second.
    pub(super) fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The smallest time that at least this share of all requests did not exceed.
    pub(super) fn percentile(&self, share: f64) -> Option<Duration> {
        let rank = (self.all.len() as f64 * share).ceil() as usize;
        self.all.get(rank.saturating_sub(1)).copied()
    }

    /// The share of requests without response, from 0 to 1.
    pub(super) fn lost(&self) -> f64 {
        (self.all.len() - self.answered) as f64 / (self.all.len() as f64).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_count_what_was_lost_as_slow() {
        let mut times = Times::default();
        assert_eq!(times.percentile(0.5), None);
        times.add(Duration::from_millis(250), false);
        for micros in 1..=99 {
            times.add(Duration::from_micros(micros), true);
        }
        times.end(Duration::from_secs(1));
        assert_eq!(times.percentile(0.5), Some(Duration::from_micros(50)));
        assert_eq!(times.percentile(0.99), Some(Duration::from_micros(99)));
        assert_eq!(times.percentile(0.999), Some(Duration::from_millis(250)));
        assert!((times.lost() - 0.01).abs() < 1e-9 && (times.rate() - 99.0).abs() < 1e-9);
    }
}
