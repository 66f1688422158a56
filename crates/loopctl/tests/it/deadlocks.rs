//! `loopctl deadlocks`: the drawing, and everything as JSON.

use crate::common::{Place, is_harmless};
use serde_json::{Value, json};

/// Five loops: a circle of leases, one behind it, a queue apart from it, and one that is done waiting.
fn waiting(place: &Place) {
    place.sql(
        "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'running'), ('b', '', 2, 'running'), ('c', '', 3, 'running'),
           ('d', '', 3, 'running'), ('e', '', 3, 'running');
         INSERT INTO file_locks(file_path, locked_by) VALUES ('src/a.rs', 'a'), ('src/b.rs', 'b'), ('free', 'd');
         INSERT INTO wait_graph(waiter, holder, resource, waiting_since) VALUES
           ('a', 'b', 'src/b.rs', datetime('now', '-60 seconds')), ('b', 'a', 'src/a.rs', datetime('now', '-50 seconds')),
           ('c', 'a', 'src/a.rs', datetime('now', '-40 seconds')), ('e', 'd', 'free', datetime('now', '-5 seconds'));
         INSERT INTO wait_graph(waiter, holder, resource, wait_until) VALUES ('d', 'e', 'old', datetime('now', '-1 second'));
         INSERT INTO tests(id, loop_id, status) VALUES ('t1', 'd', 'in_progress');
         INSERT INTO tests(id, loop_id, depends_on) VALUES ('t2', 'e', 't1'), ('t3', 'c', 't2');
         INSERT INTO decisions(id, decision_type, summary, options, context, requested_by)
           VALUES ('q', 'protected_change', 'may it change this?', '[\"approve\",\"reject\"]', '{\"test_id\":\"t1\",\"loop_id\":\"d\"}', 'd');",
    );
}

fn lines(place: &Place, arguments: &[&str]) -> Vec<String> {
    let text = place.run(arguments).ok().stdout;
    // How long exactly is not the matter here.
    text.lines()
        .map(|line| line.split("  1m").next().unwrap().split("  5").next().unwrap().split("  4").next().unwrap().to_owned())
        .collect()
}

#[test]
fn who_waits_is_drawn_with_circles_first() {
    let place = Place::new();
    waiting(&place);
    let shown = lines(&place, &["deadlocks"]);
    let expected = [
        "cycle 1: a and b wait for each other and cannot proceed",
        "  ┌▶ a waits for b to release src/b.rs",
        "  │  b waits for a to release src/a.rs",
        "  └──┘",
        "  ! no victim is chosen yet; check with loopctl health that deadlock-detector runs",
        "",
        "waits",
        "  a",
        "  └─ c waits for a to release src/a.rs",
        "  d",
        "  ├─ e waits for d to release free",
        "  └─ test t1 of d is being worked on by d",
        "     └─ test t2 of e depends on test t1 of d",
        "        └─ test t3 of c depends on test t2 of e",
        "  you",
        "  └─ test t1 of d waits for your answer: may it change this?",
        "  1 edge not shown: no longer blocking",
    ];
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown == expected || shown.starts_with(&format!("{expected}  ")), "{shown:?} instead of {expected:?}");
    }
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");

    // Named by the detector, and answered in part.
    place.sql(
        "INSERT INTO deadlocks(id, victim, cycle, locks, reason, revoke_at, event_id)
           VALUES ('k', 'b', '[\"b\",\"a\"]', '[\"src/b.rs\"]', 'because', datetime('now', '+20 seconds'), 'e');
         INSERT INTO deadlocks(id, victim, cycle, locks, reason, detected_at, revoke_at, resolved_at, outcome, event_id)
           VALUES ('l', 'c', '[\"c\",\"a\"]', '[]', 'then', datetime('now', '-1 hour'), datetime('now', '-1 hour'), datetime('now', '-59 minutes'), 'revoked', 'e'),
                  ('m', 'd', '[\"d\",\"a\"]', '[]', 'long ago', datetime('now', '-3 days'), datetime('now', '-3 days'), datetime('now', '-3 days'), 'dissolved', 'e');",
    );
    let text = place.run(&["deadlocks"]).ok().stdout;
    for part in [
        "┌▶ b waits for a",
        "! victim b: asked ",
        "to release src/b.rs within ",
        "resolved in the last 24 hours",
        "c did not respond; its leases were revoked after 1m",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("long ago") && !text.contains("no victim"), "{text}");
    let text = place.run(&["deadlocks", "--all"]).ok().stdout;
    assert!(text.contains("the cycle dissolved after 0s; d was the victim") && text.contains("long ago"), "{text}");
}

