//! Binding requests and their answers (RFC 8489, RFC 5780) on the wire.

use std::net::SocketAddr;

use stun_types::attribute::{AttributeType, ErrorCode, MappedSocketAddr, XorMappedAddress};
use stun_types::message::{BINDING, Message, MessageClass};

use super::exchange::Id;
use crate::paths::canonical;

/// From where a server is asked to answer (CHANGE-REQUEST, RFC 5780, 7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AnswerFrom {
    /// From the address that was asked.
    Same,
    /// From another port.
    OtherPort,
    /// From another address and another port.
    OtherAddress,
}

/// What a server answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Answer {
    /// The address that the request came from, as the server saw it.
    pub(crate) mapped: Option<SocketAddr>,
    /// The server's other address (OTHER-ADDRESS).
    pub(crate) other: Option<SocketAddr>,
    /// The address that the server says it answered from (RESPONSE-ORIGIN).
    pub(crate) origin: Option<SocketAddr>,
    /// The code of an error answer.
    pub(crate) error: Option<u16>,
}

/// A Binding request.
pub(crate) fn request(id: &Id, from: AnswerFrom) -> Vec<u8> {
    let flags: Option<u32> = match from {
        AnswerFrom::Same => None,
        AnswerFrom::OtherPort => Some(0b010),
        AnswerFrom::OtherAddress => Some(0b110),
    };
    let length: u16 = if flags.is_some() { 8 } else { 0 };
    let mut request = Vec::with_capacity(28);
    request.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    request.extend_from_slice(&length.to_be_bytes());
    request.extend_from_slice(&MAGIC_COOKIE);
    request.extend_from_slice(id);
    if let Some(flags) = flags {
        request.extend_from_slice(&CHANGE_REQUEST.to_be_bytes());
        request.extend_from_slice(&4u16.to_be_bytes());
        request.extend_from_slice(&flags.to_be_bytes());
    }
    request
}

/// The transaction of a STUN message; `None` if the datagram is none.
pub(crate) fn transaction(datagram: &[u8]) -> Option<Id> {
    let header = datagram.get(..HEADER)?;
    (header[0] < 4 && header[4..8] == MAGIC_COOKIE)
        .then(|| header[8..].try_into().expect("twelve bytes after the cookie"))
}

/// Whether this is a Binding request of this transaction, for a request that comes back to its sender.
pub(crate) fn is_request_of(datagram: &[u8], id: &Id) -> bool {
    datagram.get(..2) == Some(&BINDING_REQUEST.to_be_bytes()) && transaction(datagram).as_ref() == Some(id)
}

/// Reads the answer to a Binding request of this transaction; `None` for anything else. Datagrams of other
/// transactions are not read further than their header.
pub(crate) fn answer(datagram: &[u8], id: &Id) -> Option<Answer> {
    if transaction(datagram).as_ref() != Some(id) {
        return None;
    }
    let message = Message::from_bytes(datagram).ok()?;
    if message.method() != BINDING || !message.is_response() {
        return None;
    }
    if message.class() == MessageClass::Error {
        let code = message.attribute::<ErrorCode>().map_or(UNKNOWN_ERROR, |error| error.code());
        return Some(Answer { error: Some(code), ..Answer::default() });
    }
    let xor_mapped =
        message.attribute::<XorMappedAddress>().ok().map(|mapped| mapped.addr(message.transaction_id()));
    Some(Answer {
        mapped: xor_mapped.map(canonical).filter(usable).or_else(|| address(&message, MAPPED_ADDRESS)),
        other: address(&message, OTHER_ADDRESS).or_else(|| address(&message, CHANGED_ADDRESS)),
        origin: address(&message, RESPONSE_ORIGIN).or_else(|| address(&message, SOURCE_ADDRESS)),
        error: None,
    })
}

fn address(message: &Message<'_>, kind: u16) -> Option<SocketAddr> {
    let raw = message.raw_attribute(AttributeType::new(kind))?;
    MappedSocketAddr::from_raw(&raw).ok().map(|address| canonical(address.addr())).filter(usable)
}

fn usable(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// Length of the header of a STUN message.
pub(crate) const HEADER: usize = 20;
/// The fixed bytes 4 to 8 of every STUN message.
pub(crate) const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const BINDING_REQUEST: u16 = 0x0001;
const MAPPED_ADDRESS: u16 = 0x0001;
const CHANGE_REQUEST: u16 = 0x0003;
/// RFC 3489, for old servers.
const SOURCE_ADDRESS: u16 = 0x0004;
/// RFC 3489, for old servers.
const CHANGED_ADDRESS: u16 = 0x0005;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;
/// Stands for an error answer without a code.
const UNKNOWN_ERROR: u16 = 0;
