//! The check of the network that people ask for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nat_traversal::{NatReport, NetCheck, NetCheckConfig, Route};
use tokio::sync::oneshot;

use super::Hub;

impl Hub {
    pub(super) fn begin_netcheck(&mut self, to: oneshot::Sender<NatReport>, now: Instant) {
        if let Some((_, waiting)) = &mut self.netcheck {
            return waiting.push(to);
        }
        self.checked.take_if(|(at, ..)| now.saturating_duration_since(*at) >= FILTER_STATE);
        let earlier = self.checked.iter().flat_map(|(_, contacted, _)| contacted.iter().copied());
        let config = NetCheckConfig {
            servers: self.mapped.servers().collect(),
            own: self.sources.host.iter().map(SocketAddr::ip).collect(),
            local_port: self.listen.port(),
            contacted: self.mapped.servers().chain(earlier).collect(),
        };
        self.netcheck = Some((NetCheck::new(config, now), vec![to]));
    }

    pub(super) fn drive_netcheck(&mut self, now: Instant) {
        let Some((netcheck, _)) = &mut self.netcheck else { return };
        while let Some((to, datagram)) = netcheck.poll_transmit(now) {
            let _ = self.underlay.send_by(Route::Direct(to), &datagram);
        }
        if netcheck.is_done()
            && let Some((netcheck, waiting)) = self.netcheck.take()
        {
            let mut report = netcheck.report();
            if let Some((_, _, earlier)) = &self.checked {
                report.inherit_filtering(earlier);
            }
            for to in waiting {
                // Who asked may be gone.
                let _ = to.send(report.clone());
            }
            self.checked = Some((now, netcheck.contacted(), report));
        }
    }
}

/// A NAT has forgotten by then whom a check of before has sent to.
const FILTER_STATE: Duration = Duration::from_secs(600);
