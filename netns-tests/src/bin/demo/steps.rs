//! What has been done, for people on the terminal and for machines in `demo.json`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use netns_tests::target_dir;
use serde::Serialize;

/// All steps so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Steps {
    /// A step that the others need.
    pub(crate) fn must<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        print!("{name} ... ");
        std::io::stdout().flush()?;
        let began = Instant::now();
        let result = step();
        let (ok, detail) = match &result {
            Ok((_, detail)) => (true, detail.clone()),
            Err(error) => (false, format!("{error:#}")),
        };
        let word = if ok { "ok" } else { "FAILED" };
        println!("{word} ({:.1} s): {detail}", began.elapsed().as_secs_f64());
        self.done.push(Step { name, ok, detail });
        result.map(|(value, _)| value).with_context(|| format!("step {name:?} failed"))
    }

    /// A step after whose failure the others go on.
    pub(crate) fn try_step(&mut self, name: &'static str, step: impl FnOnce() -> Result<String>) {
        // The failure is kept in `done`.
        let _ = self.must(name, || step().map(|detail| ((), detail)));
    }

    /// Names of the steps that failed.
    pub(crate) fn failed(&self) -> Vec<&'static str> {
        self.done.iter().filter(|step| !step.ok).map(|step| step.name).collect()
    }

    pub(crate) fn write(&self) -> Result<()> {
        let path = Steps::path();
        std::fs::write(&path, serde_json::to_string_pretty(&self.done)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn path() -> PathBuf {
        target_dir().join("demo.json")
    }
}
