//! Parts of lists. A cursor is the key of the last entry that was given, so a list that changes meanwhile neither
//! repeats nor skips what stays in it.

use std::{fmt::Display, str::FromStr};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use controller_api::rest::Page;

use super::problem::{ApiError, ProblemKind};

/// How many entries a part has at most, unless the caller says otherwise.
pub const DEFAULT_LIMIT: u32 = 100;
/// How many entries a part has at most, whatever the caller says.
pub const MAX_LIMIT: u32 = 1000;

/// The part of a list that a caller wants.
#[derive(Clone, Debug)]
pub(crate) struct Part<K> {
    after: Option<K>,
    limit: usize,
}

impl<K: Ord + Display + FromStr> Part<K> {
    pub(crate) fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Part<K>, ApiError> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let detail = format!("a part of a list has 1 to {MAX_LIMIT} entries, not {limit}");
            return Err(ApiError::invalid("limit", detail));
        }
        let after = cursor.map(|cursor| decode(cursor).ok_or_else(wrong_cursor)).transpose()?;
        Ok(Part { after, limit: limit as usize })
    }

    /// The key after which the part begins.
    pub(crate) fn after(&self) -> Option<&K> {
        self.after.as_ref()
    }

    /// Whether so many entries tell the part, and whether there are more after it.
    pub(crate) fn is_filled_by(&self, entries: usize) -> bool {
        entries > self.limit
    }

    /// The part of entries that were found after [`Part::after`], in the order of their keys.
    pub(crate) fn found<U>(&self, found: Vec<(K, U)>) -> Page<U> {
        let last = found.get(self.limit).and(found.get(self.limit - 1));
        let next_cursor = last.map(|(key, _)| BASE64_URL_SAFE_NO_PAD.encode(key.to_string()));
        Page { items: found.into_iter().take(self.limit).map(|(_, entry)| entry).collect(), next_cursor }
    }

    /// Takes the part out of entries in the order of their keys.
    pub(crate) fn of<T, U>(
        &self,
        sorted: impl Iterator<Item = T>,
        key: impl Fn(&T) -> K,
        convert: impl Fn(T) -> U,
    ) -> Page<U> {
        let mut rest =
            sorted.skip_while(|entry| self.after.as_ref().is_some_and(|after| key(entry) <= *after));
        let mut items = Vec::new();
        let mut last = None;
        for entry in rest.by_ref().take(self.limit) {
            last = Some(key(&entry));
            items.push(convert(entry));
        }
        let next_cursor = rest.next().and(last).map(|key| BASE64_URL_SAFE_NO_PAD.encode(key.to_string()));
        Page { items, next_cursor }
    }
}

fn decode<K: FromStr>(cursor: &str) -> Option<K> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

fn wrong_cursor() -> ApiError {
    ApiError::new(ProblemKind::Invalid, "the cursor is none of this list")
        .field("cursor")
        .mend("begin without one, then use each answer's `next_cursor`")
}

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn parts_make_up_the_list_even_while_it_changes() {
        let mut list: Vec<u64> = (0..250).collect();
        let (mut cursor, mut seen) = (None, Vec::new());
        loop {
            let part = Part::<u64>::new(Some(100), cursor.as_deref()).expect("a cursor of this list");
            let page = part.of(list.iter().copied(), |n| *n, |n| n);
            seen.extend(page.items);
            cursor = page.next_cursor;
            // What the cursor names may go, and what is new comes at the end.
            list.retain(|n| *n != 99);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..250).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_part_has_no_cursor() {
        let part = Part::<u64>::new(Some(3), None).expect("a limit in range");
        assert_eq!(part.of(0..3, |n| *n, |n| n).next_cursor, None);
        assert!(part.of(0..4, |n| *n, |n| n).next_cursor.is_some());
    }

    #[test]
    fn wrong_limits_and_cursors_are_refused() {
        for (limit, cursor) in [(Some(0), None), (Some(1001), None), (None, Some("!")), (None, Some("aaaa"))]
        {
            assert!(Part::<u64>::new(limit, cursor).is_err(), "{limit:?} {cursor:?}");
        }
    }
}
