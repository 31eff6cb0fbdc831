//! Why a command, a claim or an enrolment was not done.

/// A refusal: nothing was changed, other than what is said about the input. The sentence names the field, the
/// problem and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The class, for the answer's status.
    pub kind: RefusalKind,
    /// One short word for metrics and for programs, such as `token-expired`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Classes of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// What it is about is not known.
    NotFound,
    /// It contradicts what is there or what runs at the moment.
    Conflict,
    /// The input is wrong.
    Invalid {
        /// The field that is.
        field: &'static str,
    },
    /// The caller may not.
    Forbidden,
    /// A table, a range of numbers or the cluster's room is used up.
    Exhausted,
    /// What it needs is away or not set up yet.
    NotReady,
    /// The caller decided on the ground of an older state.
    Stale,
}

impl Refusal {
    pub(crate) fn not_found(what: &str, reference: &str) -> Refusal {
        Refusal::new(RefusalKind::NotFound, "not-found", format!("there is no {what} `{reference}`"))
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Conflict, "conflict", message)
    }

    pub(crate) fn invalid(field: &'static str, problem: impl AsRef<str>) -> Refusal {
        Refusal::new(RefusalKind::Invalid { field }, "invalid", format!("{field}: {}", problem.as_ref()))
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Forbidden, code, message)
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Exhausted, "exhausted", message)
    }

    pub(crate) fn not_ready(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::NotReady, "not-ready", message)
    }

    pub(crate) fn stale(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Stale, "stale", message)
    }

    fn new(kind: RefusalKind, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { kind, code, message: message.into() }
    }
}
