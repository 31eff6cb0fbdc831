//! Values that TOML has no type for.

use std::time::Duration;

/// Parses one number and one unit: `500ms`, `5s`, `20m`, `1h`, `2d`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(Duration::from_millis(number.checked_mul(*unit_ms)?))
}

/// Writes a duration in the largest unit that keeps it whole, as the configuration takes it.
pub fn show_duration(d: Duration) -> String {
    let ms = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let (unit, unit_ms) =
        UNITS.iter().rev().find(|(_, unit_ms)| ms > 0 && ms.is_multiple_of(*unit_ms)).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ms / unit_ms)
}

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("100ms", 100), ("4s", 4_000), ("5 m", 300_000), ("1h", 3_600_000), ("2d", 172_800_000)]
        {
            let d = Duration::from_millis(ms);
            assert_eq!(parse_duration(text), Some(d), "{text}");
            assert_eq!(show_duration(d), text.replace(' ', ""));
        }
        for bad in ["", "5", "s", "-1s", "1.5s", "1h30m", "5 minutes", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::ZERO), "0ms");
    }

    #[test]
    fn misspellings() {
        let keys = ["keepalive", "dead_after", "mtu"];
        assert_eq!(nearest("keep_alive", keys), Some("keepalive"));
        assert_eq!(nearest("mut", keys), None.or(nearest("mut", ["mtu"])));
        assert_eq!(nearest("colour", keys), None);
    }
}
