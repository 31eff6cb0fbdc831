//! The bearer tokens of the REST API. The store keeps their SHA-256 only: 256 random bits need no slow hash.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{digest, rand};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde::{Deserialize, Serialize};

use crate::store::{Store, StoreError, Transaction};

/// What a token may do; each role may do what the lesser ones may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything.
    Reader,
    /// Change instances, networks, types and bindings.
    Operator,
    /// Also nodes, tokens and everything else.
    Admin,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "reader" => Ok(Role::Reader),
            "operator" => Ok(Role::Operator),
            "admin" => Ok(Role::Admin),
            _ => Err(format!("{text:?} is no role: use reader, operator or admin")),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::Reader => "reader",
            Role::Operator => "operator",
            Role::Admin => "admin",
        })
    }
}

/// A token as the store knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiToken {
    /// Short and never reused: `token-` and 8 hexadecimal digits.
    pub id: String,
    /// Whose it is, or for what.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the token, in hexadecimal.
    pub sha256: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends, in milliseconds since 1970; `None` for never.
    pub expires_ms: Option<u64>,
}

/// All tokens, in memory and in the store.
pub struct ApiTokens {
    store: Arc<dyn Store>,
    by_digest: RwLock<HashMap<String, ApiToken>>,
}

impl ApiTokens {
    /// Reads the tokens of a store. Blocks.
    pub fn load(store: Arc<dyn Store>) -> Result<ApiTokens, ApiTokenError> {
        let mut by_digest = HashMap::new();
        for (key, record) in store.list(PREFIX)?.records {
            let token: ApiToken =
                serde_json::from_slice(&record.value).map_err(|_| ApiTokenError::Malformed(key.clone()))?;
            by_digest.insert(token.sha256.clone(), token);
        }
        Ok(ApiTokens { store, by_digest: RwLock::new(by_digest) })
    }

    /// Makes a token. The text is shown to its owner once and kept nowhere. Blocks.
    pub fn create(
        &self,
        name: &str,
        role: Role,
        expires_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(ApiToken, String), ApiTokenError> {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(ApiTokenError::Name);
        }
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| ApiTokenError::Random)?;
        let mut id = [0; 4];
        rand::fill(&mut id).map_err(|_| ApiTokenError::Random)?;
        let text = format!("{TEXT_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        let id = format!("token-{:08x}", u32::from_be_bytes(id));
        let sha256 = sha256_hex(&text);
        let token = ApiToken { id, name: name.to_owned(), role, sha256, created_ms: now_ms, expires_ms };
        let value = serde_json::to_vec(&token).expect("a token is always JSON");
        let key = format!("{PREFIX}{}", token.id);
        self.store.commit(Transaction::default().put(&key, value).only_if(&key, Default::default()))?;
        self.write().insert(token.sha256.clone(), token.clone());
        Ok((token, text))
    }

    /// Ends a token, by its id or, if only one has it, by its name. Blocks.
    pub fn revoke(&self, id_or_name: &str) -> Result<ApiToken, ApiTokenError> {
        let tokens = self.list();
        let mut found = tokens.iter().filter(|token| token.id == id_or_name);
        let mut named = tokens.iter().filter(|token| token.name == id_or_name);
        let token = match (found.next(), named.next(), named.next()) {
            (Some(token), _, _) | (None, Some(token), None) => token.clone(),
            (None, Some(_), Some(_)) => return Err(ApiTokenError::Ambiguous(id_or_name.to_owned())),
            (None, None, _) => return Err(ApiTokenError::Unknown(id_or_name.to_owned())),
        };
        // First here: it is refused from now on, even if the disk fails.
        self.write().remove(&token.sha256);
        self.store.commit(Transaction::default().delete(format!("{PREFIX}{}", token.id)))?;
        Ok(token)
    }

    /// All tokens, in the order of their making.
    pub fn list(&self) -> Vec<ApiToken> {
        let mut tokens: Vec<ApiToken> = self.read().values().cloned().collect();
        tokens.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        tokens
    }

    /// The token that the text is, if it is in force.
    pub fn authenticate(&self, text: &str, now_ms: u64) -> Option<ApiToken> {
        if !text.starts_with(TEXT_PREFIX) || text.len() > MAX_TEXT {
            return None;
        }
        // Looked up by its hash, so that the time taken tells nothing about the tokens.
        let token = self.read().get(&sha256_hex(text)).cloned()?;
        token.expires_ms.is_none_or(|end| now_ms < end).then_some(token)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, ApiToken>> {
        self.by_digest.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, ApiToken>> {
        self.by_digest.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ApiTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiTokens({})", self.read().len())
    }
}

/// Why a token was not made or ended.
#[derive(Debug, thiserror::Error)]
pub enum ApiTokenError {
    /// No such token.
    #[error("no token {0:?}: `controller token list` shows all")]
    Unknown(String),
    /// The name is several tokens'.
    #[error("several tokens are named {0:?}: use the id that `controller token list` shows")]
    Ambiguous(String),
    /// Not a name.
    #[error("a token's name has 1 to 100 printable characters")]
    Name,
    /// No entropy.
    #[error("the system's random source failed")]
    Random,
    /// The store holds something else there.
    #[error("the record {0} is malformed: restore a backup")]
    Malformed(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn sha256_hex(text: &str) -> String {
    digest::digest(&digest::SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

const PREFIX: &str = "api-token/";
/// So that scanners for leaked secrets can tell what it is.
const TEXT_PREFIX: &str = "ctl_";
const MAX_NAME: usize = 100;
const MAX_TEXT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileStore;

    #[test]
    fn tokens_are_made_known_again_and_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::create(&dir.path().join("store")).unwrap());
        let tokens = ApiTokens::load(store.clone()).unwrap();
        let (first, text) = tokens.create("first", Role::Admin, None, 1).unwrap();
        let (short, short_text) = tokens.create("short", Role::Reader, Some(10), 2).unwrap();
        tokens.create("short", Role::Reader, None, 3).unwrap();

        let again = ApiTokens::load(store.clone()).unwrap();
        assert_eq!(again.authenticate(&text, 5).unwrap(), first);
        assert_eq!(again.authenticate(&short_text, 9).unwrap(), short);
        assert!(again.authenticate(&short_text, 10).is_none());
        for bad in ["", "ctl_", &text[1..], &format!("{text}x")] {
            assert!(again.authenticate(bad, 5).is_none());
        }
        assert!(matches!(again.revoke("short"), Err(ApiTokenError::Ambiguous(_))));
        assert!(matches!(again.revoke("nobody"), Err(ApiTokenError::Unknown(_))));
        assert!(matches!(again.create("", Role::Reader, None, 1), Err(ApiTokenError::Name)));
        again.revoke("first").unwrap();
        assert!(again.authenticate(&text, 5).is_none());
        let after = ApiTokens::load(store.clone()).unwrap();
        assert_eq!(after.list().len(), 2);
        let stored = store.list("").unwrap().records;
        assert!(
            stored.iter().all(|(_, record)| !String::from_utf8_lossy(&record.value).contains(&short_text))
        );
    }
}
