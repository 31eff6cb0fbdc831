//! Messages on a session's control stream: a length and that many bytes of JSON (`docs/wire-format.md`).

use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// What one end tells the other. Unknown fields are ignored, so that newer nodes may say more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "lowercase")]
pub(super) enum Control {
    /// The first message of each end.
    Hello(Hello),
    /// The sender's networks after a change.
    Networks {
        /// All of them.
        vnis: Vec<u32>,
    },
    /// The receiver shall send by another session, then close this one.
    Retire,
    /// A newer node's word.
    #[serde(other)]
    Unknown,
}

/// A session's parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The sender's name, for people.
    pub(super) node: String,
    /// Random number of the sender's process: another one means that it restarted.
    pub(super) boot: u64,
    /// What the receiver of this message puts into the headers of what it seals.
    pub(super) receiver_index: u32,
    /// The sender's networks.
    pub(super) vnis: Vec<u32>,
    /// The sender gives the packets inside what ECN arrives outside (RFC 6040); older nodes do not say it.
    #[serde(default)]
    pub(super) ecn: bool,
}

/// Writes one message.
pub(super) async fn write(stream: &mut SendStream, message: &Control) -> Result<(), ControlError> {
    let body = serde_json::to_vec(message).map_err(ControlError::Json)?;
    let len =
        u32::try_from(body.len()).ok().filter(|len| *len <= MAX_MESSAGE).ok_or(ControlError::TooLong)?;
    stream.write_all(&len.to_be_bytes()).await.map_err(ControlError::Write)?;
    stream.write_all(&body).await.map_err(ControlError::Write)
}

/// Reads one message.
pub(super) async fn read(stream: &mut RecvStream) -> Result<Control, ControlError> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.map_err(ControlError::Read)?;
    let len = u32::from_be_bytes(len);
    if len > MAX_MESSAGE {
        return Err(ControlError::TooLong);
    }
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await.map_err(ControlError::Read)?;
    serde_json::from_slice(&body).map_err(ControlError::Json)
}

/// Why the control stream failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("the control stream ended")]
    Read(#[source] quinn::ReadExactError),
    #[error("the control stream cannot be written")]
    Write(#[source] quinn::WriteError),
    #[error("a control message is not understood")]
    Json(#[source] serde_json::Error),
    #[error("a control message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
}

const MAX_MESSAGE: u32 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_that_does_not_speak_of_ecn_is_an_older_node_s() {
        let text = r#"{"message":"hello","node":"b","boot":7,"receiver_index":10,"vnis":[100],"later":1}"#;
        let hello = Hello { node: "b".into(), boot: 7, receiver_index: 10, vnis: vec![100], ecn: false };
        assert_eq!(serde_json::from_str::<Control>(text).unwrap(), Control::Hello(hello));
    }
}
