//! Join tokens: everything that a node needs to become one, on one line, once.
//!
//! `skj1.` and base64url without padding of: expiry (8 bytes, big endian), the controller's public key (32), the
//! secret (32), the cluster's name and then each address (a byte of length and the text), the first 4 bytes of the
//! SHA-256 of all that. The sum tells a mistyped or cut-short token from a refused one; it protects nothing.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use zeroize::Zeroizing;

use crate::key::PublicKey;

/// A join token. `Display` is the text that is handed to the node, with the secret; `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Where the controller listens for nodes: `host:port`, tried in this order. 1 to [`Token::MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// The key that the controller must prove.
    pub controller: PublicKey,
    /// What the node proves its right to join by.
    pub secret: Secret,
    /// Seconds since 1970 after which the controller refuses it.
    pub expires: u64,
    /// The cluster's name, for people. At most 255 bytes.
    pub cluster: String,
}

impl Token {
    /// More addresses make the token needlessly long.
    pub const MAX_ADDRESSES: usize = 16;

    /// Whether the controller will refuse it at `now`, in seconds since 1970. The controller's clock judges; a node
    /// says it beforehand.
    pub fn is_expired(&self, now: u64) -> bool {
        now >= self.expires
    }

    /// Checks what the text cannot hold: for who makes tokens.
    pub fn check(&self) -> Result<(), TokenError> {
        if self.addresses.is_empty() || self.addresses.len() > Token::MAX_ADDRESSES {
            return Err(TokenError::Addresses);
        }
        if self.cluster.len() > 255 {
            return Err(TokenError::Cluster);
        }
        match self.addresses.iter().find(|address| !is_address(address)) {
            Some(address) => Err(TokenError::Address { address: address.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        bytes.extend_from_slice(&self.controller.0);
        bytes.extend_from_slice(self.secret.bytes());
        for text in [&self.cluster].into_iter().chain(&self.addresses) {
            let length = u8::try_from(text.len()).map_err(|_| fmt::Error)?;
            bytes.push(length);
            bytes.extend_from_slice(text.as_bytes());
        }
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        write!(f, "{PREFIX}{}", *Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| match PREFIX.starts_with(text) {
            true => TokenError::CutShort,
            false => TokenError::Prefix,
        })?;
        if encoded.len() > MAX_TEXT {
            return Err(TokenError::Garbled);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|error| match error {
            base64::DecodeError::InvalidByte(..) => TokenError::Garbled,
            _ => TokenError::CutShort,
        })?;
        let bytes = Zeroizing::new(bytes);
        let (body, found) = bytes.split_last_chunk::<4>().ok_or(TokenError::CutShort)?;
        if sum(body) != *found {
            return Err(TokenError::CutShort);
        }
        let (expires, rest) = body.split_first_chunk::<8>().ok_or(TokenError::Garbled)?;
        let (controller, rest) = rest.split_first_chunk::<32>().ok_or(TokenError::Garbled)?;
        let (secret, rest) = rest.split_first_chunk::<32>().ok_or(TokenError::Garbled)?;
        let mut texts = texts(rest).ok_or(TokenError::Garbled)?.into_iter();
        let token = Token {
            cluster: texts.next().ok_or(TokenError::Garbled)?,
            addresses: texts.collect(),
            controller: PublicKey(*controller),
            secret: Secret::from(*secret),
            expires: u64::from_be_bytes(*expires),
        };
        token.check()?;
        Ok(token)
    }
}

/// The 32 random bytes that a token is worth. Cleared on drop, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// From the operating system's random source.
    pub fn generate() -> Secret {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut bytes[..])
            .expect("the operating system's random source does not fail once it is seeded");
        Secret(bytes)
    }

    /// What goes into the request to enrol.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the controller keeps of it.
    pub fn hash(&self) -> [u8; 32] {
        secret_hash(self.bytes())
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Secret {
        Secret(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a token's secret: all that the controller keeps, and compares, of it.
pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
    digest(&SHA256, secret).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Text that is no token, or a token that cannot be made. None repeats the text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not begin with `skj1.`.
    #[error(
        "not a join token: one begins with \"{PREFIX}\"; copy the whole line that add_compute_node printed"
    )]
    Prefix,
    /// Its end, or a character, is missing or mistyped.
    #[error("the join token is cut short or mistyped: copy the whole line again")]
    CutShort,
    /// It has characters that no token has, or holds something else.
    #[error("the join token is garbled: copy the whole line again, or make a new token")]
    Garbled,
    /// Without addresses nobody finds the controller.
    #[error("a join token needs 1 to {} addresses of the controller", Token::MAX_ADDRESSES)]
    Addresses,
    /// The cluster's name is too long.
    #[error("the cluster's name has more than 255 bytes: choose a shorter one")]
    Cluster,
    /// An address without port, say.
    #[error("{address:?} is no address of a controller: write host:port or [IPv6]:port")]
    Address {
        /// It.
        address: String,
    },
}

/// `host:port`, with at most 255 bytes of printable ASCII.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    text.len() <= 255
        && port_is_good
        && !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_graphic())
        && (bracketed || !host.contains([':', '/']))
}

