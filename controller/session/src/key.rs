//! The node's identity: an Ed25519 key pair (RFC 8032), proved to peers as a TLS raw public key (RFC 7250).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::file;

/// An Ed25519 public key: 32 bytes, as text 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether `signature` is one of `message` by the private half of this key (RFC 8032).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<PublicKey, PublicKeyError> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| PublicKeyError)?;
        bytes.try_into().map(PublicKey).map_err(|_| PublicKeyError)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text that is no public key. The text is not repeated: it may be a private key pasted by mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a public key: use the 44 characters that `switchd pubkey` prints on that node")]
pub struct PublicKeyError;

/// An Ed25519 private key. Its memory is cleared on drop and `Debug` shows the public key only.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from the operating system's random source.
    pub fn generate() -> Result<PrivateKey, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok(PrivateKey { public: public_of(&pair), pkcs8 })
    }

    /// Reads the file, whose mode must keep group and others out. It holds the PKCS#8 DER as base64, or PEM as
    /// `openssl genpkey -algorithm ed25519` writes it.
    pub fn load(path: &Path) -> Result<PrivateKey, KeyError> {
        let at = |source| KeyError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
            _ => at(source),
        })?;
        let metadata = file.metadata().map_err(at)?;
        if !metadata.is_file() {
            return Err(KeyError::NotAFile { path: path.to_owned() });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize));
        (&mut file).take(MAX_FILE).read_to_string(&mut text).map_err(at)?;
        PrivateKey::from_text(&text).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
    }

    /// Writes the key to a new file of mode 0600, with its directory if that is missing (mode 0755). An existing
    /// file is replaced, atomically, only if `force`.
    pub fn save(&self, path: &Path, force: bool) -> Result<(), KeyError> {
        let at = |source| KeyError::Write { path: path.to_owned(), source };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(at)?;
        }
        if !force {
            return file::create_private(path, self.to_text().as_bytes()).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
                    _ => at(source),
                }
            });
        }
        file::write_private(path, self.to_text().as_bytes()).map_err(at)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The key as PKCS#8 version 1 DER (RFC 8410), for rustls.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The signature of `message` (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.pkcs8).expect("a key's own document parses");
        pair.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    fn from_text(text: &str) -> Option<PrivateKey> {
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        for line in text.lines().filter(|line| !line.starts_with("-----")) {
            base64.push_str(line.trim());
        }
        let der = Zeroizing::new(BASE64_STANDARD.decode(base64.as_bytes()).ok()?);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
        let document = pair.to_pkcs8v1().ok()?;
        Some(PrivateKey { public: public_of(&pair), pkcs8: Zeroizing::new(document.as_ref().to_vec()) })
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(BASE64_STANDARD.encode(self.pkcs8.as_slice()));
        text.push('\n');
        text
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public)
    }
}

/// Which step with the key failed. None repeats the file's content.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No entropy, or the library refused.
    #[error("could not generate an Ed25519 key")]
    Generate,
    /// No such file.
    #[error("private key {path}: no such file; make one: switchd keygen --out {path}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("private key {path}: could not read it", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, say.
    #[error("private key {path} is not a file: name the key's file, or make one: switchd keygen --out FILE", path = path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Group or others may use the file.
    #[error("private key {path} has mode {mode:04o}: others may read it; mend: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("private key {path} is not an Ed25519 key in PKCS#8 (base64 or PEM); make one: switchd keygen --force --out {path}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The file is there already.
    #[error("private key {path} exists; peers know the node by it, so it is kept: switchd pubkey prints its public key, --force replaces it", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be written.
    #[error("private key {path}: could not write it", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn public_of(pair: &Ed25519KeyPair) -> PublicKey {
    PublicKey(pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
}

/// A key file is under 200 bytes; whatever is longer is no key.
const MAX_FILE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_saved_key_loads_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/private.key");
        let key = PrivateKey::generate().unwrap();
        key.save(&path, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let loaded = PrivateKey::load(&path).unwrap();
        assert_eq!((loaded.public(), loaded.pkcs8_der()), (key.public(), key.pkcs8_der()));
        assert!(!format!("{loaded:?}").contains(text.trim()));
    }

    #[test]
    fn an_existing_key_is_replaced_only_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private.key");
        let (first, second) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        first.save(&path, false).unwrap();
        assert!(matches!(second.save(&path, false), Err(KeyError::Exists { .. })));
        assert_eq!(PrivateKey::load(&path).unwrap().public(), first.public());
        second.save(&path, true).unwrap();
        assert_eq!(PrivateKey::load(&path).unwrap().public(), second.public());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_readable_key_is_refused_with_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private.key");
        PrivateKey::generate().unwrap().save(&path, false).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = PrivateKey::load(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn an_openssl_key_loads() {
        // RFC 8410, 10.3.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let key = PrivateKey::from_text(pem).unwrap();
        assert_eq!(key.public().to_string(), "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    }

    #[test]
    fn bad_files_are_refused_without_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private.key");
        assert!(PrivateKey::load(&path).unwrap_err().to_string().contains("switchd keygen"));
        for text in ["", "hunter2", "MC4CAQAwBQYDK2VwBCIEINTuctv5"] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = PrivateKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { .. }));
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }

    #[test]
    fn public_keys_round_trip_as_text() {
        let key = PublicKey([7; 32]);
        assert_eq!(key.to_string().len(), 44);
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "BwcH", "not base64 at all"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(PublicKeyError));
        }
    }
}
