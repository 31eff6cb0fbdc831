//! The system bench: contenders side by side in one lab, measured in turn.

pub mod arena;
pub mod contender;
pub mod figure;
pub mod ground;
pub mod measure;
pub mod proof;
pub mod report;
pub mod run;
pub mod scenario;

pub use arena::Arena;
pub use contender::Contender;
pub use figure::{BASE, Figure, GIGABIT, ReportOptions, Results, Row};
pub use ground::Ground;
pub use measure::Measure;
pub use run::{Plan, run};
pub use scenario::Scenario;
