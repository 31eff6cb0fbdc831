//! How much is too much.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// A bucket of tokens that fills at a steady rate and holds what it gets in `depth` seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Bucket {
        Bucket { tokens: rate.size, filled: now }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate.per_second).min(rate.size);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.tokens + now.saturating_duration_since(self.filled).as_secs_f64() * rate.per_second >= rate.size
    }
}

/// So many in a second, and so many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    pub(super) size: f64,
}

/// Answers to those who have proved nothing: some for each address (a /64 counts as one), and some for all. Answers
/// are larger than questions, and the source of a question is anybody's word.
#[derive(Debug)]
pub(super) struct Unproven {
    all: Bucket,
    each: HashMap<IpAddr, Bucket, ahash::RandomState>,
}

impl Unproven {
    pub(super) fn new(now: Instant) -> Unproven {
        Unproven { all: Bucket::full(ALL, now), each: HashMap::default() }
    }

    /// Whether the address is answered now.
    pub(super) fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        let owner = owner(source);
        if let Some(bucket) = self.each.get_mut(&owner) {
            return bucket.take(EACH, now) && self.all.take(ALL, now);
        }
        if !self.all.take(ALL, now) {
            return false;
        }
        // Those that are full again need not be remembered. The rest cannot be many more than `ALL` lets through.
        if self.each.len() >= MAX_SOURCES {
            self.each.retain(|_, bucket| !bucket.is_full(EACH, now));
            if self.each.len() >= MAX_SOURCES {
                return false;
            }
        }
        let mut bucket = Bucket::full(EACH, now);
        let taken = bucket.take(EACH, now);
        self.each.insert(owner, bucket);
        taken
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.each.len()
    }
}

/// Whose an address is: the /64 of an IPv6 address is one owner's.
pub(super) fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Many nodes may be behind one address, and begin at once.
pub(super) const EACH: Rate = Rate { per_second: 200.0, size: 1000.0 };
const ALL: Rate = Rate { per_second: 5000.0, size: 10_000.0 };
const MAX_SOURCES: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn a_source_that_asks_too_often_is_not_answered_and_others_are() {
        let now = Instant::now();
        let mut unproven = Unproven::new(now);
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..2000).filter(|_| unproven.allow(one, now)).count(), 1000);
        assert!(unproven.allow("192.0.2.2".parse().unwrap(), now));
        assert!(unproven.allow(one, now + Duration::from_millis(10)));
    }

    #[test]
    fn a_64_is_one_owners() {
        let at = |text: &str| owner(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn invented_sources_cost_bounded_memory() {
        let start = Instant::now();
        let mut unproven = Unproven::new(start);
        let mut answered = 0;
        for i in 0..1_000_000_u32 {
            let now = start + Duration::from_micros(u64::from(i) * 10);
            answered +=
                u32::from(unproven.allow(Ipv4Addr::from_bits(i.wrapping_mul(2_654_435_761)).into(), now));
        }
        assert!(unproven.remembered() <= MAX_SOURCES);
        // Ten seconds of it.
        assert!(answered <= 60_000, "{answered}");
    }
}
