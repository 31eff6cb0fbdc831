//! Peers and strangers that mean no good.
