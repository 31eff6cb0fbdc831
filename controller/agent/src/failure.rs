//! Why a step failed, as it is reported, and whether it may be tried again.

use std::fmt::Display;
use std::io;

use crate::reconcile::FailureClass;

/// A failed step: a sentence with the mend, and its class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What becomes of it.
    pub class: FailureClass,
    /// A sentence.
    pub detail: String,
}

impl Failure {
    /// Something that comes by itself is not there yet.
    pub fn waiting(detail: impl Into<String>) -> Failure {
        Failure { class: FailureClass::Waiting, detail: detail.into() }
    }

    /// It may work next time.
    pub fn transient(detail: impl Into<String>) -> Failure {
        Failure { class: FailureClass::Transient, detail: detail.into() }
    }

    /// Only another spec helps.
    pub fn permanent(detail: impl Into<String>) -> Failure {
        Failure { class: FailureClass::Permanent, detail: detail.into() }
    }

    /// What the kernel said to a step; a full disk is named as one.
    pub fn io(step: impl Display, error: &io::Error) -> Failure {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Failure::transient(if full {
            format!("cannot {step}: the disk is full; free space on the node's state directory")
        } else {
            format!("cannot {step}: {error}")
        })
    }
}

/// Names the step of an I/O error.
pub(crate) trait Step<T> {
    /// The error as a [`Failure`] of this step.
    fn step(self, what: impl Display) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(what, &error))
    }
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|errno| Failure::io(what, &errno.into()))
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Failure {
        use std::error::Error;
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Failure::transient(format!("{error}{cause}"))
    }
}
