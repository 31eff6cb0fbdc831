//! Runs instances on a node.
