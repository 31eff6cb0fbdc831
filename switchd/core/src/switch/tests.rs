//! One switch looked at from outside, by what it does with frames; then several joined in memory.

mod announced;
mod announced_property;
mod bounds;
mod cases;
mod fabric;
mod fixture;
mod gateway;
mod hold;
mod local;
mod moves;
mod policy;
mod property;
