//! Operations, followed to their ends.

use std::time::{Duration, Instant};

use controller_api::rest::Operation;
use serde_json::Value;

use super::{Call, Client, FIRST_PAUSE, LONGEST_PAUSE};
use crate::error::Error;

/// The controller answers when the operation has ended, or after this long: so often progress is seen.
const POLL: Duration = Duration::from_secs(1);
/// Operations survive the controller: so long it may be away.
const AWAY: Duration = Duration::from_secs(120);

impl Client {
    /// The operation once it has ended, or as it is after a second.
    ///
    /// A controller that is away for a while, to be restarted say, is waited for. Cancel safe: nothing is lost.
    pub async fn operation_after(&self, seen: &Operation) -> Result<(Operation, Value), Error> {
        let call = crate::routes::operation_wait(seen, POLL).patience(POLL);
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.call(&call).await {
                Ok(value) => return Ok((super::read(&call, value.clone())?, value)),
                Err(error) if error.may_pass() && begun.elapsed() < AWAY => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Follows the operation to its end; `changed` sees each change, and first the operation as it is.
    pub async fn wait_operation(
        &self,
        id: &str,
        mut changed: impl FnMut(&Operation),
    ) -> Result<Operation, Error> {
        let mut operation: Operation = self.typed(&Call::get(&["operations", id])).await?;
        changed(&operation);
        while !operation.state.is_final() {
            let (next, _) = self.operation_after(&operation).await?;
            if next != operation {
                changed(&next);
            }
            operation = next;
        }
        Ok(operation)
    }
}
