//! Datagrams one after the other to the same place, for one system call.

use std::net::SocketAddr;

use super::super::engine::{AllocationId, Client};

/// Where something goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Client(Client),
    /// By itself: answers are for strangers too, and what becomes of them is nobody else's.
    Answer(Client),
    /// From the alternate port.
    Alternate(Client),
    /// From an allocation's socket.
    Peer(AllocationId, SocketAddr),
}

/// What is not sent yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    target: Option<Target>,
    bytes: Vec<u8>,
    /// The size of each datagram but the last one.
    segment: usize,
    count: usize,
    /// The last one was shorter: nothing may follow it.
    closed: bool,
}

impl Batch {
    /// Adds what `write` appends; `send` takes what was there before, if the two cannot go together.
    pub(super) fn push(
        &mut self,
        target: Target,
        write: impl FnOnce(&mut Vec<u8>),
        send: impl Fn(Target, &[u8], usize),
    ) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - before;
        // Datagrams may be empty, segments may not: nobody seals nothing, so nobody misses it.
        if length == 0 {
            return;
        }
        let is_stream = matches!(target, Target::Client(Client { stream: Some(_), .. }));
        let fits = self.target == Some(target)
            && !matches!(target, Target::Answer(_) | Target::Alternate(_))
            && self.bytes.len() <= MAX_BYTES
            && (is_stream || (!self.closed && length <= self.segment && self.count < MAX_SEGMENTS));
        if fits {
            self.count += 1;
            self.closed = length < self.segment;
            return;
        }
        if let Some(earlier) = self.target {
            send(earlier, &self.bytes[..before], self.segment);
        }
        self.bytes.drain(..before);
        (self.target, self.segment, self.count, self.closed) = (Some(target), length, 1, false);
    }

    /// Sends what is there.
    pub(super) fn flush(&mut self, send: impl Fn(Target, &[u8], usize)) {
        if let Some(target) = self.target.take() {
            send(target, &self.bytes, self.segment);
        }
        self.bytes.clear();
    }
}

/// What one UDP send holds, with room for headers.
const MAX_BYTES: usize = 65_000;
const MAX_SEGMENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    proptest! {
        #[test]
        fn every_datagram_leaves_whole_in_its_order_and_to_its_target(
            datagrams in proptest::collection::vec((0..3_u64, 1..1500_usize), 0..200)
        ) {
            let sent = RefCell::new(Vec::new());
            let take = |target: Target, bytes: &[u8], segment: usize| {
                assert!(!bytes.is_empty() && bytes.len() <= MAX_BYTES && bytes.len().div_ceil(segment) <= MAX_SEGMENTS);
                sent.borrow_mut().extend(bytes.chunks(segment).map(|datagram| (target, datagram.to_vec())));
            };
            let target = |number| Target::Peer(AllocationId(number), "192.0.2.1:9".parse().unwrap());
            let content = |i: usize, length| vec![u8::try_from(i % 251).unwrap(); length];
            let mut batch = Batch::default();
            for (i, (number, length)) in datagrams.iter().enumerate() {
                batch.push(target(*number), |out| out.extend(content(i, *length)), take);
            }
            batch.flush(take);
            let wanted =
                datagrams.iter().enumerate().map(|(i, (number, length))| (target(*number), content(i, *length)));
            prop_assert_eq!(sent.into_inner(), wanted.collect::<Vec<_>>());
        }
    }
}
