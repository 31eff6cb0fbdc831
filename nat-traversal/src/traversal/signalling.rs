//! Telling the peer this node's state until it has it, and keeping the newest of the peer's.

use std::time::{Duration, Instant};

use crate::signal::{Heard, Signal, SignalCandidate, SignalError};

/// Both states, this node's and the peer's.
pub(super) struct Signalling {
    own: Signal,
    peer: Option<Signal>,
    heard_at: Option<Instant>,
    /// The newest sequence of this node's that the peer has shown to know.
    known: Option<u64>,
    /// What came last, of whichever instance of the peer: it is shown to have been heard, so that a living one can
    /// prove that it is.
    heard: Option<Heard>,
    /// Once a state of another instance of the peer came that may be old: only who knows this sequence is alive.
    challenge: Option<u64>,
    retries: u32,
    retry_at: Option<Instant>,
    /// The peer waits for an answer.
    owed: bool,
    last_sent: Option<Instant>,
    allowance: u32,
    refilled: Instant,
    first_retry: Duration,
    slowest_retry: Duration,
}

/// What a signal has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    /// Another instance of the peer, or the first that is known.
    pub(super) instance: bool,
    pub(super) candidates: bool,
    /// It wishes that all ways be checked again.
    pub(super) check: bool,
}

impl Signalling {
    pub(super) fn new(
        own: Signal,
        first_retry: Duration,
        slowest_retry: Duration,
        now: Instant,
    ) -> Signalling {
        Signalling {
            own,
            peer: None,
            heard_at: None,
            known: None,
            heard: None,
            challenge: None,
            retries: 0,
            retry_at: None,
            owed: false,
            last_sent: None,
            allowance: BURST,
            refilled: now,
            first_retry,
            slowest_retry,
        }
    }

    pub(super) fn peer(&self) -> Option<&Signal> {
        self.peer.as_ref()
    }

    pub(super) fn own(&self) -> &Signal {
        &self.own
    }

    pub(super) fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Whether the peer has this node's present state.
    pub(super) fn is_known(&self) -> bool {
        self.known == Some(self.own.sequence)
    }

    /// Sends the state at once, and again until the peer has it.
    pub(super) fn announce(&mut self, now: Instant) {
        if !self.is_known() {
            self.retries = 0;
            self.retry_at = Some(now);
        }
    }

    /// Sends nothing more by itself.
    pub(super) fn rest(&mut self) {
        self.retry_at = None;
    }

    pub(super) fn set_candidates(&mut self, candidates: Vec<SignalCandidate>) -> bool {
        let changed = self.own.candidates != candidates;
        if changed {
            self.own.candidates = candidates;
            self.own.sequence += 1;
        }
        changed
    }

    /// Asks the peer to check all ways again.
    pub(super) fn ask_for_check(&mut self, now: Instant) {
        self.own.check += 1;
        self.own.sequence += 1;
        self.announce(now);
    }

    pub(super) fn handle(&mut self, signal: &Signal, now: Instant) -> Result<News, SignalError> {
        self.spend(now)?;
        signal.validate()?;
        if signal.ufrag == self.own.ufrag {
            return Err(SignalError::Own);
        }
        let heard = signal.heard.as_ref().filter(|heard| heard.ufrag == self.own.ufrag);
        let heard = heard.map(|heard| heard.sequence);
        self.owed |= signal.answer;
        match &mut self.heard {
            Some(known) if known.ufrag == signal.ufrag => {
                known.sequence = known.sequence.max(signal.sequence);
            }
            known => *known = Some(Heard { ufrag: signal.ufrag.clone(), sequence: signal.sequence }),
        }
        let mut news = News::default();
        match &self.peer {
            Some(known) if known.ufrag == signal.ufrag => {
                if signal.sequence > known.sequence {
                    news.candidates = known.candidates != signal.candidates;
                    news.check = signal.check > known.check;
                    self.peer = Some(signal.clone());
                }
            }
            Some(known) if signal.generation <= known.generation && !self.proves_itself(heard) => {
                // A late signal of an instance that is gone, or a new instance whose clock was set back. Only a
                // living one can answer what is said now.
                if self.challenge.is_none() {
                    self.own.sequence += 1;
                    self.challenge = Some(self.own.sequence);
                    self.announce(now);
                }
                return Ok(news);
            }
            _ => {
                news = News { instance: true, candidates: true, check: false };
                self.peer = Some(signal.clone());
                self.known = None;
                self.challenge = None;
                self.announce(now);
            }
        }
        self.heard_at = Some(now);
        if let Some(sequence) = heard.filter(|sequence| *sequence <= self.own.sequence) {
            self.known = self.known.max(Some(sequence));
            if self.is_known() {
                self.retry_at = None;
                self.challenge = None;
            }
        }
        Ok(news)
    }

