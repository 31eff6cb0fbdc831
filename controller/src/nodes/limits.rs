//! How often is too often.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A bucket of tokens that fills at a steady rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn full(size: f64, now: Instant) -> Bucket {
        Bucket { tokens: size, filled: now }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, size: f64, per_second: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * per_second).min(size);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn is_full(self, size: f64, per_second: f64, now: Instant) -> bool {
        self.tokens + now.saturating_duration_since(self.filled).as_secs_f64() * per_second >= size
    }
}

/// A bucket for each address: a whole /64 counts as one, since it is one owner's.
#[derive(Debug)]
pub(super) struct PerAddress {
    per_minute: u32,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl PerAddress {
    pub(super) fn new(per_minute: u32) -> PerAddress {
        PerAddress { per_minute, buckets: Mutex::default() }
    }

    /// Whether the address may try once more now.
    pub(super) fn allow(&self, address: IpAddr, now: Instant) -> bool {
        let size = f64::from(self.per_minute);
        let per_second = size / 60.0;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS {
            buckets.retain(|_, bucket| !bucket.is_full(size, per_second, now));
        }
        let owner = owner(address);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&owner) {
            return false;
        }
        buckets.entry(owner).or_insert_with(|| Bucket::full(size, now)).take(size, per_second, now)
    }
}

fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

const MAX_BUCKETS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_address_that_tries_too_often_waits_and_others_do_not() {
        let (limit, now) = (PerAddress::new(3), Instant::now());
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert!(limit.allow(one, now) && limit.allow(mapped, now) && limit.allow(one, now));
        assert!(!limit.allow(one, now));
        assert!(limit.allow("192.0.2.2".parse().unwrap(), now));
        assert!(limit.allow(one, now + Duration::from_secs(21)));
        assert!(!limit.allow(one, now + Duration::from_secs(21)));
        for i in 0..3 {
            assert!(limit.allow(format!("2001:db8::{i}").parse().unwrap(), now));
        }
        assert!(!limit.allow("2001:db8::9".parse().unwrap(), now));
        assert!(limit.allow("2001:db8:0:1::9".parse().unwrap(), now));
    }
}
