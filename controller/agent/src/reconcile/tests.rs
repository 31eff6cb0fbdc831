//! Every state of an instance against every wish.

use super::*;
use crate::spec::DriverKind;

fn spec(desired: Desired) -> Spec {
    Spec {
        id: InstanceId::parse("inst-1").unwrap(),
        name: "one".into(),
        generation: 5,
        desired,
        driver: DriverKind::Container,
        cores_milli: 500,
        memory_bytes: 64 << 20,
        disk_bytes: 0,
        image: None,
        command: vec!["sleep".into(), "inf".into()],
        environment: BTreeMap::new(),
        nics: Vec::new(),
        upload_to: None,
        download_from: None,
    }
}

fn there(spec: &Spec, running: bool) -> Observed {
    Observed {
        spec: spec.clone(),
        created: true,
        started_with: Some(spec.clone()),
        running,
        busy: None,
        uploaded_to: None,
        has_volume: true,
        failure: None,
    }
}

fn step(spec: &Spec, observed: Option<Observed>, now: u64) -> Option<Action> {
    let desired = BTreeMap::from([(spec.id.clone(), spec.clone())]);
    let observed = observed.map(|observed| (spec.id.clone(), observed)).into_iter().collect();
    let mut actions = reconcile(&desired, &observed, Duration::from_secs(now));
    assert!(actions.len() <= 1);
    actions.pop().map(|(_, action)| action)
}

#[test]
fn each_state_against_each_wish() {
    use Desired::{Absent, Running, Stopped};
    // What is there: nothing, stopped, running; and what is then done.
    let table = [
        (Running, [Some(Action::Create), Some(Action::Start), None]),
        (Stopped, [Some(Action::Create), None, Some(Action::Stop)]),
        (Absent, [None, Some(Action::Remove), Some(Action::Stop)]),
    ];
    for (desired, expected) in table {
        let spec = spec(desired);
        let found = [None, Some(there(&spec, false)), Some(there(&spec, true))].map(|o| step(&spec, o, 0));
        assert_eq!(found, expected, "{desired:?}");
    }
}

#[test]
fn lower_generations_and_unnamed_instances_are_left_alone() {
    let old = Spec { generation: 4, ..spec(Desired::Absent) };
    for running in [false, true] {
        assert_eq!(step(&old, Some(there(&spec(Desired::Running), running)), 0), None);
    }
    let unnamed = spec(Desired::Running);
    let observed = BTreeMap::from([(unnamed.id.clone(), there(&unnamed, true))]);
    assert_eq!(reconcile(&BTreeMap::new(), &observed, Duration::ZERO), []);
}

#[test]
fn a_newer_spec_is_recorded_first_and_restarts_only_what_must_be() {
    let old = spec(Desired::Running);
    let moved = Spec { generation: 6, ..old.clone() };
    assert_eq!(step(&moved, Some(there(&old, true)), 0), Some(Action::Record));
    let recorded = Observed { spec: moved.clone(), ..there(&old, true) };
    assert_eq!(step(&moved, Some(recorded), 0), None, "the generation alone restarts nothing");

    let bigger = Spec { memory_bytes: 128 << 20, ..old.clone() };
    let recorded = Observed { spec: bigger.clone(), ..there(&old, true) };
    assert_eq!(step(&bigger, Some(recorded), 0), Some(Action::Stop));
}

#[test]
fn the_volume_goes_after_the_stop_and_comes_before_the_first_start() {
    let leaving = Spec { upload_to: Some("t1".into()), ..spec(Desired::Stopped) };
    assert_eq!(step(&leaving, Some(there(&leaving, true)), 0), Some(Action::Stop));
    assert_eq!(step(&leaving, Some(there(&leaving, false)), 0), Some(Action::Upload("t1".into())));
    let gone = Observed { uploaded_to: Some("t1".into()), ..there(&leaving, false) };
    assert_eq!(step(&leaving, Some(gone.clone()), 0), None);
    let again = Spec { upload_to: Some("t2".into()), ..leaving.clone() };
    let gone = Observed { spec: again.clone(), ..gone };
    assert_eq!(step(&again, Some(gone), 0), Some(Action::Upload("t2".into())), "another move");

    for desired in [Desired::Running, Desired::Stopped] {
        let coming = Spec { download_from: Some("t1".into()), ..spec(desired) };
        let empty = Observed { has_volume: false, started_with: None, ..there(&coming, false) };
        assert_eq!(step(&coming, Some(empty), 0), Some(Action::Download("t1".into())));
    }
}

