//! What can go wrong, as the user reads it, and the exit code that a script reads.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use crate::config::ConfigError;
use crate::tls::WrongCertificate;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There are no usable settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The controller does not answer.
    #[error("cannot reach the controller at {url}: {reason}. Does it run, and is the address right?")]
    Unreachable {
        /// Where it should be.
        url: Url,
        /// What the network said.
        reason: String,
        /// A connection had been made, and broke.
        connected: bool,
    },
    /// The controller took too long.
    #[error("the controller at {url} did not answer within {} s; --timeout allows more", .after.as_secs_f64())]
    TimedOut {
        /// Where it should be.
        url: Url,
        /// How long it had.
        after: Duration,
    },
    /// Another certificate than the pinned one.
    #[error(
        "{url} is not the controller that is pinned.\n  pinned:    {}\n  presented: {}\n\
         If its certificate was renewed, compare with `controller fingerprint` on its machine and pin the new one; \
         otherwise someone stands in between.", .wrong.pinned, .wrong.presented
    )]
    WrongCertificate {
        /// Where.
        url: Url,
        /// Both fingerprints.
        wrong: Box<WrongCertificate>,
    },
    /// A certificate that no authority vouches for.
    #[error(
        "the certificate of {url} is not trusted: {reason}. Pin it with --fingerprint (as `controller fingerprint` \
         prints it on the controller's machine), or name its authority with --ca"
    )]
    Untrusted {
        /// Where.
        url: Url,
        /// What TLS said.
        reason: String,
    },
    /// The controller said no: a status of 4xx, or could not: 5xx.
    #[error("{}", .0.text())]
    Answered(Box<Problem>),
    /// The answer is not what the API promises.
    #[error(
        "the controller's answer to {call} cannot be read ({reason}): do skippy and controller have the same version?"
    )]
    BadAnswer {
        /// Which call.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operation was carried out, and failed.
    #[error("operation {id} {state}{}{detail}", if .detail.is_empty() { "" } else { ": " })]
    OperationFailed {
        /// Which.
        id: String,
        /// `failed` or `cancelled`.
        state: String,
        /// Why.
        detail: String,
    },
    /// The user went away.
    #[error("{0}")]
    Interrupted(String),
    /// Something on this side.
    #[error("{0}")]
    Local(String),
    /// Nothing can be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

/// The API's problem+json (RFC 9457), with what the transport knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of problem.
    pub title: String,
    /// What was wrong this time.
    pub detail: Option<String>,
    /// The field of the request that is wrong.
    pub field: Option<String>,
    /// What to do.
    pub mend: Option<String>,
    /// The role that the call needs, where that is the problem.
    pub role: Option<String>,
    /// Which call was answered so.
    #[serde(skip)]
    pub call: String,
    /// When to come again.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Error {
    /// The process's exit code; see the end of `skippy --help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Config(ConfigError::NoUrl | ConfigError::Url { .. } | ConfigError::TwoTrusts(_)) => 2,
            Self::Answered(problem) if (400..500).contains(&problem.status) => 3,
            Self::OperationFailed { .. } => 4,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::WrongCertificate { .. }
            | Self::Untrusted { .. } => 5,
            Self::Interrupted(_) => 130,
            Self::Config(_)
            | Self::Answered(_)
            | Self::BadAnswer { .. }
            | Self::Local(_)
            | Self::Output(_) => 1,
        }
    }

    /// Whether the same call may well succeed a little later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Answered(problem) => matches!(problem.status, 429 | 502..=504),
            _ => false,
        }
    }
}

impl Problem {
    /// What the user reads: what is wrong, where, and the mend.
    fn text(&self) -> String {
        let detail = self.detail.as_deref().filter(|detail| !detail.is_empty());
        let mut text = match self.status {
            401 => "the controller does not accept the token".to_owned(),
            403 => "the token may not do this".to_owned(),
            500.. => format!("the controller failed on {} (status {})", self.call, self.status),
            _ => detail.unwrap_or(&self.title).to_owned(),
        };
        if matches!(self.status, 401 | 403 | 500..) {
            let more = detail.unwrap_or(&self.title);
            if !more.is_empty() {
                text = format!("{text}: {more}");
            }
        }
        if text.is_empty() {
            text = format!("{} was answered with status {}", self.call, self.status);
        }
        if let Some(field) = self.field.as_deref().filter(|field| !field.is_empty()) {
            text.push_str(&format!("\n  field: {field}"));
        }
        if let Some(role) = self.role.as_deref().filter(|role| !role.is_empty()) {
            text.push_str(&format!("\n  role needed: {role}"));
        }
        let mend = self.mend.as_deref().filter(|mend| !mend.is_empty()).or(match self.status {
            401 => Some("give a token with --token-file, SKIPPY_TOKEN or `skippy config set-context`; `controller token create` makes one on the controller's machine"),
            403 => Some("`skippy whoami` shows the token's role; use one with more rights"),
            _ => None,
        });
        if let Some(mend) = mend {
            text.push_str(&format!("\n  mend: {mend}"));
        }
        text
    }
}
