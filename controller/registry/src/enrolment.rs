//! Join tokens and the keys that nodes are known by.

use crate::{
    changelog::Entry,
    changes::EventKind,
    command::{KeyStatus, Outcome},
    ids::{NodeId, PublicKey, SecretHash, TokenId},
    records::{NodeState, OperationState, Provision, RecordKey, Token},
    refusal::Refusal,
    registry::Registry,
};

/// Spent and expired tokens are kept so long, so that their holders are told what is wrong with them.
const KEEP_TOKENS_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// The longest time that a token may be good for.
const TTL_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;

impl Registry {
    /// Whose a key is.
    #[must_use]
    pub fn key_status(&self, key: &PublicKey) -> KeyStatus {
        let Some(node) = self.index.keys.get(key) else { return KeyStatus::Unknown };
        match self.nodes.get(node) {
            Some(n) if n.is_member() && n.public_key == Some(*key) => KeyStatus::Node(*node),
            _ => KeyStatus::Revoked(*node),
        }
    }

    pub(crate) fn check_free_key(&self, key: &PublicKey) -> Result<(), Refusal> {
        match self.key_status(key) {
            KeyStatus::Unknown => Ok(()),
            KeyStatus::Node(node) => Err(Refusal::forbidden(
                "key-known",
                format!("this key is {node}'s already; make a key of your own"),
            )),
            KeyStatus::Revoked(node) => Err(Refusal::forbidden(
                "key-revoked",
                format!("this key was {node}'s and is revoked; make a new key and join with a new token"),
            )),
        }
    }

    pub(crate) fn check_ttl(&self, ttl_ms: u64) -> Result<(), Refusal> {
        if ttl_ms == 0 || ttl_ms > TTL_MAX_MS {
            return Err(Refusal::invalid("ttl", "a join token is good for more than 0 and at most 30 days"));
        }
        Ok(())
    }

    pub(crate) fn check_secret(&self, secret_hash: &SecretHash) -> Result<(), Refusal> {
        if self.tokens.values().any(|t| t.secret_hash == *secret_hash) {
            return Err(Refusal::conflict("a join token with this secret exists; make another secret"));
        }
        Ok(())
    }

    pub(crate) fn new_token(&mut self, node: NodeId, secret_hash: SecretHash, ttl_ms: u64) -> TokenId {
        let id = TokenId(self.next_number(|c| &mut c.token));
        self.put_token(Token { id, node, secret_hash, expires: self.now.plus(ttl_ms), used_at: None });
        id
    }

    pub(crate) fn renew_token(
        &mut self,
        reference: &str,
        secret_hash: SecretHash,
        ttl_ms: u64,
    ) -> Result<Outcome, Refusal> {
        let node = self.live_node(reference)?;
        let id = node.id;
        // A provider whose answer was lost makes the machine anew, with a key of its own.
        let made_anew = node.state == NodeState::Enrolled && node.provision == Provision::Creating;
        if node.state != NodeState::Invited && !made_anew {
            return Err(Refusal::conflict(format!(
                "{id} has enrolled already; add another node for another machine"
            )));
        }
        self.check_ttl(ttl_ms)?;
        self.check_secret(&secret_hash)?;
        self.spend_tokens(id);
        let token = self.new_token(id, secret_hash, ttl_ms);
        self.event(EventKind::NodeUpdated, id, "its join token was replaced");
        Ok(Outcome::Token { node: id, token })
    }

    /// No token of the node is good any more.
    pub(crate) fn spend_tokens(&mut self, node: NodeId) {
        let open: Vec<Token> =
            self.tokens.values().filter(|t| t.node == node && t.used_at.is_none()).cloned().collect();
        for token in open {
            self.put_token(Token { used_at: Some(self.now), ..token });
        }
    }

    pub(crate) fn enrol(
        &mut self,
        secret_hash: SecretHash,
        public_key: PublicKey,
        name_hint: &str,
    ) -> Result<Outcome, Refusal> {
        let Some(token) = self.tokens.values().find(|t| t.secret_hash == secret_hash).cloned() else {
            return Err(Refusal::forbidden(
                "token-unknown",
                "this join token is not one of the cluster's; ask for a new one",
            ));
        };
        let id = token.node;
        let Some(mut node) = self.nodes.get(&id).cloned() else {
            return Err(Refusal::not_found("node", &id.to_string()));
        };
        // The answer to the first time may have been lost.
        if token.used_at.is_some() && node.is_member() && node.public_key == Some(public_key) {
            return Ok(self.enrolled(id));
        }
        if token.used_at.is_some() {
            return Err(Refusal::forbidden(
                "token-used",
                format!("this join token of {id} was used or replaced; ask for a new one"),
            ));
        }
        if token.expires <= self.now {
            return Err(Refusal::forbidden(
                "token-expired",
                format!("this join token of {id} has expired; ask for a new one"),
            ));
        }
        self.check_free_key(&public_key)?;
        if node.name == id.to_string() && self.check_node_name(name_hint).is_ok() {
            name_hint.clone_into(&mut node.name);
        }
        node.previous_keys.extend(node.public_key.replace(public_key));
        node.state = NodeState::Enrolled;
        node.enrolled_at = Some(self.now);
        self.put_node(node);
        self.spend_tokens(id);
        self.log_change(Entry::Peer(id));
        self.place_new_host(id);
        self.event(EventKind::NodeEnrolled, id, "it enrolled with its key");
        self.advance_addition(id);
        Ok(self.enrolled(id))
    }

    fn enrolled(&self, node: NodeId) -> Outcome {
        let name = self.nodes.get(&node).map(|n| n.name.clone()).unwrap_or_default();
        let cluster = self.cluster.as_ref().map(|c| c.name.clone()).unwrap_or_default();
        Outcome::Enrolled { node, name, cluster }
    }

    /// Nodes that a provider made, or makes, and that did not come in time are given up.
    pub(crate) fn expire_invitations(&mut self) {
        let open =
            |id| self.tokens.values().any(|t| t.node == id && t.used_at.is_none() && t.expires > self.now);
        let late: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|n| n.state == NodeState::Invited && n.operation.is_some() && !open(n.id))
            .map(|n| n.id)
            .collect();
        for node in late {
            let why = "it did not enrol before its join token expired";
            self.abandon_node(node, OperationState::Failed, why);
        }
    }

    pub(crate) fn expire_tokens(&mut self) {
        let old: Vec<TokenId> = self
            .tokens
            .values()
            .filter(|t| self.now.since(t.expires) > KEEP_TOKENS_MS)
            .map(|t| t.id)
            .collect();
        for id in old {
            self.tokens.remove(&id);
            self.mark(RecordKey::Token(id));
        }
    }
}
