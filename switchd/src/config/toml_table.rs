//! A TOML table that is read key by key: it knows where each value stands, collects mistakes instead of stopping
//! at the first, and reports the keys that nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::value::{nearest, parse_duration, show_duration};

/// The text and the mistakes found in it so far.
pub(super) struct Source<'a> {
    text: &'a str,
    origin: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, origin: &'a str) -> Source<'a> {
        Source { text, origin, problems: RefCell::default() }
    }

    /// Notes a mistake at a byte range of the text.
    pub(super) fn problem(&self, at: Range<usize>, message: impl Into<String>) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.problems.borrow_mut().push(Problem {
            origin: self.origin.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        });
    }

    /// All mistakes, in the file's order.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// A value with its place.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// A table being read.
pub(super) struct Table<'s, 't> {
    source: &'s Source<'s>,
    /// How errors call it, such as `network`.
    name: &'static str,
    table: Option<&'t DeTable<'t>>,
    span: Range<usize>,
    asked: BTreeSet<&'static str>,
}

impl<'s, 't> Table<'s, 't> {
    pub(super) fn root(source: &'s Source<'s>, table: &'t Spanned<DeTable<'t>>) -> Table<'s, 't> {
        Table { source, name: "", table: Some(table.get_ref()), span: 0..0, asked: BTreeSet::new() }
    }

    /// Where the table begins.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// A sub-table, empty if it is missing.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'s, 't> {
        let found = self.get(key).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span())),
            other => {
                self.wrong_type(key, value.span(), other, &format!("a table: [{key}]"));
                None
            }
        });
        let span = found.as_ref().map_or(0..0, |(_, span)| span.clone());
        Table {
            source: self.source,
            name: key,
            table: found.map(|(table, _)| table),
            span,
            asked: BTreeSet::new(),
        }
    }

    /// An array of tables, empty if it is missing. `header` is how it is written, such as `[[peer]]`.
    pub(super) fn tables(&mut self, key: &'static str, header: &str) -> Vec<Table<'s, 't>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value.span(), value.get_ref(), &format!("tables: {header}"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => tables.push(Table {
                    source: self.source,
                    name: key,
                    table: Some(table),
                    span: item.span(),
                    asked: BTreeSet::new(),
                }),
                other => self.wrong_type(key, item.span(), other, &format!("tables: {header}")),
            }
        }
        tables
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<At<&'t str>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At { value: text.as_ref(), span: value.span() }),
            other => {
                self.wrong_type(key, value.span(), other, "a text in quotes");
                None
            }
        }
    }

    /// A text that `parse` accepts; its error says what is allowed.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        match parse(text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(error) => {
                self.source.problem(text.span, format!("{}: {error}", self.path(key)));
                None
            }
        }
    }

    /// A text by its `FromStr`, with `allowed` in place of the type's own error.
    pub(super) fn as_type<T: FromStr>(&mut self, key: &'static str, allowed: &str) -> Option<At<T>> {
        self.parsed(key, |text| text.parse().map_err(|_| format!("{text:?} is not allowed: {allowed}")))
    }

    /// true or false.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => {
                self.wrong_type(key, value.span(), other, "true or false");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let value = self.get(key)?;
        let (low, high) = (range.start(), range.end());
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value.span(), value.get_ref(), &format!("a whole number, {low} to {high}"));
            return None;
        };
        match i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| range.contains(number))
        {
            Some(number) => Some(At { value: number, span: value.span() }),
            None => {
                let given = &self.source.text[value.span()];
                self.source.problem(
                    value.span(),
                    format!("{}: {given} is out of range: use {low} to {high}", self.path(key)),
                );
                None
            }
        }
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
        if let Some(value) = self.peek(key)
            && !value.get_ref().is_str()
        {
            self.asked.insert(key);
            let want = format!("a text with its unit, {low} to {high}, such as \"{low}\"");
            self.wrong_type(key, value.span(), value.get_ref(), &want);
            return None;
        }
        self.parsed(key, |text| match parse_duration(text) {
            None => {
                Err(format!("{text:?} is not a duration: use a number and ms, s, m, h or d, {low} to {high}"))
            }
            Some(d) if !range.contains(&d) => Err(format!("{text:?} is out of range: use {low} to {high}")),
            Some(d) => Ok(d),
        })
    }

    /// A list of texts, each accepted by `parse`.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'t>) -> Result<T, E>,
    ) -> Option<Vec<At<T>>> {
        let value = self.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value.span(), value.get_ref(), "a list in [ ]");
            return None;
        };
        let mut list = Vec::new();
        for item in items {
            match parse(item.get_ref()) {
                Ok(value) => list.push(At { value, span: item.span() }),
                Err(error) => self.source.problem(item.span(), format!("{}: {error}", self.path(key))),
            }
        }
        Some(list)
    }

    /// Notes that a required key is missing, unless it is there (and was wrong).
    pub(super) fn missing(&self, key: &'static str, example: &str) {
        if self.peek(key).is_none() {
            self.source.problem(self.span(), format!("{} is missing: add {example}", self.path(key)));
        }
    }

    /// Notes a mistake in a value of this table.
    pub(super) fn wrong(&self, key: &str, at: Range<usize>, message: impl Display) {
        self.source.problem(at, format!("{}: {message}", self.path(key)));
    }

    /// Ends the reading: reports every key that was not asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(name) {
                continue;
            }
            let place = if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
            let hint = match nearest(name, self.asked.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => {
                    let known: Vec<_> = self.asked.iter().copied().collect();
                    format!("known keys: {}", known.join(", "))
                }
            };
            self.source.problem(key.span(), format!("unknown key {name:?}{place}: {hint}"));
        }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.insert(key);
        self.peek(key)
    }

    fn peek(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }

    fn wrong_type(&self, key: &str, at: Range<usize>, found: &DeValue<'_>, want: &str) {
        self.source.problem(at, format!("{}: expected {want}, found {}", self.path(key), kind(found)));
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
