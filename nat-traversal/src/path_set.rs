//! The paths to one peer, and which of them carries frames.
