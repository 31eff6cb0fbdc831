//! Whose a STUN message is: requests name their receiver, responses repeat a transaction of a request.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ice::{MessageClass, TransactionId, message_class, transaction_id};
use crate::paths::Slot;

/// Gives each STUN message of the shared socket to the one peer that it can be for.
///
/// Cheap to feed garbage: a look into one of two tables. Whether the message is authentic is for
/// [`Traversal::handle_stun`](crate::Traversal::handle_stun) to say.
#[derive(Debug, Default)]
pub struct StunRouter {
    by_ufrag: HashMap<String, Slot>,
    by_transaction: HashMap<TransactionId, Slot>,
    sent: VecDeque<(Instant, TransactionId)>,
}

impl StunRouter {
    /// Requests that name `ufrag`, this node's own towards that peer, are the peer's.
    pub fn insert(&mut self, ufrag: &str, peer: Slot) {
        self.by_ufrag.insert(ufrag.to_owned(), peer);
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: Slot) {
        self.by_ufrag.retain(|_, slot| *slot != peer);
        self.by_transaction.retain(|_, slot| *slot != peer);
    }

    /// Notes what was sent to the peer, so that the answer is known. Only requests count.
    pub fn sent(&mut self, peer: Slot, payload: &[u8], now: Instant) {
        if message_class(payload) != Some(MessageClass::Request) {
            return;
        }
        let Some(id) = transaction_id(payload) else { return };
        while let Some((at, oldest)) = self.sent.front()
            && (now.duration_since(*at) > REMEMBERED || self.sent.len() >= MAX_SENT)
        {
            self.by_transaction.remove(oldest);
            self.sent.pop_front();
        }
        if self.by_transaction.insert(id, peer).is_none() {
            self.sent.push_back((now, id));
        }
    }

    /// Whose this is; `None`: nobody's, or not STUN.
    pub fn route(&self, datagram: &[u8]) -> Option<Slot> {
        match message_class(datagram)? {
            MessageClass::Request => self.by_ufrag.get(stun_username(datagram)?).copied(),
            MessageClass::Response => self.by_transaction.get(&transaction_id(datagram)?).copied(),
        }
    }
}

/// For whom a Binding request is: the receiver's user name fragment, which comes first in its USERNAME (RFC 8445,
/// 7.2.2). `None` for anything else.
pub fn stun_username(datagram: &[u8]) -> Option<&str> {
    if message_class(datagram) != Some(MessageClass::Request) {
        return None;
    }
    let mut attributes = datagram.get(20..)?;
    // More than a real check has; a bound on the work for one datagram.
    for _ in 0..MAX_ATTRIBUTES {
        let [k0, k1, l0, l1] = *attributes.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = attributes.get(4..4 + length)?;
        if u16::from_be_bytes([k0, k1]) == USERNAME {
            let (ufrag, _) = std::str::from_utf8(value).ok()?.split_once(':')?;
            return Some(ufrag);
        }
        attributes = attributes.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

const USERNAME: u16 = 0x0006;
const MAX_ATTRIBUTES: usize = 16;
/// Longer than any round trip.
const REMEMBERED: Duration = Duration::from_secs(5);
const MAX_SENT: usize = 32_768;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(class: [u8; 2], id: u8, attributes: &[u8]) -> Vec<u8> {
        let mut message = class.to_vec();
        message.extend((attributes.len() as u16).to_be_bytes());
        message.extend([0x21, 0x12, 0xa4, 0x42]);
        message.extend([id; 12]);
        message.extend(attributes);
        message
    }

    fn request(id: u8, username: &str) -> Vec<u8> {
        let mut attributes = vec![0, 0x24, 0, 4, 1, 2, 3, 4, 0, 6];
        attributes.extend((username.len() as u16).to_be_bytes());
        attributes.extend(username.as_bytes());
        attributes.resize(attributes.len().next_multiple_of(4), 0);
        message([0, 1], id, &attributes)
    }

    #[test]
    fn requests_go_by_name_and_responses_by_transaction() {
        let start = Instant::now();
        let mut router = StunRouter::default();
        router.insert("mine1", Slot(1));
        router.insert("mine2", Slot(2));
        assert_eq!(router.route(&request(1, "mine2:theirs")), Some(Slot(2)));
        assert_eq!(router.route(&request(1, "other:theirs")), None);
        let answer = message([1, 1], 7, &[]);
        assert_eq!(router.route(&answer), None);
        router.sent(Slot(1), &request(7, "theirs:mine1"), start);
        assert_eq!(router.route(&answer), Some(Slot(1)));
        assert_eq!(router.route(&message([1, 0x11], 7, &[])), Some(Slot(1)));
        router.sent(Slot(1), &request(8, "theirs:mine1"), start + Duration::from_secs(6));
        assert_eq!(router.route(&answer), None);
        router.remove(Slot(1));
        assert_eq!(router.route(&message([1, 1], 8, &[])), None);
        assert_eq!(router.route(&request(1, "mine1:theirs")), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut router = StunRouter::default();
        for n in 0..MAX_SENT as u32 + 100 {
            let mut sent = request(0, "a:b");
            sent[8..12].copy_from_slice(&n.to_be_bytes());
            router.sent(Slot(1), &sent, start);
        }
        assert_eq!(router.by_transaction.len(), MAX_SENT);
        assert_eq!(router.sent.len(), MAX_SENT);
    }

    proptest! {
        #[test]
        fn garbage_is_nobodys(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), stun in any::<bool>()) {
            let mut router = StunRouter::default();
            router.insert("mine", Slot(1));
            if stun && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
            }
            prop_assert_eq!(router.route(&bytes), None);
        }
    }
}
