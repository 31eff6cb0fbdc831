//! The system bench: contenders side by side in one lab, measured in turn.

pub mod arena;
pub mod figure;
pub mod measure;
pub mod report;

pub use arena::Arena;
pub use figure::{BASE, Figure, ReportOptions, Results, Row};
pub use measure::Measure;
