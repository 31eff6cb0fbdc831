//! What every way of running an instance offers.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::cgroup::{Limits, Usage};
use crate::failure::Failure;
use crate::spec::Spec;
use crate::store::Home;

/// A way of running instances. Calls for one instance do not overlap; calls for different ones do.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Makes what it needs on the disk. Called again after a failure.
    async fn create(&self, spec: &Spec, home: &Home) -> Result<(), Failure>;

    /// Starts it; returns once it runs by itself, whatever becomes of the agent.
    async fn start(&self, spec: &Spec, home: &Home) -> Result<(), Failure>;

    /// Stops it, kindly at first, and gives back what it had but its volume. That it does not run is no error.
    async fn stop(&self, spec: &Spec, home: &Home) -> Result<(), Failure>;

    /// How it is; may read files, never waits.
    fn look(&self, spec: &Spec, home: &Home) -> Sight;

    /// What moves with it.
    fn volume(&self, home: &Home) -> Volume;

    /// Makes a volume that came from elsewhere usable here.
    async fn adopt(&self, spec: &Spec, home: &Home) -> Result<(), Failure>;
}

/// An instance as its driver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It runs.
    Running(Running),
    /// It does not run, and why, if it ended by itself.
    Stopped(Option<String>),
}

/// A running instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// `namespaces`, `kvm` or `tcg`.
    pub runtime: String,
    /// The limits as they are enforced.
    pub limits: Limits,
    /// What it uses.
    pub usage: Usage,
    /// What is not as it should be: limits that are not enforced, and why.
    pub detail: String,
    /// When it was started, seconds since 1970.
    pub since: u64,
}

/// What moves with an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// A directory; it travels as a tar archive.
    Directory(PathBuf),
    /// A file; it travels as it is.
    File(PathBuf),
}
