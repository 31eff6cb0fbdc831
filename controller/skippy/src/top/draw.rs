//! The screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, TableState};

use super::model::{Cell, Grid, LINK_COLUMNS, Model, NODE_COLUMNS};
use crate::output::clean;

/// What the user has chosen.
#[derive(Debug, Default)]
pub(crate) struct View {
    controller: String,
    pub(crate) focus: Focus,
    pub(crate) error: Option<String>,
    nodes: TableView,
    links: TableView,
}

/// Which table the keys go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Focus {
    #[default]
    Nodes,
    Links,
}

/// How one table is sorted and scrolled.
#[derive(Debug, Default)]
pub(crate) struct TableView {
    column: usize,
    columns: usize,
    pub(crate) reverse: bool,
    offset: usize,
}

impl View {
    pub(crate) fn new(controller: String) -> Self {
        Self { controller, ..Self::default() }
    }

    /// The table that has the focus.
    pub(crate) fn table(&mut self) -> &mut TableView {
        let (table, columns) = match self.focus {
            Focus::Nodes => (&mut self.nodes, NODE_COLUMNS.len()),
            Focus::Links => (&mut self.links, LINK_COLUMNS.len()),
        };
        table.columns = columns;
        table
    }
}

impl TableView {
    pub(crate) fn next_column(&mut self) {
        self.column = (self.column + 1) % self.columns.max(1);
    }

    pub(crate) fn previous_column(&mut self) {
        self.column = (self.column + self.columns.max(1) - 1) % self.columns.max(1);
    }

    pub(crate) fn scroll_by(&mut self, rows: isize) {
        self.offset = self.offset.saturating_add_signed(rows);
    }
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, view: &mut View) {
    let (nodes, links) = (model.nodes(), model.links());
    // The nodes get what they need, up to half of the screen.
    let wanted = u16::try_from(nodes.rows.len()).unwrap_or(u16::MAX).saturating_add(3);
    let height = wanted.min(frame.area().height.saturating_sub(3) / 2).max(4);
    let [head, top, bottom, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(height),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(model.totals()).bold(), head);
    draw_table(frame, top, "nodes", nodes, &mut view.nodes, view.focus == Focus::Nodes);
    draw_table(frame, bottom, "links", links, &mut view.links, view.focus == Focus::Links);
    let line = match &view.error {
        Some(error) => Line::from(Span::from(clean(&error.replace('\n', " "))).red()),
        None => Line::from(format!(
            "q quit  Tab table  < > sort by  r reverse  arrows scroll  {}",
            view.controller
        )),
    };
    frame.render_widget(Paragraph::new(line), foot);
}

fn draw_table(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    mut grid: Grid,
    view: &mut TableView,
    focus: bool,
) {
    grid.sort(view.column, view.reverse);
    // The header and the borders take three lines.
    let room = usize::from(area.height.saturating_sub(3));
    view.offset = view.offset.min(grid.rows.len().saturating_sub(room));
    let widths = grid.names.iter().enumerate().map(|(column, name)| {
        let widest = grid.rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
        Constraint::Length(u16::try_from(widest.max(name.len() + 2)).unwrap_or(u16::MAX))
    });
    let widths: Vec<_> = widths.collect();
    let names =
        grid.names.iter().enumerate().map(|(column, name)| match (column == view.column, view.reverse) {
            (true, false) => format!("{name} ^"),
            (true, true) => format!("{name} v"),
            (false, _) => (*name).to_owned(),
        });
    let header = Row::new(names).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = grid.rows.iter().map(|row| Row::new(row.iter().map(|cell| styled(cell))));
    let title = format!(" {title} ({}) ", grid.rows.len());
    let block = Block::bordered().title(if focus { Span::from(title).reversed() } else { Span::from(title) });
    let table = Table::new(rows, widths).header(header).column_spacing(2).block(block);
    let mut state = TableState::new().with_offset(view.offset);
    frame.render_stateful_widget(table, area, &mut state);
}

fn styled(cell: &Cell) -> Span<'_> {
    let span = Span::from(cell.text.as_str());
    match cell.text.as_str() {
        "up" | "online" => span.green(),
        "down" | "offline" | "cloned" => span.red(),
        "connecting" | "pending" | "draining" => span.yellow(),
        _ => span,
    }
}
