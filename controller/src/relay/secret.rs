//! Credentials as coturn's `use-auth-secret` has them: whoever knows the secret can tell which are good.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::{hmac, rand};
use base64::prelude::{BASE64_STANDARD, Engine};
use controller_registry::NodeId;
use node_session::file::write_private;
use zeroize::Zeroizing;

/// What makes passwords out of usernames. Never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// What one node authenticates with at a TURN server.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `<expiry>:<node id>`.
    pub username: String,
    /// Base64 of HMAC-SHA1 of the username.
    pub password: String,
    /// Seconds since 1970.
    pub expires: u64,
}

impl Secret {
    /// The controller's own, made when it is asked for the first time.
    pub fn load_or_make(path: &Path) -> Result<Secret, SecretError> {
        match Secret::load(path) {
            Err(SecretError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Secret::make(path)
            }
            other => other,
        }
    }

    /// From a file that somebody else shares; white space around it does not count.
    pub fn load(path: &Path) -> Result<Secret, SecretError> {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
        match text.trim() {
            "" => Err(SecretError::Empty(path.to_owned())),
            secret => Ok(Secret(Zeroizing::new(secret.to_owned()))),
        }
    }

    fn make(path: &Path) -> Result<Secret, SecretError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(&mut *bytes).map_err(|_| SecretError::Random)?;
        let text = Zeroizing::new(BASE64_STANDARD.encode(*bytes));
        write_private(path, text.as_bytes())
            .map_err(|source| SecretError::Write { path: path.to_owned(), source })?;
        Ok(Secret(text))
    }

    /// Credentials for a node until a time, seconds since 1970.
    pub fn issue(&self, node: NodeId, expires: u64) -> Credentials {
        let username = format!("{expires}:{node}");
        Credentials { password: self.password(&username), username, expires }
    }

    /// The password of a username.
    pub fn password(&self, username: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.0.as_bytes());
        BASE64_STANDARD.encode(hmac::sign(&key, username.as_bytes()))
    }

    /// Whether it is another one, without a way to learn more.
    pub(super) fn differs(&self, other: &Secret) -> bool {
        *self.0 != *other.0
    }
}

/// When credentials end and whose they are.
pub fn parse_username(username: &str) -> Option<(u64, NodeId)> {
    let (expires, node) = username.split_once(':')?;
    Some((expires.parse().ok()?, node.parse().ok()?))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("could not read the secret of a relay from {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("could not write the relay's secret to {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds nothing.
    #[error("{path} holds no secret: write into it what coturn has as static-auth-secret", path = .0.display())]
    Empty(PathBuf),
    /// The system has no random numbers.
    #[error("could not make the relay's secret: the system gives no random numbers")]
    Random,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_password_is_what_coturn_computes() {
        // printf '1700000000:node-7' | openssl dgst -sha1 -hmac north -binary | base64
        let secret = Secret(Zeroizing::new("north".to_owned()));
        assert_eq!(secret.password("1700000000:node-7"), PASSWORD);
    }

    #[test]
    fn a_username_names_its_end_and_its_node() {
        let secret = Secret(Zeroizing::new("north".to_owned()));
        let node = NodeId(7);
        let issued = secret.issue(node, 1_700_000_000);
        assert_eq!(parse_username(&issued.username), Some((1_700_000_000, node)));
        for wrong in ["", ":", "1700000000", "node-7", "x:node-7", "-1:node-7", "1:2:3"] {
            assert_eq!(parse_username(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn it_is_made_once_and_is_its_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.secret");
        let made = Secret::load_or_make(&path).unwrap();
        assert!(!Secret::load_or_make(&path).unwrap().differs(&made));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(Secret::load_or_make(&path), Err(SecretError::Empty(_))));
    }

    #[test]
    fn nothing_shows_it() {
        let secret = Secret(Zeroizing::new("north".to_owned()));
        let issued = secret.issue(NodeId(1), 9);
        let shown = format!("{secret:?} {issued:?}");
        assert!(!shown.contains("north") && !shown.contains(&issued.password), "{shown}");
    }

    const PASSWORD: &str = "tN+SxwNh4td2lx1BsXQ9RH0tdmw=";
}
