//! What two nodes tell each other, through the controller, to find ways to each other.

use std::fmt;
use std::net::SocketAddr;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::route::{Candidate, CandidateKind};

/// "This is my present state", from one node to another.
///
/// Each signal says everything, so any may be lost, delivered twice or late: a receiver keeps the newest. Fields that
/// a receiver does not know are ignored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The version of this message, [`Signal::VERSION`]. A change that older receivers cannot ignore raises it.
    pub version: u16,
    /// When this sender's present instance began, as any number that grows: milliseconds since 1970.
    pub generation: u64,
    /// Grows with each change of what follows, except `heard` and `answer`.
    pub sequence: u64,
    /// The sender's ICE user name fragment: 4 to 60 of the characters that ICE allows. New with each instance.
    #[serde(deserialize_with = "ufrag")]
    pub ufrag: String,
    /// The key of checks to the sender (RFC 8445, 5.3): 22 to 256 characters.
    #[serde(deserialize_with = "password")]
    pub password: String,
    /// Where the sender may be reached, best first within a kind.
    #[serde(deserialize_with = "candidates")]
    pub candidates: Vec<SignalCandidate>,
    /// The newest signal that the sender had of the receiver.
    #[serde(default)]
    pub heard: Option<Heard>,
    /// Counts the sender's wishes that both sides check all ways again.
    #[serde(default)]
    pub check: u64,
    /// The sender does not know that the receiver has this state: it asks for a signal in return.
    #[serde(default)]
    pub answer: bool,
}

/// Which signal of the other side was received last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// Its `ufrag`.
    #[serde(deserialize_with = "ufrag")]
    pub ufrag: String,
    /// Its `sequence`.
    pub sequence: u64,
}

/// A candidate, as peers are told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignalCandidate {
    /// What kind of address that is.
    pub kind: CandidateKind,
    /// Where to send to.
    pub address: SocketAddr,
}

/// Why a signal was not used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SignalError {
    /// It is of a version that this node does not know.
    #[error("the peer's signal has version {0}, and this node knows up to {known}: update this node", known = Signal::VERSION)]
    Version(u16),
    /// It is this node's own.
    #[error("the signal came back to its sender")]
    Own,
    /// A field is out of its bounds.
    #[error("the peer's signal has a bad {0}")]
    Malformed(&'static str),
    /// Too many came in a short time. State comes again by itself.
    #[error("the peer sends signals too fast")]
    TooMany,
}

impl Signal {
    /// What this node speaks.
    pub const VERSION: u16 = 1;
    /// At most so many candidates in a signal.
    pub const MAX_CANDIDATES: usize = 32;

    /// Checks the bounds of each field, for signals that were not parsed.
    pub fn validate(&self) -> Result<(), SignalError> {
        if self.version == 0 || self.version > Signal::VERSION {
            return Err(SignalError::Version(self.version));
        }
        let heard = self.heard.as_ref().is_none_or(|heard| is_ufrag(&heard.ufrag));
        for (good, field) in [
            (is_ufrag(&self.ufrag), "ufrag"),
            (is_password(&self.password), "password"),
            (heard, "heard"),
            (self.candidates.len() <= Signal::MAX_CANDIDATES, "number of candidates"),
        ] {
            if !good {
                return Err(SignalError::Malformed(field));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal")
            .field("generation", &self.generation)
            .field("sequence", &self.sequence)
            .field("ufrag", &self.ufrag)
            .field("candidates", &self.candidates)
            .field("heard", &self.heard)
            .field("check", &self.check)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

impl From<&Candidate> for SignalCandidate {
    fn from(candidate: &Candidate) -> SignalCandidate {
        SignalCandidate { kind: candidate.kind, address: candidate.address }
    }
}

/// As on the wire: the kind by its name, so that kinds to come can be left out.
#[derive(Serialize, Deserialize)]
struct RawCandidate {
    kind: String,
    address: String,
}

impl Serialize for SignalCandidate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw = RawCandidate { kind: self.kind.name().to_owned(), address: self.address.to_string() };
        raw.serialize(serializer)
    }
}

/// Candidates of unknown kinds, and of addresses that this node cannot read, are left out but count.
fn candidates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SignalCandidate>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<SignalCandidate>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} candidates", Signal::MAX_CANDIDATES)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut candidates = Vec::new();
            let mut count = 0;
            while let Some(raw) = sequence.next_element::<RawCandidate>()? {
                count += 1;
                if count > Signal::MAX_CANDIDATES {
                    return Err(A::Error::invalid_length(count, &self));
                }
                if let (Some(kind), Ok(address)) = (CandidateKind::from_name(&raw.kind), raw.address.parse())
                {
                    candidates.push(SignalCandidate { kind, address });
                }
            }
            Ok(candidates)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

impl<'de> Deserialize<'de> for SignalCandidate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SignalCandidate, D::Error> {
        let raw = RawCandidate::deserialize(deserializer)?;
        let kind = CandidateKind::from_name(&raw.kind);
        let address = raw.address.parse();
        match (kind, address) {
            (Some(kind), Ok(address)) => Ok(SignalCandidate { kind, address }),
            _ => Err(D::Error::custom("a candidate that this node does not know")),
        }
    }
}

fn ufrag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let ufrag = String::deserialize(deserializer)?;
    if is_ufrag(&ufrag) { Ok(ufrag) } else { Err(D::Error::custom("a bad ICE user name fragment")) }
}

fn password<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let password = String::deserialize(deserializer)?;
    if is_password(&password) { Ok(password) } else { Err(D::Error::custom("a bad ICE password")) }
}

/// ICE allows 256 characters, but str0m's agent panics when it encodes a user name of more than 128: those of both
/// sides and a colon.
fn is_ufrag(text: &str) -> bool {
    (4..=60).contains(&text.len()) && text.bytes().all(is_ice_char)
}

fn is_password(text: &str) -> bool {
    (22..=256).contains(&text.len()) && text.bytes().all(is_ice_char)
}

/// RFC 8839, 5.1.
fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}