#[test]
fn one_step_at_a_time_and_unwanted_transfers_are_broken_off() {
    let leaving = Spec { upload_to: Some("t1".into()), ..spec(Desired::Stopped) };
    let busy = |spec: &Spec, action| Observed { busy: Some(action), ..there(spec, false) };
    let sending = busy(&leaving, Action::Upload("t1".into()));
    assert_eq!(step(&leaving, Some(sending.clone()), 0), None);
    assert_eq!(step(&spec(Desired::Running), Some(sending.clone()), 0), Some(Action::Cancel));
    assert_eq!(step(&spec(Desired::Absent), Some(sending), 0), Some(Action::Cancel));
    let coming = busy(&spec(Desired::Stopped), Action::Download("t1".into()));
    assert_eq!(step(&spec(Desired::Stopped), Some(coming), 0), Some(Action::Cancel));
    for action in [Action::Start, Action::Stop, Action::Remove, Action::Create] {
        assert_eq!(step(&spec(Desired::Absent), Some(busy(&spec(Desired::Running), action)), 0), None);
    }
}

#[test]
fn failures_are_tried_again_by_their_class() {
    let wanted = spec(Desired::Running);
    let failed = |class, attempts, spec: &Spec| Observed {
        failure: Some(Failed {
            class,
            attempts,
            at: Duration::from_secs(100),
            spec: spec.clone(),
            detail: String::new(),
        }),
        ..there(&wanted, false)
    };
    // class, attempts, seconds until the next
    let table = [
        (FailureClass::Waiting, 1, Some(1)),
        (FailureClass::Waiting, 60, Some(1)),
        (FailureClass::Waiting, 61, Some(10)),
        (FailureClass::Transient, 1, Some(1)),
        (FailureClass::Transient, 2, Some(2)),
        (FailureClass::Transient, 4, Some(8)),
        (FailureClass::Transient, 50, Some(60)),
        (FailureClass::Permanent, 1, None),
    ];
    for (class, attempts, delay) in table {
        let observed = failed(class, attempts, &wanted);
        if let Some(delay) = delay {
            assert_eq!(step(&wanted, Some(observed.clone()), 100 + delay - 1), None, "{class:?} {attempts}");
            assert_eq!(
                step(&wanted, Some(observed), 100 + delay),
                Some(Action::Start),
                "{class:?} {attempts}"
            );
        } else {
            assert_eq!(step(&wanted, Some(observed), 1_000_000), None);
        }
        let other = Spec { command: vec!["true".into()], ..wanted.clone() };
        let observed = failed(class, attempts, &other);
        assert_eq!(step(&wanted, Some(observed), 100), Some(Action::Start), "the spec changed: {class:?}");
    }
}

#[test]
fn what_could_not_be_made_is_made_again_or_forgotten() {
    let wanted = spec(Desired::Running);
    let failure = Failed {
        class: FailureClass::Transient,
        attempts: 1,
        at: Duration::from_secs(100),
        spec: wanted.clone(),
        detail: "disk full".into(),
    };
    let phantom = Observed { created: false, failure: Some(failure), ..there(&wanted, false) };
    assert_eq!(step(&wanted, Some(phantom.clone()), 100), None);
    assert_eq!(step(&wanted, Some(phantom.clone()), 101), Some(Action::Create));
    assert_eq!(step(&spec(Desired::Absent), Some(phantom), 200), None);
}
