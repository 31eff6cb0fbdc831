//! Tokens of the API and idempotency keys.

use crate::{
    changes::EventKind,
    command::{IdempotencyClaim, Outcome},
    ids::{ApiTokenId, SecretHash},
    names::{check_name, shown},
    records::{ApiToken, IdempotencyKey, RecordKey, Role},
    refusal::Refusal,
    registry::Registry,
};

/// Idempotency keys of all callers; the ones that end first make room.
const IDEMPOTENCY_KEYS_MAX: usize = 10_000;

impl Registry {
    pub(crate) fn create_api_token(
        &mut self,
        name: String,
        role: Role,
        secret_hash: SecretHash,
        ttl_ms: Option<u64>,
    ) -> Result<Outcome, Refusal> {
        check_name("name", &name, 63, ApiTokenId::PREFIX)?;
        if self.api_tokens.values().any(|t| t.name == name) {
            return Err(Refusal::conflict(format!("a token named `{name}` exists; choose another name")));
        }
        if self.api_tokens.values().any(|t| t.secret_hash == secret_hash) {
            return Err(Refusal::conflict("a token with this secret exists; make another secret"));
        }
        let id = ApiTokenId(self.next_number(|c| &mut c.api_token));
        self.event(EventKind::AccessChanged, id, format!("API token {name} was made"));
        let expires = ttl_ms.map(|ttl| self.now.plus(ttl));
        self.api_tokens.insert(id, ApiToken { id, name, role, secret_hash, expires, created: self.now });
        self.mark(RecordKey::ApiToken(id));
        Ok(Outcome::ApiToken(id))
    }

    pub(crate) fn delete_api_token(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        let by_id = reference.parse().ok().and_then(|id: ApiTokenId| self.api_tokens.get(&id));
        let found = by_id.or_else(|| self.api_tokens.values().find(|t| t.name == reference));
        let (id, name) = found
            .map(|t| (t.id, t.name.clone()))
            .ok_or_else(|| Refusal::not_found("API token", &shown(reference)))?;
        self.api_tokens.remove(&id);
        self.mark(RecordKey::ApiToken(id));
        self.event(EventKind::AccessChanged, id, format!("API token {name} was deleted"));
        Ok(Outcome::Done)
    }

    /// The token with this secret, unless it has expired.
    #[must_use]
    pub fn api_token_by_secret(&self, secret_hash: &SecretHash, now: crate::Timestamp) -> Option<&ApiToken> {
        let good = |t: &&ApiToken| t.secret_hash == *secret_hash && t.expires.is_none_or(|at| at > now);
        self.api_tokens.values().find(good)
    }

    /// What a caller's idempotency key stands for, unless it has expired.
    #[must_use]
    pub fn idempotency_key(
        &self,
        principal: &str,
        key: &str,
        now: crate::Timestamp,
    ) -> Option<&IdempotencyKey> {
        let found = self.idempotency_keys.get(&(principal.to_owned(), key.to_owned()))?;
        (found.expires > now).then_some(found)
    }

    pub(crate) fn put_idempotency_key(&mut self, key: IdempotencyKey) -> Outcome {
        let id = (key.principal.clone(), key.key.clone());
        while self.idempotency_keys.len() >= IDEMPOTENCY_KEYS_MAX && !self.idempotency_keys.contains_key(&id)
        {
            let first = self.idempotency_keys.iter().min_by_key(|(_, k)| k.expires).map(|(id, _)| id.clone());
            let Some(first) = first else { break };
            self.idempotency_keys.remove(&first);
            self.mark(RecordKey::IdempotencyKey(first.0, first.1));
        }
        self.mark(RecordKey::IdempotencyKey(id.0.clone(), id.1.clone()));
        self.idempotency_keys.insert(id, key);
        Outcome::Done
    }

    /// The answer of an earlier call with this key.
    pub(crate) fn replay(
        &self,
        principal: &str,
        claim: &IdempotencyClaim,
    ) -> Result<Option<IdempotencyKey>, Refusal> {
        if claim.key.is_empty() || claim.key.len() > 255 {
            return Err(Refusal::invalid("Idempotency-Key", "use 1 to 255 characters"));
        }
        match self.idempotency_key(principal, &claim.key, self.now) {
            None => Ok(None),
            Some(stored) if stored.request_hash == claim.request_hash => Ok(Some(stored.clone())),
            Some(_) => Err(Refusal::conflict(
                "this idempotency key was used for another call; use a new key for each call",
            )),
        }
    }

    /// Kept with the call's own changes: after a crash a repetition finds either both or neither.
    pub(crate) fn keep_outcome(&mut self, claim: IdempotencyClaim, outcome: &Outcome) {
        let expires = self.now.plus(claim.ttl_ms);
        let principal = self.principal.clone();
        let (key, request_hash, outcome) = (claim.key, claim.request_hash, Some(outcome.clone()));
        self.put_idempotency_key(IdempotencyKey {
            key,
            principal,
            request_hash,
            outcome,
            status: 0,
            body: String::new(),
            expires,
        });
    }

    pub(crate) fn expire_access(&mut self) {
        let now = self.now;
        let expired: Vec<_> = self
            .idempotency_keys
            .iter()
            .filter(|(_, k)| k.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.idempotency_keys.remove(&id);
            self.mark(RecordKey::IdempotencyKey(id.0, id.1));
        }
        let expired: Vec<_> = self
            .api_tokens
            .values()
            .filter(|t| t.expires.is_some_and(|at| at <= now))
            .map(|t| t.id)
            .collect();
        for id in expired {
            self.api_tokens.remove(&id);
            self.mark(RecordKey::ApiToken(id));
        }
    }
}
