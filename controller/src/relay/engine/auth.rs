//! Who asks: long-term credentials (RFC 8489, 9.2) whose usernames carry their own end and their node.

use controller_registry::NodeId;
use stun_types::attribute::{ErrorCode, MessageIntegrity, Nonce, Realm, Username};
use stun_types::message::{IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message};
use stun_types::prelude::*;

use super::super::REALM;
use super::super::counters::Refused;
use super::super::limits::EACH;
use super::super::secret::parse_username;
use super::{Client, Engine, Now, answer};

/// A node that proved to be it.
pub(super) struct Proved {
    pub(super) node: NodeId,
    /// Answers are signed with it.
    pub(super) key: IntegrityKey,
}

/// Nobody proved anything: what to answer, if that.
pub(super) struct Unproved(pub(super) Option<Vec<u8>>);

impl Engine {
    /// The cheap checks come first.
    pub(super) fn authenticate(
        &mut self,
        client: &Client,
        request: &Message<'_>,
        now: Now,
    ) -> Result<Proved, Unproved> {
        if !request.has_attribute(MessageIntegrity::TYPE) {
            return Err(self.challenge(client, request, ErrorCode::UNAUTHORIZED, now));
        }
        let username = request.attribute::<Username>().ok();
        let nonce = request.attribute::<Nonce>().ok();
        let (Some(username), Some(nonce), Ok(realm)) = (username, nonce, request.attribute::<Realm>()) else {
            let allowed = self.answers_unproven(client, now);
            return Err(Unproved(allowed.then(|| answer::error(request, ErrorCode::BAD_REQUEST, None))));
        };
        if !self.nonces.is_fresh(nonce.nonce(), client.source, now.unix) {
            return Err(self.challenge(client, request, ErrorCode::STALE_NONCE, now));
        }
        let proved =
            (realm.realm() == REALM).then(|| self.prove(client, username.username(), request, now)).flatten();
        proved.ok_or_else(|| {
            self.counters.refuse(Refused::Credentials);
            self.challenge(client, request, ErrorCode::UNAUTHORIZED, now)
        })
    }

    /// Expired credentials serve the node's allocation that stands: ending it in use would cut a path for nothing, as
    /// long as the node is one.
    fn prove(&self, client: &Client, username: &str, request: &Message<'_>, now: Now) -> Option<Proved> {
        let (expires, node) = parse_username(username)?;
        let stands = || {
            let allocation = self.by_client.get(client).and_then(|id| self.allocations.get(id));
            allocation.is_some_and(|allocation| allocation.node == node && allocation.expires > now.at)
        };
        if !(self.setup.is_node)(node) || (expires <= now.unix && !stands()) {
            return None;
        }
        let password = self.setup.secret.password(username);
        let credentials = LongTermKeyCredentials::new(username.to_owned(), password, REALM.to_owned());
        let key = credentials.make_key(IntegrityAlgorithm::Sha1);
        request.validate_integrity_with_key(&key).ok()?;
        Some(Proved { node, key })
    }

    fn challenge(&mut self, client: &Client, request: &Message<'_>, code: u16, now: Now) -> Unproved {
        if !self.answers_unproven(client, now) {
            return Unproved(None);
        }
        let nonce = self.nonces.make(client.source, now.unix);
        Unproved(Some(answer::challenge(request, code, &nonce)))
    }

    pub(super) fn answers_unproven(&mut self, client: &Client, now: Now) -> bool {
        let own = self.by_client.get(client).and_then(|id| self.allocations.get_mut(id));
        let allowed = match own {
            // A node that has an allocation is no stranger: what strangers are answered is not at its expense.
            Some(allocation) => allocation.answers.take(EACH, now.at),
            None => self.unproven.allow(client.source.ip(), now.at),
        };
        if !allowed {
            self.counters.refuse(Refused::RateLimited);
        }
        allowed
    }
}
