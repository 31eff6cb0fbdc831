//! A relay's messages on a stream (RFC 8656, 12.5; RFC 8489, 6.2.2).

use super::frame::{CHANNEL_HEADER, CHANNELS, stream_padding};
use crate::stun::binding::{HEADER, MAGIC_COOKIE};

/// Cuts the bytes of a stream to a relay into messages.
#[derive(Debug, Default)]
pub struct StreamSplitter {
    buffer: Vec<u8>,
    start: usize,
}

/// The stream holds something that is no message: it cannot be read any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the relay's stream holds bytes that begin no message: the connection must be made anew")]
pub struct StreamError;

impl StreamSplitter {
    /// Takes in what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without the stream's padding: a STUN message or ChannelData. At most one message
    /// of 64 KiB and what was pushed last is ever kept.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, StreamError> {
        let rest = &self.buffer[self.start..];
        let Some(head) = rest.first_chunk::<CHANNEL_HEADER>() else { return Ok(None) };
        let first = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (message, padding) = match head[0] {
            0..=3 if length.is_multiple_of(4) => (HEADER + length, 0),
            _ if CHANNELS.contains(&first) => (CHANNEL_HEADER + length, stream_padding(length)),
            _ => return Err(StreamError),
        };
        if head[0] < 4 && rest.get(4..8).is_some_and(|cookie| cookie != MAGIC_COOKIE) {
            return Err(StreamError);
        }
        if rest.len() < message + padding {
            return Ok(None);
        }
        let start = self.start;
        self.start += message + padding;
        Ok(Some(&self.buffer[start..start + message]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::frame::channel_header;
    use proptest::prelude::*;

    fn stun(body: usize) -> Vec<u8> {
        let mut message = vec![0, 1];
        message.extend_from_slice(&(body as u16).to_be_bytes());
        message.extend_from_slice(&MAGIC_COOKIE);
        message.resize(HEADER + body, 7);
        message
    }

    fn channel(payload: &[u8]) -> Vec<u8> {
        let mut message = channel_header(0x4abc, payload.len() as u16).to_vec();
        message.extend_from_slice(payload);
        message
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
            kinds in prop::collection::vec((any::<bool>(), 0usize..300), 1..40),
            cuts in prop::collection::vec(1usize..100, 1..50),
        ) {
            let mut wire = Vec::new();
            let mut sent = Vec::new();
            for (is_stun, length) in kinds {
                let message = if is_stun { stun(length / 4 * 4) } else { channel(&vec![9; length]) };
                wire.extend_from_slice(&message);
                wire.resize(wire.len().next_multiple_of(4), 0);
                sent.push(message);
            }
            let mut splitter = StreamSplitter::default();
            let mut got = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                splitter.push(now);
                while let Some(message) = splitter.next_message().unwrap() {
                    got.push(message.to_vec());
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut splitter = StreamSplitter::default();
            splitter.push(&bytes);
            while let Ok(Some(_)) = splitter.next_message() {}
        }
    }

    #[test]
    fn what_is_no_message_ends_the_stream() {
        for bytes in
            [&b"SSH-2.0"[..], &[0x16, 3, 1, 0], &[0, 1, 0, 3], &[0, 1, 0, 0, 9, 9, 9, 9], &[0x50, 0, 0, 0]]
        {
            let mut splitter = StreamSplitter::default();
            splitter.push(bytes);
            assert_eq!(splitter.next_message(), Err(StreamError), "{bytes:?}");
        }
    }
}
