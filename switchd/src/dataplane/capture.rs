//! Copies of frames for `switchctl capture`.

use std::time::SystemTime;

use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::view::{CaptureFilter, CapturedFrame, Direction};

/// The captures that run.
#[derive(Debug, Default)]
pub(super) struct Captures {
    running: Vec<Capture>,
}

#[derive(Debug)]
struct Capture {
    filter: CaptureFilter,
    to: Sender<CapturedFrame>,
    missed: u64,
}

impl Captures {
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn add(&mut self, filter: CaptureFilter, to: Sender<CapturedFrame>) {
        self.running.push(Capture { filter, to, missed: 0 });
    }

    /// Hands the frame made of `parts` to the captures whose filter it passes, and forgets those that ended.
    pub(super) fn offer(
        &mut self,
        time: SystemTime,
        network: &str,
        direction: Direction,
        peer: Option<&str>,
        parts: &[&[u8]],
    ) {
        self.running.retain_mut(|capture| {
            let filter = &capture.filter;
            if filter.network.as_deref().is_some_and(|wanted| wanted != network)
                || filter.direction.is_some_and(|wanted| wanted != direction)
            {
                return !capture.to.is_closed();
            }
            let mut room = filter.snaplen as usize;
            let mut bytes = Vec::new();
            for part in parts {
                let take = part.len().min(room);
                bytes.extend_from_slice(&part[..take]);
                room -= take;
            }
            let frame = CapturedFrame {
                time,
                network: network.to_owned(),
                direction,
                peer: peer.map(str::to_owned),
                bytes,
                original_len: parts.iter().map(|part| part.len() as u32).sum(),
                missed: capture.missed,
            };
            match capture.to.try_send(frame) {
                Ok(()) => capture.missed = 0,
                Err(TrySendError::Full(_)) => capture.missed += 1,
                Err(TrySendError::Closed(_)) => return false,
            }
            true
        });
    }

    /// Forgets the captures that ended.
    pub(super) fn sweep(&mut self) {
        self.running.retain(|capture| !capture.to.is_closed());
    }
}
