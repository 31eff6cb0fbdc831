//! Messages and services of `proto/node.proto`, as generated.
#![allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "generated code"
)]

tonic::include_proto!("switchd.node.v1");