fn texts(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (text, rest) = rest.split_at_checked(usize::from(*length))?;
        texts.push(std::str::from_utf8(text).ok()?.to_owned());
        bytes = rest;
    }
    Some(texts)
}

fn sum(bytes: &[u8]) -> [u8; 4] {
    *digest(&SHA256, bytes).as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

const PREFIX: &str = "skj1.";
/// Base64 of the longest token there can be.
const MAX_TEXT: usize = 4 * (8 + 32 + 32 + 256 * (Token::MAX_ADDRESSES + 1) + 4) / 3 + 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> Token {
        Token {
            addresses: vec!["ctl.example:7443".into(), "[2001:db8::1]:7443".into()],
            controller: PublicKey([3; 32]),
            secret: Secret::from([0xa5; 32]),
            expires: 1_700_000_000,
            cluster: "lab".into(),
        }
    }

    prop_compose! {
        fn tokens()(
            addresses in prop::collection::vec("[a-z0-9.-]{1,60}:[1-9][0-9]{0,3}", 1..=16),
            controller in any::<[u8; 32]>(),
            secret in any::<[u8; 32]>(),
            expires in any::<u64>(),
            cluster in "\\PC{0,60}",
        ) -> Token {
            Token { addresses, controller: PublicKey(controller), secret: secret.into(), expires, cluster }
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(token in tokens()) {
            prop_assert_eq!(token.to_string().parse::<Token>(), Ok(token));
        }

        #[test]
        fn a_cut_token_is_refused(token in tokens(), cut in 1usize..80) {
            let text = token.to_string();
            prop_assert!(text[..text.len() - cut].parse::<Token>().is_err());
        }

        #[test]
        fn a_changed_token_is_refused(token in tokens(), at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
            let mut text = token.to_string();
            let at = at.index(text.len());
            prop_assume!(text[at..=at] != with);
            text.replace_range(at..=at, &with);
            prop_assert!(text.parse::<Token>().is_err());
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "\\PC*", bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = text.parse::<Token>();
            let summed = [&bytes[..], &sum(&bytes)].concat();
            let _ = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(summed)).parse::<Token>();
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = token().to_string();
        let cases = [
            ("", TokenError::CutShort),
            ("skj", TokenError::CutShort),
            ("hello", TokenError::Prefix),
            ("skj2.abcd", TokenError::Prefix),
            ("skj1.", TokenError::CutShort),
            (&text[..text.len() - 1], TokenError::CutShort),
            (&text[..40], TokenError::CutShort),
            ("skj1.ab cd", TokenError::Garbled),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Token>(), Err(expected), "{text}");
        }
        assert_eq!(format!("  {text}\n").parse(), Ok(token()));
    }

    #[test]
    fn tokens_that_lead_nowhere_are_not_made() {
        assert_eq!(token().check(), Ok(()));
        assert_eq!(Token { addresses: vec![], ..token() }.check(), Err(TokenError::Addresses));
        assert_eq!(Token { cluster: "x".repeat(256), ..token() }.check(), Err(TokenError::Cluster));
        for bad in ["host", "host:", ":7443", "host:0", "host:99999", "::1:7443", "a b:1", "http://host:1"] {
            let token = Token { addresses: vec![bad.into()], ..token() };
            assert!(matches!(token.check(), Err(TokenError::Address { .. })), "{bad}");
        }
    }

    /// The test vector of docs/wire-format.md.
    #[test]
    fn the_text_is_the_documented_one() {
        assert_eq!(
            token().to_string(),
            "skj1.AAAAAGVT8QADAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA6WlpaWlpaWlpaWlpaWlpaW\
             lpaWlpaWlpaWlpaWlpaWlA2xhYhBjdGwuZXhhbXBsZTo3NDQzElsyMDAxOmRiODo6MV06NzQ0M8Tx4Ig\
             "
        );
    }

    #[test]
    fn the_secret_is_hashed_and_never_shown() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(shown.contains("Secret(..)") && !shown.contains("165") && !shown.contains("a5"), "{shown}");
        assert_eq!(token.secret.hash(), secret_hash(&[0xa5; 32]));
        assert_ne!(Secret::generate(), Secret::generate());
        assert!(token.is_expired(1_700_000_000) && !token.is_expired(1_699_999_999));
    }
}
