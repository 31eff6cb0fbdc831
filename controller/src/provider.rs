//! Providers make and end the machines that become nodes. `manual` leaves it to a person, who gets the join token
//! and the command; `exec` runs an external command with a JSON contract (docs/providers.md).

mod calls;
mod exec;
mod providers;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use calls::ProviderCalls;
pub use exec::{ExecProvider, ProviderError};
pub use providers::{Provider, ProviderConfig, Providers, join_command};

/// What a provider is asked to do. An operation may be asked for again after a crash: doing it twice must give the
/// same result as doing it once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Of the contract: 1.
    pub version: u32,
    /// What to do.
    pub action: Action,
    /// The operation's id: the same one means the same work.
    pub operation: String,
    /// The node's id.
    pub node: String,
    /// The node's name.
    pub name: String,
    /// What the machine shall have.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub machine_type: Option<MachineType>,
    /// With it `switchd join` makes the machine this node. Secret.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub join_token: Option<String>,
    /// For `destroy`: what `create` answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({:?} {} for {})", self.action, self.node, self.operation)
    }
}

/// Make a machine, or end one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Make it, and let it join.
    Create,
    /// End it, with everything that `create` made. One that is not there is no error.
    Destroy,
}

/// The size of a machine; 0 where it does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineType {
    /// The type's name.
    pub name: String,
    /// Thousandths of a core.
    pub cores_milli: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
}

/// What a provider has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// The provider's own name for the machine; it is given back to `destroy`.
    pub id: String,
    /// A sentence for people.
    pub detail: String,
}

impl Action {
    /// As the contract has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Destroy => "destroy",
        }
    }
}

/// How far a provider is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// A sentence for people.
    pub detail: String,
}

/// Becomes true when the work shall be given up. A dropped sender means nothing.
pub type Cancel = watch::Receiver<bool>;

/// Completes when the work shall be given up.
async fn cancelled(mut cancel: Cancel) {
    if cancel.wait_for(|cancel| *cancel).await.is_err() {
        std::future::pending::<()>().await;
    }
}
