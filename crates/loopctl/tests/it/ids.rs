//! Ids that git takes in no ref's name are refused when something new gets them, and read where they stand.

use crate::common::Place;

#[test]
fn what_no_branch_can_be_named_after_is_refused() {
    let place = Place::with_loops();
    for (id, why) in [("a..b", "\"..\""), ("a.", "ends with \".\""), ("x.lock", "\".lock\"")] {
        place.run(&["loop", "add", id]).fails(2).says(why).says("choose another id");
        place.run(&["test", "add", id, "--loop", "a"]).fails(2).says(why).says("choose another id");
    }
    place.run(&["loop", "add", "integration"]).fails(2).says("coding-loops/integration is the branch");
    std::fs::write(place.home().join("config.toml"), "[repository]\nintegration_branch = \"coding-loops/main\"\n").unwrap();
    place.run(&["loop", "add", "main"]).fails(2).says("coding-loops/main is the integration branch");
    place.run(&["loop", "add", "main", "--branch", "work/main"]).ok();
    let tests = "[[test]]\nid = \"good\"\nloop = \"a\"\n\n[[test]]\nloop = \"a\"\nid = \"x.lock\"\n";
    place.run_with(tests, &["test", "import", "-"]).fails(2).says("-:7: \"x.lock\" cannot be a test id");
    assert_eq!(place.json(&["tests"]), serde_json::json!([]), "all or none");
    place.run(&["test", "add", "integration", "--loop", "a"]).ok();
}

#[test]
fn rows_of_before_with_such_ids_are_read_and_steered() {
    let place = Place::with_loops();
    place.sql(
        "INSERT INTO loops (id, name, priority, status) VALUES ('integration', 'I', 1, 'running'), ('a..b', 'B', 1, 'running');
         INSERT INTO tests (id, loop_id) VALUES ('x.lock', 'a..b')",
    );
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 4);
    assert_eq!(place.json(&["status", "x.lock"])["test"]["loop_id"], "a..b");
    place.run(&["skip", "x.lock"]).ok();
    place.run(&["pause", "integration"]).ok();
    place.run(&["test", "add", "after", "--loop", "a..b", "--depends-on", "x.lock"]).ok();
}

/// A UUIDv7 with this end.
fn uuid(end: &str) -> String {
    format!("01a20887-a7a2-779d-8fa1-f77f{end}")
}

#[test]
fn a_short_form_is_printed_and_taken_wherever_an_id_is() {
    let place = Place::with_loops();
    place.sql(&format!(
        "INSERT INTO decisions (id, decision_type, summary, options) VALUES
           ('{}', 'x', 'one', '[{{\"id\": \"A\", \"description\": \"a\"}}]'),
           ('01a20887-a7a2-779d-8fa1-aaaa{same}', 'x', 'two', '[{{\"id\": \"A\", \"description\": \"a\"}}]'),
           ('01a20887-a7a2-779d-8fa1-bbbb{same}', 'x', 'three', '[{{\"id\": \"A\", \"description\": \"a\"}}]');
         INSERT INTO alerts (id, severity, alert_type, message) VALUES ('{}', 'info', 'stuck', 'm');
         INSERT INTO knowledge (id, item_type, content) VALUES ('{}', 'fact', 'old'), ('{}', 'fact', 'new');
         INSERT INTO events (id, source, event_type) VALUES ('{}', 'tool', 'custom.x');
         INSERT INTO transaction_log (id, operation) VALUES ('{}', 'tidy')",
        uuid("1d1d1d1d"),
        uuid("2a2a2a2a"),
        uuid("3b3b3b3b"),
        uuid("4c4c4c4c"),
        uuid("5e5e5e5e"),
        uuid("6f6f6f6f"),
        same = "0c0c0c0c",
    ));
    place.run(&["own", "src/", "--loop", "a"]).ok();
    let request = place.run(&["request", "create", "src/", "--loop", "b"]).ok().stdout.trim().to_owned();
    let short_request = &request[28..];

    let shown = |arguments: &[&str], end: &str| {
        let text = place.run(arguments).ok().stdout;
        let word = text.split_whitespace().find(|word| word.ends_with(end)).unwrap_or_else(|| panic!("{end} in {text}"));
        assert_eq!(word, end, "{text}");
    };
    shown(&["decisions"], "1d1d1d1d");
    shown(&["status"], "1d1d1d1d");
    // As long as it takes to be the only one.
    shown(&["decisions"], "a0c0c0c0c");
    shown(&["status"], "b0c0c0c0c");
    shown(&["alerts"], "2a2a2a2a");
    shown(&["status"], "2a2a2a2a");
    shown(&["knowledge", "list"], "3b3b3b3b");
    shown(&["timeline"], "5e5e5e5e");
    shown(&["why", "5e5e5e5e"], "5e5e5e5e");
    shown(&["journal"], "6f6f6f6f");
    shown(&["requests"], short_request);
    assert_eq!(place.json(&["alerts"])[0]["id"], uuid("2a2a2a2a").as_str(), "JSON has the whole id");

    let ambiguous = place.run(&["decide", "0c0c0c0c", "A"]).fails(2).says("ambiguous");
    ambiguous.says("01a20887-a7a2-779d-8fa1-aaaa0c0c0c0c").says("01a20887-a7a2-779d-8fa1-bbbb0c0c0c0c");
    place.run(&["decide", "01a20887", "A"]).fails(2).says("ambiguous");
    place.run(&["decide", "d1d", "A"]).fails(4).says("d1d");
    assert!(place.run(&["decide", "a0c0c0c0c", "A"]).ok().stdout.starts_with("decision a0c0c0c0c"));
    place.run(&["decide", "1d1d", "A"]).ok();
    place.run(&["ack-alert", "2a2a2a2a"]).ok();
    place.run(&["knowledge", "supersede", "3b3b3b3b", "--by", "4c4c4c4c"]).ok();
    shown(&["knowledge", "history", "4c4c4c4c"], "3b3b3b3b");
    place.run(&["knowledge", "add", "newest", "--supersedes", "4c4c4c4c"]).ok();
    place.run(&["request", "approve", short_request]).ok();
    place.run(&["request", "apply", short_request]).ok();
    place.run(&["publish", "custom.y", "--caused-by", "5e5e5e5e"]).ok();
    assert_eq!(place.sql("SELECT caused_by FROM events WHERE event_type = 'custom.y'"), uuid("5e5e5e5e"));
    place.run(&["journal", "--settle", "6f6f6f6f", "--undone"]).ok();
    assert_eq!(place.json(&["why", "5e5e5e5e"])["effects"][0]["event_type"], "custom.y");

    place.run(&["subscribe", "tool", "--types", "custom.*"]).ok();
    let event = place.run(&["publish", "custom.z"]).ok().stdout.trim().to_owned();
    shown(&["poll", "tool"], &event[28..]);
    place.run(&["ack", "tool", &event[28..]]).ok();
    assert_eq!(place.json(&["poll", "tool"]), serde_json::json!([]));
}
