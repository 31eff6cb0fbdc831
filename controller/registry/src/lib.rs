//! What the controller knows and decides. Pure.
