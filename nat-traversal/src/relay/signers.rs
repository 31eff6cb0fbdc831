//! Credentials: those that the library was made with, and newer ones, which it cannot take over.
//!
//! Its requests are signed anew with the newer ones, and the answers, once they are proved by the newer ones, with
//! those that it knows. A server gives one client address one allocation, and that to its user: a second client
//! beside the first would be no way to newer credentials.

use std::borrow::Cow;

use stun_proto::auth::{LongTermClientAuth, LongTermClientValidation};
use stun_types::attribute::{
    ErrorCode, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce, PasswordAlgorithm,
    PasswordAlgorithms, Realm, Userhash, Username,
};
use stun_types::message::{LongTermCredentials, Message, MessageWriteVec};
use stun_types::prelude::{Attribute, AttributeStaticType, MessageWrite, MessageWriteExt};

use super::answers::error_code;

/// Who signs.
#[derive(Debug)]
pub(crate) struct Signers {
    /// With the library's credentials. Its own is out of reach: this one hears the same challenges.
    library: LongTermClientAuth,
    /// With newer ones that the relay has accepted.
    renewed: Option<LongTermClientAuth>,
    /// With newer ones that it is asked to accept.
    trial: Option<LongTermClientAuth>,
    /// The relay's last challenge, from which newer credentials learn its realm.
    challenge: Vec<u8>,
}

impl Signers {
    pub(crate) fn new(credentials: LongTermCredentials) -> Signers {
        Signers { library: auth(credentials), renewed: None, trial: None, challenge: Vec::new() }
    }

    /// Has these tried next, unless they are in use.
    pub(crate) fn begin_trial(&mut self, credentials: LongTermCredentials) -> bool {
        if self.in_use().credentials() == Some(&credentials) {
            return false;
        }
        let mut trial = auth(credentials);
        if let Ok(challenge) = Message::from_bytes(&self.challenge) {
            let _ = trial.validate_incoming_message(&challenge);
        }
        self.trial = Some(trial);
        true
    }

    /// The relay has accepted those that were tried.
    pub(crate) fn accept(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.renewed = Some(trial);
        }
    }

    /// It has not; those of before stay in use. `false` if none were tried.
    pub(crate) fn reject(&mut self) -> bool {
        self.trial.take().is_some()
    }

    /// For requests of the client's own.
    pub(crate) fn in_use(&mut self) -> &mut LongTermClientAuth {
        self.renewed.as_mut().unwrap_or(&mut self.library)
    }

    /// For the request that tries newer ones, or if there are none, as `in_use`.
    pub(crate) fn tried(&mut self) -> &mut LongTermClientAuth {
        match &mut self.trial {
            Some(trial) => trial,
            None => self.renewed.as_mut().unwrap_or(&mut self.library),
        }
    }

    /// Takes in the relay's realm and nonce.
    pub(crate) fn hear_challenge(&mut self, challenge: &Message<'_>) {
        if error_code(challenge) == Some(ErrorCode::UNAUTHORIZED) {
            self.challenge = challenge.as_bytes().to_vec();
        }
        for auth in self.renewed.iter_mut().chain([&mut self.library]) {
            // Only the nonce is of interest: what to do is the library's to decide.
            let _ = auth.validate_incoming_message(challenge);
        }
    }

    /// A request of the library's, as it goes out.
    pub(crate) fn outgoing(&mut self, request: Vec<u8>) -> Vec<u8> {
        let Some(renewed) = &mut self.renewed else { return request };
        let Ok(message) = Message::from_bytes(&request) else { return request };
        if !message.has_attribute(MessageIntegrity::TYPE) {
            return request;
        }
        sign(renewed, &message).unwrap_or(request)
    }

    /// An answer to it, as the library is given it.
    pub(crate) fn incoming<'a>(&mut self, bytes: &'a [u8], answer: &Message<'_>) -> Cow<'a, [u8]> {
        let Some(renewed) = &mut self.renewed else { return Cow::Borrowed(bytes) };
        match renewed.validate_incoming_message(answer) {
            Ok(LongTermClientValidation::Validated(_)) => {
                sign(&mut self.library, answer).map_or(Cow::Borrowed(bytes), Cow::Owned)
            }
            Ok(LongTermClientValidation::ResendRequest(_)) | Err(_) => Cow::Borrowed(bytes),
        }
    }
}

fn auth(credentials: LongTermCredentials) -> LongTermClientAuth {
    let mut auth = LongTermClientAuth::new();
    auth.set_credentials(credentials);
    auth
}

/// The same message of the same transaction, signed by this one.
fn sign(auth: &mut LongTermClientAuth, message: &Message<'_>) -> Option<Vec<u8>> {
    let mut signed = Message::builder(message.get_type(), message.transaction_id(), MessageWriteVec::new());
    for (_, attribute) in message.iter_attributes() {
        if !OF_CREDENTIALS.contains(&attribute.get_type()) {
            signed.add_attribute(&attribute).ok()?;
        }
    }
    Some(auth.sign_outgoing_message(signed).ok()?.finish())
}

const OF_CREDENTIALS: [stun_types::attribute::AttributeType; 9] = [
    Username::TYPE,
    Userhash::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    PasswordAlgorithm::TYPE,
    PasswordAlgorithms::TYPE,
    MessageIntegrity::TYPE,
    MessageIntegritySha256::TYPE,
    Fingerprint::TYPE,
];
