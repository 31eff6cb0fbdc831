//! Requests and answers on the admin socket.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::view::{CaptureFilter, Link, Stats};

/// Longest request line, bytes, its newline included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What a client may ask.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered by [`crate::view::Status`].
    Status,
    /// Answered by a list of [`Link`].
    Links,
    /// Answered by a list of [`crate::view::BindingRow`].
    Bindings,
    /// Answered by a list of [`crate::view::MacRow`].
    Macs,
    /// Answered by [`Stats`].
    Stats,
    /// Answered by a list of [`crate::view::DroppedFrame`].
    Drops,
    /// Answered by [`crate::view::Netcheck`], after some seconds.
    Netcheck,
    /// Answered by [`crate::view::WhyRelayed`].
    WhyRelayed {
        /// The peer's name.
        peer: String,
    },
    /// Answered by the new public key, once the controller has confirmed it.
    RotateKey,
    /// Answered by a stream of [`Snapshot`].
    Watch {
        /// Between two snapshots, 100 to 3,600,000.
        interval_ms: u64,
    },
    /// Answered by a stream of [`crate::view::CapturedFrame`], after one `{"ok":null}` once it runs.
    Capture(CaptureFilter),
}

/// One answer line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer<T> {
    /// What was asked for.
    Ok(T),
    /// Why not, with the mend.
    Error(String),
}

/// What `watch` streams.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Since the daemon's start: differences between snapshots give rates.
    pub uptime_seconds: f64,
    /// Every endpoint is up and enslaved.
    pub ready: bool,
    /// All counters.
    pub stats: Stats,
    /// All links.
    pub links: Vec<Link>,
}

/// Bounds of [`Request::Watch`]'s interval.
pub const WATCH_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
