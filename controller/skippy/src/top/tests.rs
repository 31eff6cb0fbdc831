use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::Value;

use super::*;
use crate::testing::{link, node};

fn sample_at(bytes: u64, at: &str) -> Sample {
    Sample {
        nodes: all(vec![node("node-1", "rack1-a"), node("node-2", "rack1-b")]).unwrap(),
        links: all(vec![link("node-1", "node-2", bytes, at)]).unwrap(),
        at: at.parse().unwrap(),
    }
}

fn two_samples() -> Model {
    let mut model = Model::default();
    model.update(sample_at(1_000, "2026-03-01T12:00:00Z"));
    model.update(sample_at(251_000, "2026-03-01T12:00:02Z"));
    model
}

fn column(grid: &model::Grid, name: &str) -> Vec<String> {
    let index = grid.names.iter().position(|found| *found == name).unwrap();
    grid.rows.iter().map(|row| row[index].text.clone()).collect()
}

#[test]
fn throughput_comes_from_two_reports() {
    let mut model = Model::default();
    model.update(sample_at(1_000, "2026-03-01T12:00:00Z"));
    assert_eq!(column(&model.links(), "TO PEER"), ["-"]);
    model.update(sample_at(251_000, "2026-03-01T12:00:02Z"));
    assert_eq!(column(&model.links(), "TO PEER"), ["1 Mb/s"]);
    assert_eq!(column(&model.links(), "FROM PEER"), ["2 Mb/s"]);
    assert_eq!(column(&model.nodes(), "TO PEERS"), ["1 Mb/s", "-"]);
    assert!(model.totals().ends_with("between nodes 1 Mb/s"), "{}", model.totals());
}

#[test]
fn the_same_report_again_keeps_the_rate_and_a_new_link_has_none() {
    let mut model = two_samples();
    model.update(sample_at(251_000, "2026-03-01T12:00:02Z"));
    assert_eq!(column(&model.links(), "TO PEER"), ["1 Mb/s"]);
    // The counters of a link that was made anew begin at zero.
    model.update(sample_at(10, "2026-03-01T12:00:04Z"));
    assert_eq!(column(&model.links(), "TO PEER"), ["-"]);
}

#[test]
fn columns_sort_as_numbers_where_they_are() {
    let mut sample = sample_at(0, "2026-03-01T12:00:00Z");
    sample.nodes[0].instances = 10;
    sample.nodes[1].instances = 9;
    let mut model = Model::default();
    model.update(sample);
    let mut grid = model.nodes();
    grid.sort(3, false);
    assert_eq!(column(&grid, "INSTANCES"), ["9", "10"]);
    grid.sort(3, true);
    assert_eq!(column(&grid, "INSTANCES"), ["10", "9"]);
}

#[test]
fn scripts_get_the_apis_fields_and_rates_in_bits() {
    let json = two_samples().json();
    assert_eq!(json["links"][0]["bits_per_second_to_peer"], 1_000_000.0);
    assert_eq!(json["links"][0]["rtt_us"], 254);
    assert_eq!(json["bits_per_second"], 1_000_000.0);
    assert_eq!(json["compute_nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["at"], Value::from("2026-03-01T12:00:02.000Z"));
}

#[test]
fn the_screen_shows_both_tables_at_any_size() {
    let model = two_samples();
    let mut view = View::new("https://lab:7443/".into());
    for (width, height) in [(120, 20), (40, 8), (10, 3), (1, 1)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw::draw(frame, &model, &mut view)).unwrap();
    }
    let mut terminal = Terminal::new(TestBackend::new(120, 20)).unwrap();
    terminal.draw(|frame| draw::draw(frame, &model, &mut view)).unwrap();
    let screen = terminal.backend().to_string();
    for part in
        ["nodes 2/2 online", "rack1-a", "rack1-b", "NODE ^", "links (1)", "0.25 ms", "1 Mb/s", "q quit"]
    {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
}

#[test]
fn keys_choose_table_column_and_order() {
    let model = two_samples();
    let mut view = View::new(String::new());
    let press = |view: &mut View, code: KeyCode| obey(&Event::Key(code.into()), view);
    for code in [KeyCode::Tab, KeyCode::Char('>'), KeyCode::Char('r'), KeyCode::Down] {
        assert!(press(&mut view, code));
    }
    let mut terminal = Terminal::new(TestBackend::new(120, 20)).unwrap();
    terminal.draw(|frame| draw::draw(frame, &model, &mut view)).unwrap();
    let screen = terminal.backend().to_string();
    assert!(screen.contains("PEER v"), "{screen}");
    assert!(press(&mut view, KeyCode::Char('<')) && press(&mut view, KeyCode::Char('<')));
    terminal.draw(|frame| draw::draw(frame, &model, &mut view)).unwrap();
    assert!(terminal.backend().to_string().contains("LAST ERROR v"));
    assert!(!press(&mut view, KeyCode::Char('q')));
    assert!(obey(&Event::Resize(10, 10), &mut view));
}