#[test]
fn json_has_everything_in_one_list() {
    let place = Place::new();
    assert_eq!(place.json(&["deadlocks"]), json!([]));
    assert!(place.run(&["deadlocks"]).ok().stdout.starts_with("no waits and no deadlocks"));
    assert_eq!(place.run(&["--quiet", "deadlocks"]).ok().stdout, "");
    waiting(&place);
    place.sql(
        "INSERT INTO deadlocks(id, victim, cycle, locks, reason, revoke_at, event_id)
         VALUES ('k', 'b', '[\"b\",\"a\"]', '[\"src/b.rs\"]', 'because', datetime('now', '+20 seconds'), 'e')",
    );
    let all = place.json(&["deadlocks"]);
    let of = |kind: &str| -> Vec<&Value> { all.as_array().unwrap().iter().filter(|entry| entry["entry"] == kind).collect() };
    // An open deadlock comes first, as its row.
    assert_eq!(
        (&all[0]["id"], &all[0]["victim"], &all[0]["cycle"], &all[0]["resolved_at"]),
        (&json!("k"), &json!("b"), &json!(["b", "a"]), &Value::Null)
    );
    let circles = of("circle");
    assert_eq!(circles.len(), 1);
    assert_eq!((&circles[0]["loops"], &circles[0]["victims"]), (&json!(["b", "a"]), &json!(["b"])));
    let waits = of("wait");
    let find =
        |waiter: &str, test: Value| *waits.iter().find(|wait| wait["waiter"] == waiter && wait["waiter_test"] == test).unwrap();
    let a = find("a", Value::Null);
    assert_eq!(
        (&a["kind"], &a["holder"], &a["resource"], &a["circle"], &a["alive"]),
        (&json!("lease"), &json!("b"), &json!("src/b.rs"), &json!(1), &json!(true))
    );
    assert!(a["waiting_since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(find("c", Value::Null)["circle"], Value::Null);
    assert_eq!(find("d", Value::Null)["alive"], false);
    assert_eq!((&find("e", json!("t2"))["kind"], &find("e", json!("t2"))["holder_test"]), (&json!("dependency"), &json!("t1")));
    assert!(waits.iter().any(|wait| wait["kind"] == "decision" && wait["decision_id"] == "q" && wait["holder"] == "human"));
}

#[test]
fn twenty_loops_fit_a_terminal_and_ten_thousand_edges_are_counted() {
    let place = Place::new();
    place.sql(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19)
         INSERT INTO wait_graph(waiter, holder, resource) SELECT 'l' || i, 'l' || ((i + 1) % 20), 'r' FROM n;
         INSERT INTO wait_graph(waiter, holder, resource) VALUES ('\u{1b}[2J', 'l0', 'x');",
    );
    let text = place.run(&["deadlocks"]).ok().stdout;
    is_harmless(&text);
    assert!(text.starts_with("cycle 1: 20 loops wait for each other"), "{text}");
    assert_eq!(text.matches(" to release r").count(), 20, "{text}");
    place.sql(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
         INSERT INTO wait_graph(waiter, holder, resource) SELECT 'w' || i, 'w' || (i + 1), 'r' || i FROM n;",
    );
    let text = place.run(&["deadlocks"]).ok().stdout;
    assert!(text.lines().count() < 220, "{}", text.lines().count());
    assert!(text.contains("more lines; --json shows all"), "{text}");
}
