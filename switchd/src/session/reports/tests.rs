use super::*;
use crate::view::fake::FakeView;
use crate::view::{LinkState, View};

fn links() -> Vec<Link> {
    let mut links = FakeView::default().links();
    for (i, link) in links.iter_mut().enumerate() {
        link.node_id = Some(format!("node-{i}"));
    }
    links
}

#[test]
fn links_are_told_in_full_then_by_change_and_again_in_full() {
    let (mut reports, start) = (Reports::default(), Instant::now());
    let mut links = links();
    let first = reports.links(&links, start).unwrap();
    assert_eq!((first.full, first.links.len()), (true, links.len()));
    links[0].state = LinkState::Down;
    links[1].bytes_to_peer += 1;
    assert_eq!(reports.links(&links, start + Duration::from_millis(999)), None);
    let change = reports.links(&links, start + Duration::from_secs(1)).unwrap();
    assert_eq!((change.full, change.links.len(), change.links[0].state.as_str()), (false, 1, "down"));
    assert_eq!(reports.links(&links, start + Duration::from_secs(9)), None);
    assert!(reports.links(&links, start + Duration::from_secs(10)).unwrap().full);
    links.remove(0);
    assert!(reports.links(&links, start + Duration::from_secs(11)).unwrap().full);
    links[0].node_id = None;
    let none = reports.links(&links, start + Duration::from_secs(12)).unwrap();
    assert!(none.full && none.links.is_empty());
}

#[test]
fn networks_are_told_by_change_and_now_and_then() {
    let (mut reports, start, view) = (Reports::default(), Instant::now(), FakeView::default());
    let (mut networks, stats) = (view.status().networks, view.stats());
    let report = reports.networks(&networks, &stats, start).unwrap();
    assert!(report.networks.is_empty(), "the file's networks are not the controller's");
    networks[0].from = Origin::Controller;
    let report = reports.networks(&networks, &stats, start + Duration::from_secs(1)).unwrap();
    assert_eq!((report.networks[0].vni, report.networks[0].up), (100, true));
    assert_eq!(reports.networks(&networks, &stats, start + Duration::from_secs(2)), None);
    assert!(reports.networks(&networks, &stats, start + Duration::from_secs(11)).is_some());
}
