//! QUIC's congestion control where its datagrams carry frames: none but a bound. The TCP of the instances controls the
//! rate; two controls on one path work against each other.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Makes [`Unthrottled`] controllers.
#[derive(Debug)]
pub(super) struct UnthrottledFactory;

impl ControllerFactory for UnthrottledFactory {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Unthrottled { in_flight: 0 })
    }
}

/// A window that is as good as none while acknowledgements come, and closed while [`BOUND`] bytes wait for theirs: a
/// path that has died takes no memory without end.
#[derive(Clone, Debug)]
struct Unthrottled {
    in_flight: u64,
}

impl Controller for Unthrottled {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    fn on_end_acks(&mut self, _now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.in_flight = in_flight;
    }

    fn on_ack(
        &mut self,
        _now: Instant,
        _sent: Instant,
        _bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _persistent: bool, lost_bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        if self.in_flight < BOUND { OPEN } else { CLOSED }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        OPEN
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Beyond 32 bits, where quinn paces no more.
const OPEN: u64 = 1 << 40;
/// Not zero, by which the pacer divides.
const CLOSED: u64 = 1;
/// Bytes without an acknowledgement: 800 MB/s with a round trip of 80 ms.
const BOUND: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_open_until_too_much_waits_for_an_acknowledgement() {
        let now = Instant::now();
        let mut controller = Arc::new(UnthrottledFactory).build(now, 1200);
        for sent in 0..BOUND / 1200 {
            assert!(controller.window() > u64::from(u32::MAX), "{sent} packets: no pacing");
            controller.on_sent(now, 1200, sent);
        }
        controller.on_sent(now, 1200, 0);
        assert!(controller.window() < 1200);
        controller.on_congestion_event(now, now, true, 12_000);
        assert!(controller.window() > BOUND, "what is lost waits no more");
        controller.on_sent(now, 12_000, 0);
        controller.on_end_acks(now, 5000, false, None);
        assert!(controller.window() > BOUND);
    }
}
