//! A long call, followed on the standard error: a bar on a terminal, else a line for each step.

use std::io::{self, IsTerminal};
use std::time::Duration;

use controller_api::rest::{Operation, OperationState};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::client::Client;
use crate::error::Error;
use crate::output::{clean, typed};
use crate::routes;

/// Follows an operation until it has ended, and says so if it did not succeed.
///
/// `changed` sees each state's JSON. Ctrl-C leaves the operation alone, or on a terminal asks whether to cancel it.
pub(crate) async fn follow(
    client: &Client,
    key: &str,
    operation: Value,
    mut changed: impl FnMut(&Value) -> Result<(), Error>,
) -> Result<Value, Error> {
    let mut value = operation;
    let mut operation: Operation = typed(value.clone())?;
    let mut progress = Progress::new(io::stderr().is_terminal());
    progress.show(&operation);
    changed(&value)?;
    while !operation.state.is_final() {
        let (next, next_value) = tokio::select! {
            next = client.operation_after(&operation) => next?,
            _ = tokio::signal::ctrl_c() => {
                progress.pause();
                if !ask_to_cancel(&operation).await {
                    return Err(Error::Interrupted(format!(
                        "{} goes on; follow it with `skippy operation watch {}`, or cancel it with `skippy operation cancel {}`",
                        operation.id, operation.id, operation.id
                    )));
                }
                let call = routes::cancel(&operation.id).idempotency_key(&format!("{key}-cancel"));
                match client.call(&call).await {
                    Ok(cancelled) => (typed(cancelled.clone())?, cancelled),
                    // It may have ended while the question stood; what it says itself counts.
                    Err(error) => {
                        eprintln!("it is not cancelled: {error}");
                        client.operation_after(&operation).await?
                    }
                }
            }
        };
        if next != operation {
            progress.show(&next);
            changed(&next_value)?;
        }
        (operation, value) = (next, next_value);
    }
    progress.pause();
    match operation.state {
        OperationState::Succeeded => Ok(value),
        state => Err(Error::OperationFailed {
            id: operation.id,
            state: state.to_string(),
            detail: clean(operation.error.as_deref().unwrap_or(&operation.detail)),
        }),
    }
}

/// Only yes is yes; a second Ctrl-C, or nobody to ask, is no.
async fn ask_to_cancel(operation: &Operation) -> bool {
    if !operation.cancellable || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    eprint!("\nCancel {} ({})? [y/N] ", operation.id, operation.kind);
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        answer = answer => matches!(answer, Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes")),
        _ = tokio::signal::ctrl_c() => { eprintln!(); false }
    }
}

struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    fn new(terminal: bool) -> Self {
        Self { bar: terminal.then(bar), last: String::new() }
    }

    fn show(&mut self, operation: &Operation) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(clean(&step(operation)));
                bar.set_position(operation.percent.into());
                bar.enable_steady_tick(Duration::from_millis(120));
            }
            None => {
                let line = line(operation);
                if line != self.last {
                    eprintln!("{line}");
                    self.last = line;
                }
            }
        }
    }

    /// Takes the bar away; the next change brings it back.
    fn pause(&self) {
        if let Some(bar) = &self.bar {
            bar.disable_steady_tick();
            bar.finish_and_clear();
            bar.reset();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.pause();
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {percent}% {elapsed}")
        .expect("the template is written here");
    ProgressBar::new(100).with_style(style)
}

/// `op-33 migrate: moving the volume 40%`
fn line(operation: &Operation) -> String {
    let mut line = step(operation);
    if !operation.state.is_final() {
        line.push_str(&format!(" {}%", operation.percent));
    }
    if !operation.detail.is_empty() {
        line.push_str(&format!(" ({})", operation.detail));
    }
    clean(&line)
}

fn step(operation: &Operation) -> String {
    let at = match operation.state {
        OperationState::Running if !operation.step.is_empty() => operation.step.as_str(),
        state => state.as_str(),
    };
    format!("{} {}: {at}", operation.id, operation.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_in_a_line() {
        let mut operation: Operation = serde_json::from_value(serde_json::json!({
            "id": "op-33", "kind": "migrate", "state": "running", "step": "moving the volume", "percent": 40,
            "detail": "", "subjects": ["inst-12"], "cancellable": true, "requested_by": "admin",
            "created_at": "2026-03-01T12:00:00Z"
        }))
        .unwrap();
        assert_eq!(line(&operation), "op-33 migrate: moving the volume 40%");
        operation.detail = "12 of 30\u{1b}[2J MiB".to_owned();
        assert_eq!(line(&operation), "op-33 migrate: moving the volume 40% (12 of 30\u{fffd}[2J MiB)");
        operation.detail = String::new();
        operation.state = OperationState::Succeeded;
        assert_eq!(line(&operation), "op-33 migrate: succeeded");
    }
}
