//! Budgets, and the sizes of database and disk.

use super::*;

fn levels(snapshots: impl IntoIterator<Item = MonitorSnapshot>) -> Vec<Vec<String>> {
    let mut alerts = std::collections::BTreeMap::new();
    let mut all = Vec::new();
    for mut snapshot in snapshots {
        snapshot.alerts = alerts;
        all.push(told(&snapshot));
        alerts = after(&snapshot).alerts;
    }
    all
}

#[test]
fn each_level_of_a_budget_is_reported_once() {
    let used = [399_999, 400_000, 400_001, 475_000, 480_000, 500_000, 900_000];
    let snapshots = used.map(|tokens| {
        let mut view = at_work("a");
        view.tests[0].spent.tokens = tokens;
        world(vec![view])
    });
    let name = "resource:tokens_per_test:a:t-a say resource_warning";
    let (raise, escalate) = (format!("raise {name}"), format!("escalate {name}"));
    let amend = vec!["amend resource:tokens_per_test:a:t-a".to_owned()];
    let (raised, escalated) = (vec![raise.clone()], vec![escalate]);
    let expected = [vec![], raised, vec![], escalated.clone(), amend.clone(), escalated, amend];
    assert_eq!(levels(snapshots.clone()), expected);
    // A jump past all of them is reported once.
    assert_eq!(levels([snapshots[6].clone(), snapshots[6].clone()]), [vec![raise], vec![]]);
    let Some(Action::Raise(finding, Some(said))) = plan(&snapshots[6]).pop() else { panic!() };
    assert_eq!((finding.severity, &said.payload["percentage"]), (Severity::Error, &180.into()));
    assert_eq!((&said.payload["test_id"], &said.payload["loop_id"]), (&"t-a".into(), &"a".into()));
}

#[test]
fn a_budget_closes_with_its_test_and_zero_means_no_limit() {
    let mut view = at_work("a");
    view.tests[0].spent.tokens = 600_000;
    let snapshot = world(vec![view]);
    let mut open = after(&snapshot);
    let mut config = settings();
    config.budget.tokens_per_test = 0;
    assert_eq!(decide(&config, &snapshot).actions, []);
    open.loops[0].tests.clear();
    open.loops[0].current = None;
    assert_eq!(told(&open), ["close resource:tokens_per_test:a:t-a"]);
}

#[test]
fn minutes_count_what_is_recorded_and_the_attempt_that_runs_and_not_its_rests() {
    let mut view = begun("a", 20);
    view.output = Some(heard(NOW));
    view.tests[0].seconds = 75 * 60;
    nothing(&world(vec![view.clone()]));
    view.tests[0].seconds = 76 * 60;
    assert_eq!(told(&world(vec![view.clone()])), ["raise resource:minutes_per_test:a:t-a say resource_warning"]);
    // What the attempt has recorded of itself is not counted twice.
    view.tests[0].seconds_in_attempt = 5 * 60;
    nothing(&world(vec![view.clone()]));
    view.tests[0].seconds_in_attempt = 0;
    view.excused_at = Some(ago(1));
    nothing(&world(vec![view]));
}

#[test]
fn days_the_database_and_the_disk_have_limits_too() {
    let mut snapshot = world(Vec::new());
    snapshot.tests_today = 80;
    snapshot.used_today.tokens = 5_000_000;
    snapshot.database_bytes = 960_000_000;
    snapshot.disk = Some(Disk { free_bytes: 90_000_000, total_bytes: 100_000_000_000 });
    assert_eq!(
        told(&snapshot),
        [
            "raise resource:tests_per_day:2027-01-15 say resource_warning",
            "raise resource:tokens_per_day:2027-01-15 say resource_warning",
            "raise resource:database say resource_warning",
            "raise resource:disk say resource_warning",
        ]
    );
    let mut open = after(&snapshot);
    nothing(&open);
    open.day = "2027-01-16".to_owned();
    (open.tests_today, open.used_today.tokens) = (0, 0);
    open.disk = Some(Disk { free_bytes: 550_000_000, total_bytes: 100_000_000_000 });
    assert_eq!(told(&open), ["close resource:tests_per_day:2027-01-15", "close resource:tokens_per_day:2027-01-15"]);
    open = after(&open);
    open.database_bytes = 1000;
    open.disk = Some(Disk { free_bytes: 600_000_000, total_bytes: 100_000_000_000 });
    assert_eq!(told(&open), ["close resource:database", "close resource:disk"]);
}

#[test]
fn the_disk_is_that_of_one_host_and_no_other_one_closes_its_alert() {
    let mut snapshot = world(Vec::new());
    snapshot.host = Some("build-3/1a2b3c4d".to_owned());
    snapshot.disk = Some(Disk { free_bytes: 90_000_000, total_bytes: 100_000_000_000 });
    assert_eq!(told(&snapshot), ["raise resource:disk:build-3/1a2b3c4d say resource_warning"]);
    let Some(Action::Raise(finding, _)) = plan(&snapshot).pop() else { panic!() };
    assert!(finding.message.contains("of the disk of build-3 (90 MB free)"), "{}", finding.message);
    let mut open = after(&snapshot);
    open.disk = Some(Disk { free_bytes: 50_000_000_000, total_bytes: 100_000_000_000 });
    open.host = Some("build-4/5e6f7a8b".to_owned());
    nothing(&open);
    open.host = snapshot.host;
    assert_eq!(told(&open), ["close resource:disk:build-3/1a2b3c4d"]);
}

// ---- heartbeat ----
