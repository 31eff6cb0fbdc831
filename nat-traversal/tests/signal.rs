//! The form of signals, and what is refused.

use std::net::{IpAddr, SocketAddr};

use nat_traversal::{CandidateKind, Heard, Signal, SignalCandidate};
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = CandidateKind> {
    prop_oneof![
        Just(CandidateKind::Host),
        Just(CandidateKind::PeerReflexive),
        Just(CandidateKind::ServerReflexive),
        Just(CandidateKind::Relayed),
    ]
}

fn candidate() -> impl Strategy<Value = SignalCandidate> {
    (kind(), any::<IpAddr>(), any::<u16>())
        .prop_map(|(kind, ip, port)| SignalCandidate { kind, address: SocketAddr::new(ip, port) })
}

fn signal() -> impl Strategy<Value = Signal> {
    let texts = ("[a-zA-Z0-9+/]{4,60}", "[a-zA-Z0-9+/]{22,256}");
    let heard = proptest::option::of(("[a-z]{4,60}", any::<u64>()));
    let candidates = proptest::collection::vec(candidate(), 0..=32);
    let rest = (any::<[u64; 3]>(), any::<bool>());
    (texts, heard, candidates, rest).prop_map(|((ufrag, password), heard, candidates, (numbers, answer))| {
        let [generation, sequence, check] = numbers;
        let heard = heard.map(|(ufrag, sequence)| Heard { ufrag, sequence });
        let version = Signal::VERSION;
        Signal { version, generation, sequence, ufrag, password, candidates, heard, check, answer }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(signal in signal()) {
        let text = serde_json::to_string(&signal).unwrap();
        let read: Signal = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read.validate(), Ok(()));
        prop_assert_eq!(read, signal);
    }

    #[test]
    fn unknown_fields_and_kinds_are_left_out(signal in signal(), name in "[a-z]{10,20}") {
        let mut value = serde_json::to_value(&signal).unwrap();
        value[&name] = serde_json::json!({ "some": ["thing", 1] });
        let candidates = value["candidates"].as_array_mut().unwrap();
        candidates.truncate(31);
        candidates.push(serde_json::json!({ "kind": name, "address": "192.0.2.1:1", "more": null }));
        let read: Signal = serde_json::from_value(value).unwrap();
        prop_assert_eq!(&read.candidates[..], &signal.candidates[..signal.candidates.len().min(31)]);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(serde_json::from_slice::<Signal>(&bytes).is_err());
    }

    #[test]
    fn a_changed_byte_gives_an_error_or_a_signal_within_bounds(signal in signal(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&signal).unwrap();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(read) = serde_json::from_slice::<Signal>(&text) {
            prop_assert!(read.candidates.len() <= 32 && read.ufrag.len() <= 60 && read.password.len() <= 256);
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused(signal in signal(), more in 33..40usize, ufrag in ".{0,3}|[a-z]{61,80}|[a-z]{4}:[a-z]", password in ".{0,21}|[a-z]{257,300}|[a-z]{22} ") {
        let candidate = SignalCandidate { kind: CandidateKind::Host, address: "192.0.2.1:1".parse().unwrap() };
        for bad in [
            Signal { candidates: vec![candidate; more], ..signal.clone() },
            Signal { ufrag: ufrag.clone(), ..signal.clone() },
            Signal { password, ..signal.clone() },
            Signal { heard: Some(Heard { ufrag, sequence: 1 }), ..signal.clone() },
        ] {
            prop_assert!(bad.validate().is_err());
            let text = serde_json::to_string(&bad).unwrap();
            prop_assert!(serde_json::from_str::<Signal>(&text).is_err(), "{}", text);
        }
    }
}

#[test]
fn the_form_stays() {
    let text = r#"{"version":1,"generation":2,"sequence":3,"ufrag":"abcd","password":"0123456789012345678901","candidates":[{"kind":"host","address":"192.0.2.1:4840"},{"kind":"relayed","address":"[2001:db8::1]:1"}],"heard":{"ufrag":"efgh","sequence":4},"check":5,"answer":true}"#;
    let signal: Signal = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&signal).unwrap(), text);
    assert!(!format!("{signal:?}").contains("0123456789"));
    let least = r#"{"version":1,"generation":2,"sequence":3,"ufrag":"abcd","password":"0123456789012345678901","candidates":[]}"#;
    assert!(serde_json::from_str::<Signal>(least).is_ok());
}