    /// The signal that is due.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Signal> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.owed = false;
        self.last_sent = Some(now);
        self.retry_at = (!self.is_known()).then(|| {
            let wait = self.first_retry * 2u32.pow(self.retries.min(10));
            self.retries += 1;
            now + wait.min(self.slowest_retry)
        });
        Some(Signal { heard: self.heard.clone(), answer: !self.is_known(), ..self.own.clone() })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let soonest = self.last_sent.map(|at| at + GAP);
        let owed = self.owed.then(|| soonest.unwrap_or(self.refilled));
        let retry = self.retry_at.map(|at| soonest.map_or(at, |soonest| at.max(soonest)));
        [owed, retry].into_iter().flatten().min()
    }

    fn proves_itself(&self, heard: Option<u64>) -> bool {
        self.challenge.zip(heard).is_some_and(|(sequence, heard)| heard >= sequence)
    }

    fn spend(&mut self, now: Instant) -> Result<(), SignalError> {
        while self.allowance < BURST && now.duration_since(self.refilled) >= REFILL {
            self.refilled += REFILL;
            self.allowance += 1;
        }
        if self.allowance == BURST {
            self.refilled = now;
        }
        self.allowance = self.allowance.checked_sub(1).ok_or(SignalError::TooMany)?;
        Ok(())
    }
}

/// At most so many signals at once are taken, and after them one in each of these times.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(200);
/// Changes in so short a time go in one signal.
const GAP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn side(name: &str, generation: u64, now: Instant) -> Signalling {
        let own = Signal {
            version: Signal::VERSION,
            generation,
            sequence: 1,
            ufrag: name.into(),
            password: "0123456789012345678901".into(),
            candidates: Vec::new(),
            heard: None,
            check: 0,
            answer: true,
        };
        Signalling::new(own, Duration::from_millis(250), Duration::from_secs(30), now)
    }

    fn candidates(n: u16) -> Vec<SignalCandidate> {
        let address = std::net::SocketAddr::new([192, 0, 2, 1].into(), n);
        vec![SignalCandidate { kind: crate::route::CandidateKind::Host, address }]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Change(usize),
        Restart(usize),
        Deliver(usize, usize, bool),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2usize).prop_map(Step::Change),
            (0..2usize).prop_map(Step::Restart),
            (0..2usize, any::<usize>(), any::<bool>())
                .prop_map(|(to, which, keep)| Step::Deliver(to, which, keep)),
            (1..2000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever was lost, doubled and late before: once signals arrive again, both know each other's newest, and
        /// then there is silence.
        #[test]
        fn both_sides_come_to_know_the_newest(steps in proptest::collection::vec(step(), 0..60)) {
            let mut now = Instant::now();
            let mut sides = [side("side0", 0, now), side("side1", 0, now)];
            // What is under way to each.
            let mut mail: [Vec<Signal>; 2] = Default::default();
            let mut started = 0;
            sides.iter_mut().for_each(|side| side.announce(now));
            for step in steps {
                match step {
                    Step::Change(at) => {
                        started += 1;
                        sides[at].set_candidates(candidates(started));
                        sides[at].announce(now);
                    }
                    Step::Restart(at) => {
                        started += 1;
                        // The clock of this side goes backwards.
                        sides[at] = side(&format!("side{at}{started}"), 1000 - u64::from(started), now);
                        sides[at].announce(now);
                    }
                    Step::Deliver(to, which, keep) if !mail[to].is_empty() => {
                        let which = which % mail[to].len();
                        let signal = mail[to][which].clone();
                        if !keep {
                            mail[to].remove(which);
                        }
                        _ = sides[to].handle(&signal, now);
                    }
                    Step::Deliver(..) => {}
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                for at in 0..2 {
                    mail[1 - at].extend(sides[at].poll(now));
                }
            }
            let mut silent_since = now;
            for _ in 0..6000 {
                now += Duration::from_millis(20);
                for at in 0..2 {
                    if let Some(signal) = sides[at].poll(now) {
                        silent_since = now;
                        _ = sides[1 - at].handle(&signal, now);
                    }
                }
            }
            for at in 0..2 {
                let other = sides[1 - at].own();
                let known = sides[at].peer().unwrap();
                prop_assert_eq!((&known.ufrag, known.sequence), (&other.ufrag, other.sequence));
                prop_assert!(sides[at].is_known());
                prop_assert_eq!(sides[at].due(), None);
            }
            prop_assert!(now.duration_since(silent_since) > Duration::from_secs(30));
        }
    }
}
