//! The proof that a node's new key is its own: a signature by the new key that names the old one.

use crate::key::{PrivateKey, PublicKey};

/// By `new`, for the node whose key is `old`.
pub fn prove(new: &PrivateKey, old: &PublicKey) -> Vec<u8> {
    new.sign(&message(old)).to_vec()
}

/// Whether `proof` was made with the private half of `new` for the node whose key is `old`.
pub fn is_proved(new: &PublicKey, old: &PublicKey, proof: &[u8]) -> bool {
    new.verifies(&message(old), proof)
}

fn message(old: &PublicKey) -> Vec<u8> {
    [b"switchd rotate key", &old.0[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_two_keys_only() {
        let [old, new, other] = [(); 3].map(|()| PrivateKey::generate().unwrap());
        let proof = prove(&new, &old.public());
        assert!(is_proved(&new.public(), &old.public(), &proof));
        assert!(!is_proved(&new.public(), &other.public(), &proof));
        assert!(!is_proved(&other.public(), &old.public(), &proof));
        assert!(!is_proved(&new.public(), &old.public(), &proof[1..]));
        assert!(!is_proved(&PublicKey([0xff; 32]), &old.public(), b""));
    }
}
