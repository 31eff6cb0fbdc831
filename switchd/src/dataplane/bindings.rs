//! What became of the bindings that the control plane set, where it is not simply that they hold.

use switch_core::switch::{BindingChange, BindingError, Source};

/// Bindings of one network that changed nothing, by why.
#[derive(Clone, Debug, Default)]
pub(super) struct UnusedBindings([u64; Unused::ALL.len()]);

/// Why a binding changed nothing. All but the last are in the order of things for what other switches announce: it
/// crosses with what this one sees, and the newer word stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unused {
    /// An announcement about a station that the controller itself placed.
    Controlled,
    /// An announcement that is older than what is known.
    Stale,
    /// An announcement that is known, and after which the station was seen elsewhere.
    Overtaken,
    /// It says that the station is on this bridge, where it is not.
    NotHere,
    /// Refused for good: the controller hears of it.
    Refused,
}

impl Unused {
    const ALL: [Unused; 5] =
        [Unused::Controlled, Unused::Stale, Unused::Overtaken, Unused::NotHere, Unused::Refused];

    /// What the switch's word on a binding of `source` means; `None`: it holds.
    pub(super) fn of(source: Source, result: &Result<BindingChange, BindingError>) -> Option<Unused> {
        let announced = source != Source::Controller;
        match result {
            Ok(BindingChange::Overtaken) => Some(Unused::Overtaken),
            Ok(BindingChange::NotHere) => Some(Unused::NotHere),
            Ok(_) => None,
            Err(BindingError::Controlled(_)) if announced => Some(Unused::Controlled),
            Err(BindingError::Stale { .. }) if announced => Some(Unused::Stale),
            Err(_) => Some(Unused::Refused),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Unused::Controlled => "controlled",
            Unused::Stale => "stale",
            Unused::Overtaken => "overtaken",
            Unused::NotHere => "not_here",
            Unused::Refused => "refused",
        }
    }
}

impl UnusedBindings {
    pub(super) fn count(&mut self, why: Unused) {
        self.0[why as usize] += 1;
    }

    /// Every reason, so that each is a metric from the start.
    pub(super) fn view(&self) -> Vec<(String, u64)> {
        Unused::ALL.iter().zip(self.0).map(|(why, n)| (why.label().to_owned(), n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::frame::Tags;
    use switch_core::ids::{Generation, Mac};
    use switch_core::switch::BindingKey;

    #[test]
    fn what_crosses_is_no_refusal_if_it_was_announced() {
        let key = BindingKey { tags: Tags::NONE, mac: Mac([2, 0, 0, 0, 0, 1]) };
        let stale = Err(BindingError::Stale { key, offered: Generation(1), current: Generation(2) });
        let controlled = Err(BindingError::Controlled(key));
        let full = Err(BindingError::TableFull);
        for (source, result, want) in [
            (Source::Announced, Ok(BindingChange::Added), None),
            (Source::Announced, Ok(BindingChange::Overtaken), Some(Unused::Overtaken)),
            (Source::Announced, Ok(BindingChange::NotHere), Some(Unused::NotHere)),
            (Source::Announced, stale, Some(Unused::Stale)),
            (Source::Announced, controlled, Some(Unused::Controlled)),
            (Source::Announced, full, Some(Unused::Refused)),
            (Source::Controller, stale, Some(Unused::Refused)),
            (Source::Controller, Ok(BindingChange::Unchanged), None),
        ] {
            assert_eq!(Unused::of(source, &result), want, "{source:?} {result:?}");
        }
    }

    #[test]
    fn each_reason_has_its_count() {
        let mut unused = UnusedBindings::default();
        Unused::ALL.iter().enumerate().for_each(|(n, why)| (0..n).for_each(|_| unused.count(*why)));
        let view: Vec<_> = unused.view();
        assert_eq!(view.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(view[3].0, "not_here");
    }
}
