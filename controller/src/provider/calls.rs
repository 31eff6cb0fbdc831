//! What is counted of the calls of providers.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use super::{Action, Done, ProviderError};

/// Counts calls of providers. Clones count together.
#[derive(Clone, Debug)]
pub struct ProviderCalls {
    /// By provider, action and result.
    pub results: IntCounterVec,
    /// By provider and action.
    pub durations: HistogramVec,
}

impl Default for ProviderCalls {
    fn default() -> ProviderCalls {
        let results = Opts::new("controller_provider_calls_total", "Calls of providers that ended.");
        let durations = HistogramOpts::new(
            "controller_provider_call_duration_seconds",
            "How long a provider took to make or to end a machine.",
        );
        ProviderCalls {
            results: IntCounterVec::new(results, &["provider", "action", "result"]).expect(VALID),
            durations: HistogramVec::new(durations.buckets(BUCKETS.to_vec()), &["provider", "action"])
                .expect(VALID),
        }
    }
}

impl ProviderCalls {
    /// A call ended.
    pub fn ended(
        &self,
        provider: &str,
        action: Action,
        result: &Result<Done, ProviderError>,
        duration: Duration,
    ) {
        let word = result.as_ref().map_or_else(ProviderError::word, |_| "done");
        self.results.with_label_values(&[provider, action.as_str(), word]).inc();
        self.durations.with_label_values(&[provider, action.as_str()]).observe(duration.as_secs_f64());
    }
}

/// Seconds: from a namespace to a machine of a cloud.
const BUCKETS: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 180.0, 600.0];
const VALID: &str = "the names are valid";
