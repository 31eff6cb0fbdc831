//! When the worker is bound to a CPU, and when let go: a pure function of what was seen lately.

use std::time::Duration;

/// What a stretch of time was like.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Its length.
    pub(super) span: Duration,
    /// The worker ran.
    pub(super) ran: Duration,
    /// The worker was runnable and waited for a CPU.
    pub(super) waited: Duration,
    /// Each CPU that the worker may run on had nothing to do.
    pub(super) idle: Vec<(usize, Duration)>,
}

/// Where the worker may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// On this CPU.
    Cpu(usize),
    /// Where the kernel puts it.
    Any,
}

/// What was decided last.
#[derive(Debug, Default)]
pub(super) struct Rule {
    bound: Option<usize>,
}

impl Rule {
    #[cfg(test)]
    pub(super) fn bound(cpu: usize) -> Rule {
        Rule { bound: Some(cpu) }
    }

    /// Where to put the worker, if elsewhere. Two daemons on one host see the same: one that may move does so only
    /// by this `chance`, else both would for ever move to the same CPU at once.
    pub(super) fn decide(&mut self, look: &Look, chance: bool) -> Option<Place> {
        let share = |time: Duration| time.as_secs_f64() / look.span.as_secs_f64().max(1e-6);
        let (ran, waited) = (share(look.ran), share(look.waited));
        let others = look.idle.iter().filter(|(cpu, _)| Some(*cpu) != self.bound);
        let idlest = others.map(|(cpu, idle)| (*cpu, share(*idle))).max_by(|a, b| a.1.total_cmp(&b.1));
        let (idlest, idle) = idlest.unwrap_or_default();
        let place = match self.bound {
            None if ran >= BUSY && waited >= WAITS && idle >= ROOM => Place::Cpu(idlest),
            Some(_) if ran >= BUSY && waited >= WAITS_BOUND && idle >= ROOM_BOUND => Place::Cpu(idlest),
            Some(_) if waited >= WAITS_BOUND || (waited >= NOTICED && waited > ran) => Place::Any,
            _ => return None,
        };
        self.bound = match place {
            Place::Cpu(_) if !chance => return None,
            Place::Cpu(cpu) => Some(cpu),
            Place::Any => None,
        };
        Some(place)
    }
}

/// Shares of the time. The worker has bulk to carry.
const BUSY: f64 = 0.2;
/// What a worker that the kernel places waits at least before it is bound, and what the CPU has for it.
const WAITS: f64 = 0.12;
const ROOM: f64 = 0.15;
/// What one that is bound waits at least before it goes elsewhere, and what the other CPU has for it.
const WAITS_BOUND: f64 = 0.25;
const ROOM_BOUND: f64 = 0.3;
/// Waits worth a look with little to carry: then one that waits longer than it runs shares its CPU badly.
const NOTICED: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ran: u64, waited: u64, idle: [u64; 2]) -> Look {
        let ms = Duration::from_millis;
        Look {
            span: ms(100),
            ran: ms(ran),
            waited: ms(waited),
            idle: vec![(0, ms(idle[0])), (3, ms(idle[1]))],
        }
    }

    #[test]
    fn a_worker_that_waits_beside_an_idle_cpu_is_bound_to_it() {
        let mut rule = Rule::default();
        assert_eq!(rule.decide(&look(60, 30, [20, 40]), false), None, "not by this chance");
        assert_eq!(rule.decide(&look(60, 30, [20, 40]), true), Some(Place::Cpu(3)));
        assert_eq!(rule.decide(&look(80, 20, [40, 0]), true), None, "it waits little there");
    }

    #[test]
    fn the_kernel_places_a_worker_that_waits_little_or_has_no_idle_cpu_or_little_to_do() {
        for look in [look(90, 10, [0, 80]), look(50, 50, [10, 10]), look(10, 30, [50, 50])] {
            assert_eq!(Rule::default().decide(&look, true), None, "{look:?}");
        }
    }

    #[test]
    fn a_bound_worker_goes_where_there_is_much_room_and_else_is_let_go() {
        let bound = || Rule { bound: Some(3) };
        assert_eq!(bound().decide(&look(50, 45, [45, 0]), true), Some(Place::Cpu(0)));
        assert_eq!(bound().decide(&look(50, 45, [10, 45]), true), Some(Place::Any));
        assert_eq!(bound().decide(&look(50, 45, [10, 0]), false), Some(Place::Any), "without chance");
        let mut rule = bound();
        assert_eq!(
            rule.decide(&look(1, 3, [90, 0]), false),
            Some(Place::Any),
            "a busy CPU and little to carry"
        );
        assert_eq!(rule.decide(&look(1, 3, [90, 0]), false), None, "once");
    }

    #[test]
    fn a_look_of_nothing_is_no_reason() {
        let empty = Look { span: Duration::ZERO, ran: Duration::ZERO, waited: Duration::ZERO, idle: vec![] };
        assert_eq!(Rule::default().decide(&empty, true), None);
        assert_eq!(Rule { bound: Some(0) }.decide(&empty, true), None);
    }
}
