//! One thing has one shape, whichever command prints it (the table in schema/README.md).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::Place;

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

/// Each of these has what the first one has, and besides only what is named.
#[track_caller]
fn same(first: &Value, others: &[(&Value, &[&str])]) {
    let shape = fields(first);
    assert!(!shape.is_empty());
    for (other, more) in others {
        let expected: BTreeSet<&str> = shape.iter().copied().chain(more.iter().copied()).collect();
        assert_eq!(fields(other), expected);
    }
}

#[test]
fn one_thing_has_one_shape() {
    let place = Place::with_loops();
    let check = "[[gate.check]]\nname = \"suite\"\ncommand = [\"true\"]\n";
    std::fs::write(place.home().join("config.toml"), check).unwrap();
    let added = place.json(&["test", "add", "t1", "--loop", "a", "--allow-no-change"]);
    let question = place.json(&["ask", "--summary", "which?", "--option", "A=x", "--option", "B=y"]);
    place.run(&["subscribe", "tool", "--types", "test_started"]).ok();
    place.run(&["own", "src/", "--loop", "a"]).ok();

    let next = place.json(&["next", "--loop", "a"]);
    let working = place.json(&["status"]);
    let of_a = &working["loops"][0];
    let submitted = place.json(&["submit", "t1"]);
    let of_test = place.json(&["status", "t1"]);
    let summary = place.json(&["summary"]);
    same(
        &place.json(&["tests"])[0],
        &[
            (&added, &[]),
            (&place.json(&["test", "list"])[0], &[]),
            (&next, &["workspace", "worktree"]),
            (&of_a["current_test"], &[]),
            (&of_test["test"], &[]),
            (&summary["passed"][0], &[]),
            (&place.json(&["reset", "t1", "--force"]), &[]),
        ],
    );
    let row = &place.json(&["loops"])[0];
    same(row, &[(&place.json(&["loop", "list"])[1], &[]), (&place.json(&["priority", "b", "2"]), &[])]);
    assert!(fields(row).is_subset(&fields(of_a)));

    let started = place.sql("SELECT id FROM events WHERE event_type = 'test_started'");
    let why = place.json(&["why", &started]);
    same(
        &place.json(&["timeline"])[0],
        &[
            (&place.json(&["publish", "custom.x"]), &[]),
            (&place.json(&["poll", "tool"])[0], &["seq", "tries", "subscription_id"]),
            (&why["event"], &[]),
            (&why["effects"][0], &["depth"]),
            (&of_test["events"][0], &[]),
        ],
    );
    same(&place.json(&["decisions"])[0], &[(&question, &[]), (&working["decisions"][0], &[]), (&summary["decisions"][0], &[])]);
    let passed = place.sql("SELECT id FROM events WHERE event_type = 'test_passed'");
    same(
        &of_test["proofs"][0],
        &[(&submitted["proofs"][0], &[]), (&place.json(&["why", &passed])["evidence"]["proofs"][0], &[])],
    );
    assert!(fields(&place.json(&["logs", "t1"])[0]).contains("path"));

    let beaten = place.json(&["beat", "--loop", "a"]);
    same(&beaten, &[(&place.json(&["health"])[0], &[]), (&place.json(&["status"])["components"][0], &[])]);
    place.run(&["lock", "x", "--loop", "a"]).ok();
    same(&place.json(&["locks"])[0], &[(&place.json(&["status"])["loops"][0]["leases"][0], &[])]);
    let request = place.json(&["request", "create", "src/", "--loop", "b"]);
    let id = request["id"].as_str().unwrap();
    same(
        &request,
        &[
            (&place.json(&["requests"])[0], &[]),
            (&place.json(&["request", "approve", id]), &[]),
            (&place.json(&["request", "apply", id]), &[]),
        ],
    );
    let item = place.json(&["knowledge", "add", "known"]);
    same(
        &item,
        &[
            (&place.json(&["knowledge", "list"])[0], &[]),
            (&place.json(&["knowledge", "history", item["id"].as_str().unwrap()])[0], &[]),
        ],
    );
    let allocated = place.json(&["migration", "allocate", "first", "--loop", "a"]);
    same(
        &place.json(&["migrations"])[0],
        &[(&allocated, &["unused_numbers"]), (&place.json(&["migration", "done", "1"]), &[])],
    );
    place.sql("INSERT INTO transaction_log (id, operation) VALUES ('j', 'tidy')");
    same(&place.json(&["journal"])[0], &[(&place.json(&["journal", "--settle", "j", "--done"]), &[])]);
    place.sql("INSERT INTO alerts (id, severity, alert_type, message) VALUES ('al', 'info', 'stuck', 'm')");
    same(
        &place.json(&["alerts"])[0],
        &[
            (&place.json(&["stuck"])["alerts"][0], &[]),
            (&place.json(&["status"])["alerts"][0], &[]),
            (&place.json(&["ack-alert", "al"]), &[]),
        ],
    );
    let paused = &place.json(&["pause", "b"])[0];
    same(paused, &[(&place.json(&["resume", "b"])[0], &[]), (&place.json(&["restart", "b"]), &[])]);
}
