//! What the relay sends: data, answers, refusals.

use std::time::Instant;

use stun_proto::auth::LongTermClientValidation;
use stun_types::attribute::{ErrorCode, XorMappedAddress};
use stun_types::message::{Message, MessageClass};
use turn_client_proto::api::{Transmit, TurnClientApi};

use super::ledger::{Asked, Entry};
use super::why::{LostReason, PeerRefusal};
use super::words::RelayEvent;
use super::{LOCAL, RelayClient, State, frame};
use crate::paths::canonical;
use crate::stun::binding;

impl RelayClient {
    /// Takes in one message of the relay; `false` if it is not for this client.
    pub(super) fn handle_message(&mut self, message: &[u8], now: Instant) -> bool {
        if matches!(self.state, State::Lost | State::Closing) {
            return false;
        }
        if let Some((channel, payload)) = frame::parse_channel(message) {
            let Some(peer) = self.peers.peer(channel) else { return false };
            self.events.push_back(RelayEvent::PeerData { peer, payload: payload.to_vec() });
            return true;
        }
        if let Some((peer, payload)) = frame::parse_data_indication(message) {
            let known = self.peers.is_permitted(peer.ip());
            if known {
                self.events.push_back(RelayEvent::PeerData { peer, payload: message[payload].to_vec() });
            }
            return known;
        }
        let Some(id) = binding::transaction(message) else { return false };
        if let Some(removal) = self.check.is_mine(&id) {
            self.handle_check(message, removal, now);
            return true;
        }
        let Some(entry) = self.ledger.take(&id) else { return false };
        let Ok(parsed) = Message::from_bytes(message) else { return true };
        if !parsed.is_response() {
            return true;
        }
        let code = error_code(&parsed);
        self.heard = Some(code.unwrap_or(0));
        match code {
            Some(code) if code == STALE_NONCE || (code == CHALLENGE && !entry.signed) => {
                self.signers.hear_challenge(&parsed);
            }
            Some(code) => self.handle_refusal(entry, code, now),
            None if entry.asked == Asked::Allocate => {
                let mapped = parsed.attribute::<XorMappedAddress>().ok();
                self.mapped = mapped.map(|mapped| canonical(mapped.addr(parsed.transaction_id())));
            }
            None => {}
        }
        if matches!(self.state, State::Allocating | State::Allocated(_)) {
            let message = self.signers.incoming(message, &parsed);
            let transmit = Transmit::new(message, self.turn.transport(), self.config.server, LOCAL);
            let _ = self.turn.recv(transmit, self.turn_time(now));
        }
        true
    }

    /// The answer to the check, or to the request that the allocation be removed.
    fn handle_check(&mut self, message: &[u8], removal: bool, now: Instant) {
        let Ok(parsed) = Message::from_bytes(message) else { return };
        match (error_code(&parsed), self.signers.tried().validate_incoming_message(&parsed)) {
            (Some(CHALLENGE | STALE_NONCE), Ok(LongTermClientValidation::ResendRequest(_)))
                if self.check.sign_anew(self.signers.tried(), now) => {}
            (None, Ok(LongTermClientValidation::Validated(_))) if removal => self.lose(LostReason::Leftover),
            (None, Ok(LongTermClientValidation::Validated(_))) => {
                self.signers.accept();
                self.check.passed(now);
            }
            // Not from the relay: only that knows the password.
            (None, _) => {}
            (Some(_), _) if removal => self.lose(LostReason::Occupied),
            (Some(CHALLENGE | WRONG_CREDENTIALS), _) if self.signers.reject() => self.check.passed(now),
            // What some servers answer to a nonce of before their start.
            (Some(BAD_REQUEST), _) => self.lose(LostReason::Forgotten),
            (Some(code), _) => self.lose(LostReason::of_code(code)),
        }
    }

    fn handle_refusal(&mut self, entry: Entry, code: u16, now: Instant) {
        match (entry.asked, code) {
            (Asked::Allocate, MISMATCH) => {
                self.state = State::Removing;
                if !self.check.remove(self.signers.in_use(), now) {
                    self.lose(LostReason::Occupied);
                }
            }
            (Asked::Allocate | Asked::Refresh, _) | (_, CHALLENGE | MISMATCH | WRONG_CREDENTIALS) => {
                self.lose(LostReason::of_code(code));
            }
            (Asked::Permit(ip), _) => self.fail_permit(ip, PeerRefusal::of_code(code)),
            (Asked::Bind(peer), _) => self.fail_bind(peer, PeerRefusal::of_code(code)),
        }
    }
}

pub(super) fn error_code(message: &Message<'_>) -> Option<u16> {
    message
        .has_class(MessageClass::Error)
        .then(|| message.attribute::<ErrorCode>().map_or(0, |error| error.code()))
}

const BAD_REQUEST: u16 = 400;
const CHALLENGE: u16 = 401;
const MISMATCH: u16 = 437;
const STALE_NONCE: u16 = 438;
const WRONG_CREDENTIALS: u16 = 441;
