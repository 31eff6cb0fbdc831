use std::collections::BTreeSet;

use super::*;

#[test]
fn measures_have_names_of_their_own() {
    let all = Measure::all();
    let names: BTreeSet<&str> = all.iter().map(Measure::name).collect();
    assert_eq!(names.len(), all.len());
    assert!(names.contains("udp-8192"));
    assert_eq!(all.last(), Some(&Measure::Memory));
}
