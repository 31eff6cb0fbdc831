//! Answers, byte for byte.

use std::net::{IpAddr, SocketAddr};

use stun_types::attribute::{
    AttributeType, ErrorCode, Nonce, RawAttribute, Realm, Software, UnknownAttributes,
};
use stun_types::message::{IntegrityAlgorithm, IntegrityKey, Message, MessageWriteVec};
use stun_types::prelude::*;

use super::super::REALM;

/// A success, signed if there is a key.
pub(super) fn success(
    request: &Message<'_>,
    attributes: &[&dyn AttributeWrite],
    key: Option<&IntegrityKey>,
) -> Vec<u8> {
    finish(Message::builder_success(request, MessageWriteVec::with_capacity(CAPACITY)), attributes, key)
}

/// An error with its code's own words.
pub(super) fn error(request: &Message<'_>, code: u16, key: Option<&IntegrityKey>) -> Vec<u8> {
    finish(builder(request, code), &[], key)
}

/// Says which attributes of the request are unknown.
pub(super) fn unknown(
    request: &Message<'_>,
    attributes: &[AttributeType],
    key: Option<&IntegrityKey>,
) -> Vec<u8> {
    finish(builder(request, ErrorCode::UNKNOWN_ATTRIBUTE), &[&UnknownAttributes::new(attributes)], key)
}

/// Asks for credentials, with this nonce.
pub(super) fn challenge(request: &Message<'_>, code: u16, nonce: &str) -> Vec<u8> {
    let realm = Realm::new(REALM).expect("the realm is short");
    let nonce = Nonce::new(nonce).expect("nonces are short");
    finish(builder(request, code), &[&realm, &nonce], None)
}

/// An address as RFC 5780 has it: plain.
pub(super) fn plain_address(kind: u16, address: SocketAddr) -> RawAttribute<'static> {
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend(address.port().to_be_bytes());
    value.extend(ip);
    RawAttribute::new_owned(AttributeType::new(kind), value.into())
}

fn builder(request: &Message<'_>, code: u16) -> MessageWriteVec {
    let mut builder = Message::builder_error(request, MessageWriteVec::with_capacity(CAPACITY));
    let reason = ErrorCode::default_reason_for_code(code);
    let error = ErrorCode::new(code, reason).expect("the code is one of STUN's");
    builder.add_attribute(&error).expect(ONCE);
    builder
}

fn finish(
    mut builder: MessageWriteVec,
    attributes: &[&dyn AttributeWrite],
    key: Option<&IntegrityKey>,
) -> Vec<u8> {
    for attribute in attributes {
        builder.add_attribute(*attribute).expect(ONCE);
    }
    if let Some(key) = key {
        builder.add_attribute(&Software::new("switchd controller").expect("it is short")).expect(ONCE);
        builder.add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1).expect(ONCE);
    }
    builder.add_fingerprint().expect(ONCE);
    builder.finish()
}

const CAPACITY: usize = 160;
const ONCE: &str = "each attribute is added once, and those that end a message last";
