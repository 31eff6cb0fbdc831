//! Secrets of the REST API's tokens.

use aws_lc_rs::rand;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use controller_registry::SecretHash;

/// A new token of the API, and the hash that the registry keeps of it.
pub(crate) fn new_secret() -> (String, SecretHash) {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the operating system's random source does not fail once it is seeded");
    let secret = format!("skt_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let hash = node_session::token::secret_hash(secret.as_bytes());
    (secret, SecretHash(hash))
}
