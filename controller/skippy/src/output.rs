//! What is printed: tables for people, JSON for machines.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{Table, presets};
use controller_api::rest::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;

/// One column of a table of `T`s.
pub(crate) struct Column<T> {
    pub(crate) name: &'static str,
    pub(crate) shown: Shown,
    pub(crate) cell: fn(&T, Timestamp) -> String,
}

/// Where a column is shown unless the user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Always,
    Wide,
}

/// What the user wants to see, and where it goes.
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) wide: bool,
    pub(crate) columns: Vec<String>,
    /// Ages count back from here.
    pub(crate) now: Timestamp,
    pub(crate) out: Box<dyn Write + Send>,
}

impl Output {
    pub(crate) fn new(json: bool, wide: bool, columns: Vec<String>) -> Self {
        Self { json, wide, columns, now: now(), out: Box::new(io::stdout()) }
    }

    /// A list as a table, or as one JSON document of the shape of a page.
    pub(crate) fn list<T: DeserializeOwned>(
        &mut self,
        items: Vec<Value>,
        columns: &[Column<T>],
        empty: &str,
    ) -> Result<(), Error> {
        if self.json {
            return self.json(&json!({ "items": items }));
        }
        let chosen = self.chosen(columns)?;
        if items.is_empty() {
            return self.line(empty);
        }
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let item: T = typed(item)?;
            rows.push(chosen.iter().map(|column| or_dash(&(column.cell)(&item, self.now))).collect());
        }
        let names: Vec<_> = chosen.iter().map(|column| column.name).collect();
        self.text(&table(&names, rows))
    }

    /// All of one thing: a line for each column.
    pub(crate) fn show<T: DeserializeOwned>(
        &mut self,
        item: Value,
        columns: &[Column<T>],
    ) -> Result<(), Error> {
        if self.json {
            return self.json(&item);
        }
        let item: T = typed(item)?;
        let chosen: Vec<_> =
            if self.columns.is_empty() { columns.iter().collect() } else { self.chosen(columns)? };
        let width = chosen.iter().map(|column| column.name.len()).max().unwrap_or(0) + 1;
        let mut text = String::new();
        for column in chosen {
            let name = format!("{}:", column.name.to_lowercase());
            text.push_str(&format!("{name:width$} {}\n", or_dash(&(column.cell)(&item, self.now))));
        }
        self.text(&text)
    }

    /// One JSON document, for people to read too.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
        writeln!(self.out)?;
        Ok(self.out.flush()?)
    }

    /// One JSON document on a line of its own.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        writeln!(self.out)?;
        Ok(self.out.flush()?)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.out, "{}", clean(line))?;
        Ok(self.out.flush()?)
    }

    /// Text that is made of cleaned cells.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Error> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn chosen<'a, T>(&self, columns: &'a [Column<T>]) -> Result<Vec<&'a Column<T>>, Error> {
        if self.columns.is_empty() {
            return Ok(columns.iter().filter(|column| self.wide || column.shown == Shown::Always).collect());
        }
        let find = |name: &String| {
            let wanted = name.replace('-', " ");
            columns.iter().find(|column| column.name.eq_ignore_ascii_case(&wanted)).ok_or_else(|| {
                let names: Vec<_> =
                    columns.iter().map(|column| column.name.to_lowercase().replace(' ', "-")).collect();
                Error::Usage(format!("no column {name:?}: there are {}", names.join(",")))
            })
        };
        self.columns.iter().map(find).collect()
    }
}

/// Columns side by side, without lines.
pub(crate) fn table(names: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(names);
    table.add_rows(rows);
    let last = names.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

pub(crate) fn now() -> Timestamp {
    // A clock before 1970 makes every age zero.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What came from elsewhere may hold sequences that drive a terminal: they are shown, not obeyed.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|error| Error::BadAnswer { call: "this call".to_owned(), reason: error.to_string() })
}

fn or_dash(cell: &str) -> String {
    if cell.is_empty() { "-".to_owned() } else { clean(cell) }
}

#[cfg(test)]
mod tests;
