//! What loops share, through the real program: knowledge, questions, and what the work has cost.

use crate::common;
use crate::common::{Place, ran};
use serde_json::{Value, json};
use test_support::sql;

fn know(place: &Place, arguments: &[&str]) -> String {
    place.json(&[&["knowledge", "add"], arguments].concat())["id"].as_str().unwrap().to_owned()
}

fn contents(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["content"].as_str().unwrap()).collect()
}

#[test]
fn knowledge_of_every_author_is_found_by_every_kind_of_search() {
    let place = Place::with_loops();
    know(&place, &["sessions expire after an hour", "--loop", "a", "--topic", "auth", "--area", "src/auth/**"]);
    know(&place, &["never edit generated files", "--type", "warning"]);
    place.sql("INSERT INTO knowledge (id, item_type, content) VALUES ('by-shell', 'pattern', 'expired sessions are logged')");
    let search = |arguments: &[&str]| place.json(&[&["knowledge", "search"], arguments].concat());
    assert_eq!(search(&["session", "expiring"]).as_array().unwrap().len(), 2);
    assert_eq!(contents(&search(&["--topic", "AUTH"])), ["sessions expire after an hour"]);
    assert_eq!(contents(&search(&["--path", "src/auth/login.rs"])), ["sessions expire after an hour"]);
    assert_eq!(contents(&search(&["--type", "warning"])), ["never edit generated files"]);
    assert_eq!(search(&["--limit", "2"]).as_array().unwrap().len(), 2);
    for hostile in ["\"", "'", "*", "NEAR", "NEAR(", "a\"b", "topic:x", "(", "", "^", "🦀", "x OR", "sessions*"] {
        place.run(&["knowledge", "search", hostile]).ok();
        place.run(&["knowledge", "search", hostile, "sessions"]).ok();
    }
    place.run(&["knowledge", "search", "--", "-x", "--all"]).ok();
    place.run(&["knowledge", "add", " "]).fails(2).says("the content is empty");
    place.run(&["knowledge", "add", "x", "--area", "/etc/**"]).fails(2).says("write it as src/**");
    place.run(&["knowledge", "add", "x", "--supersedes", "nothing"]).fails(4);
    assert_eq!(place.json(&["check"]), json!([]));
    place.sql("DELETE FROM knowledge_words WHERE rowid = 1");
    place.run(&["check"]).fails(1);
}

#[test]
fn superseding_keeps_the_history_and_a_contradiction_is_reported() {
    let place = Place::with_loops();
    let decide = |text: &str, more: &[&str]| know(&place, &[&[text, "--type", "decision", "--topic", "style"], more].concat());
    let conflicts = || place.sql("SELECT count(*) FROM events WHERE event_type = 'knowledge_conflict'");
    let tabs = decide("tabs", &[]);
    let spaces = decide("spaces", &["--loop", "b"]);
    assert_eq!(conflicts(), "1");
    assert_eq!(place.json(&["poll", "pm"])[0]["payload"]["existing_knowledge_id"], tabs.as_str());
    place.run(&["knowledge", "supersede", &tabs, "--by", &spaces]).ok();
    let none = decide("neither", &["--supersedes", &spaces]);
    assert_eq!(conflicts(), "1");
    place.run(&["knowledge", "supersede", &none, "--by", &tabs]).fails(1).says("superseded by");
    place.run(&["knowledge", "supersede", &tabs, "--by", &none]).fails(1);
    assert_eq!(contents(&place.json(&["knowledge", "search", "--topic", "style"])), ["neither"]);
    assert_eq!(place.json(&["knowledge", "search", "--topic", "style", "--all"]).as_array().unwrap().len(), 3);
    for id in [&tabs, &spaces, &none] {
        assert_eq!(contents(&place.json(&["knowledge", "history", id])), ["tabs", "spaces", "neither"]);
    }
    assert!(place.run(&["knowledge", "history", &tabs]).ok().stdout.contains(&none[28..]));
    place.run(&["knowledge", "history", "nothing"]).fails(4).says("knowledge search");
}

#[test]
fn the_context_of_a_test_is_bounded_and_safe_to_print() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a", "--scope", "src/**"]).ok();
    assert_eq!(place.json(&["knowledge", "context", "t"]), json!({ "items": [], "left_out": 0, "more": false }));
    place.run(&["knowledge", "context", "t"]).ok();
    for number in 0..30 {
        place.sql(&format!(
            "INSERT INTO knowledge (id, item_type, content, affected_areas)
             VALUES ('k{number}', 'fact', 'number {number} ' || char(27) || '[2J' || printf('%.300c', 'x'), '[\"src/a{number}.rs\"]')"
        ));
    }
    let told = place.run(&["knowledge", "context", "t", "--bytes", "2000"]).ok().stdout;
    common::is_harmless(&told);
    assert!(told.len() <= 2_000 && told.contains("less relevant are left out"), "{told}");
    let json = place.json(&["knowledge", "context", "t", "--bytes", "2000"]);
    assert_eq!(json["items"].as_array().unwrap().len() as u64 + json["left_out"].as_u64().unwrap(), 30);
}

#[test]
fn a_dump_of_either_kind_has_its_knowledge_found_again() {
    let place = Place::with_loops();
    for text in ["one printer", "two printers", "three scanners"] {
        know(&place, &[text, "--area", "src/**"]);
    }
    place.sql("DELETE FROM knowledge WHERE content = 'one printer'");
    let version = place.sql("PRAGMA user_version");
    let foreign = format!("{}\nPRAGMA application_id = 1665953616; PRAGMA user_version = {version};", place.sql(".dump"));
    for (name, text) in [("own", place.run(&["dump"]).ok().stdout), ("foreign", foreign)] {
        let (file, copy) = (place.outside().join(name), place.outside().join(format!("{name}.db")));
        std::fs::write(&file, text).unwrap();
        sql(&copy, &format!(".read '{}'", file.display()));
        let db = copy.to_str().unwrap();
        let found = place.json(&["--db", db, "knowledge", "search", "printer", "--path", "src/x"]);
        assert_eq!(contents(&found), ["two printers"], "{name}");
        assert_eq!(place.json(&["--db", db, "check"]), json!([]), "{name}");
    }
}

#[test]
fn a_question_needs_a_choice() {
    let place = Place::with_loops();
    let ask = |options: &[&str]| {
        let mut arguments = vec!["ask", "--summary", "which?"];
        options.iter().for_each(|option| arguments.extend(["--option", option]));
        place.run(&arguments)
    };
    ask(&["A=x"]).fails(2).says("at least two");
    ask(&["A=x", "A=y"]).fails(2).says("named twice");
    ask(&["A=x", "=y"]).fails(2).says("typed");
    ask(&["A=x", "B=y"]).ok();
}

#[test]
fn an_answer_that_is_not_applied_yet_is_shown_as_one() {
    let place = Place::with_loops();
    let asked = place.json(&["ask", "--summary", "which?", "--option", "A=x", "--option", "B=y"]);
    let id = asked["id"].as_str().unwrap();
    place.run(&["decide", id, "A"]).ok().says("pm-agent is not running; apply the answer now");
    for command in ["decisions", "status"] {
        let shown = place.run(&[command]).ok().stdout;
        assert!(shown.contains("answered with A; pm-agent applies it when it runs"), "{shown}");
    }
    assert_eq!(place.json(&["decisions"])[0]["answered"], "A");
    // A loop applies it where it is about the base.
    place.sql(&format!("UPDATE decisions SET decision_type = 'base_red' WHERE id = '{id}'"));
    place.sql("DELETE FROM deliveries");
    place.run(&["decide", id, "B"]).ok().says("the next loop that starts an attempt applies the answer");
}

/// Several people in as many processes.
#[test]
fn of_several_humans_who_answer_at_once_exactly_one_decides_and_the_others_are_told() {
    let place = Place::with_loops();
    for _ in 0..3 {
        let asked = place.json(&["ask", "--summary", "which?", "--option", "A=x", "--option", "B=y", "--default", "A"]);
        let id = asked["id"].as_str().unwrap().to_owned();
        let people = ["alice", "bob", "carol", "dave"];
        let running: Vec<_> = people
            .iter()
            .enumerate()
            .map(|(at, who)| place.spawn(&["--as", who, "--json", "decide", &id, ["A", "B"][at % 2]]))
            .collect();
        let ended: Vec<_> = running.into_iter().map(|child| ran(child.wait_with_output().unwrap())).collect();
        let winners: Vec<usize> = (0..people.len()).filter(|at| ended[*at].code == 0).collect();
        assert_eq!(winners.len(), 1, "{:?}", ended.iter().map(|ran| &ran.stderr).collect::<Vec<_>>());
        let (winner, choice) = (people[winners[0]], ["A", "B"][winners[0] % 2]);
        for loser in ended.iter().filter(|ran| ran.code != 0) {
            assert_eq!(loser.code, 1);
            let told = format!("was answered: \"{choice}\", by {winner} at ");
            assert!(loser.stderr.contains(&told), "{}", loser.stderr);
        }
        let said = format!(
            "SELECT source, count(*) FROM events WHERE event_type = 'human_message' AND json_extract(payload, '$.decision_id') = '{id}'"
        );
        assert_eq!(place.sql(&said), format!("{winner}|1"));
        place.sql(&format!(
            "UPDATE decisions SET status = 'decided', choice = '{choice}', decided_at = '2026-11-22 10:00:00', decided_by = 'human' WHERE id = '{id}'"
        ));
        place
            .run(&["decide", &id, "A"])
            .fails(1)
            .says(&format!("was decided: \"{choice}\", by human at 2026-11-22T10:00:00.000Z"));
    }
}

#[test]
fn a_late_answer_and_a_loops_answer_are_refused() {
    let place = Place::with_loops();
    place.sql(
        r#"INSERT INTO decisions (id, decision_type, summary, options, default_option, status, choice, decided_at, decided_by) VALUES
             ('by-default', 'x', 's', '["A", "B"]', 'A', 'auto_resolved', 'A', '2026-11-22 10:00:00', 'auto'),
             ('closed', 'x', 's', '["A", "B"]', NULL, 'expired', NULL, '2026-11-22 10:00:00', 'auto'),
             ('open', 'x', 's', '["A", "B"]', NULL, 'pending', NULL, NULL, NULL)"#,
    );
    place
        .run(&["decide", "by-default", "B"])
        .fails(1)
        .says("auto_resolved to its default: \"A\", by auto at 2026-11-22T10:00:00.000Z");
    place.run(&["decide", "closed", "B"]).fails(1).says("expired without an answer, by auto at 2026-11-22T10");
    place.run(&["decide", "open", "C"]).fails(2).says("choose A, B");
    place.run(&["decide", "nothing", "A"]).fails(4);
    place.run(&["--as", "a", "decide", "open", "A"]).fails(1).says("the human must");
    assert_eq!(place.sql("SELECT count(*) FROM events WHERE event_type = 'human_message'"), "0");
    place.run(&["decide", "open", "A"]).ok();
}

#[test]
fn the_report_shows_use_budgets_and_who_is_charged_with_rework() {
    let place = Place::with_loops();
    for (test, id) in [("ta", "a"), ("tb", "b")] {
        place.run(&["test", "add", test, "--loop", id]).ok();
        place.run(&["next", "--loop", id]).ok();
    }
    // b lands first; what a had done by then is lost.
    place.run(&["usage", "record", "--loop", "b", "--test", "tb", "--tokens", "3000", "--seconds", "30"]).ok();
    let passed = json!({"test_id": "tb", "loop_id": "b", "attempt": 1, "duration_seconds": 30, "files_modified": [], "verified": true,
        "verification_checks": {}, "commit": "c"});
    place.sql(&format!(
        "INSERT INTO events (id, source, event_type, payload) VALUES ('landed', 'b', 'test_passed', '{passed}')"
    ));
    place.run(&["usage", "record", "--loop", "a", "--test", "ta", "--tokens", "1000", "--seconds", "10"]).ok();
    let failed = json!({"test_id": "ta", "loop_id": "a", "attempt": 1, "error_category": "conflict", "error_message": "m", "will_retry": true});
    place.sql(&format!(
        "INSERT INTO events (id, source, event_type, payload, caused_by) VALUES ('lost', 'a', 'test_failed', '{failed}', 'landed')"
    ));
    let report = place.json(&["usage", "report"]);
    assert_eq!(
        [&report[0]["rework_suffered_tokens"], &report[0]["tokens_per_passed"], &report[1]["rework_caused_tokens"]],
        [&json!(1000), &Value::Null, &json!(1000)]
    );
    assert_eq!((&report[1]["tokens_per_passed"], &report[1]["seconds_per_passed"]), (&json!(4000), &json!(40)));
    let rework = place.json(&["usage", "report", "--by", "rework"]);
    assert_eq!(
        [&rework[0]["loop_id"], &rework[0]["charged_to"], &rework[0]["cause"], &rework[0]["event_id"]],
        [&json!("a"), &json!("b"), &json!("conflict"), &json!("landed")]
    );
    let by_test = place.json(&["usage", "report", "--by", "test"]);
    assert_eq!(by_test[1]["budgets"][0], json!({"budget": "tokens_per_test", "used": 3000, "limit": 500_000, "percent": 0}));
    let by_day = place.json(&["usage", "report", "--by", "day", "--since", "1h"]);
    assert_eq!(by_day[0]["budgets"][1]["budget"], "tests_per_day");
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("tokens_per_day = 5000000", "tokens_per_day = 8000")).unwrap();
    let told = place.run(&["usage", "report", "--by", "day"]).ok().stdout;
    assert!(told.contains("tokens_per_day 4000/8000 (50 %)"), "{told}");
    for by in ["loop", "test", "day", "rework"] {
        common::is_harmless(&place.run(&["usage", "report", "--by", by]).ok().stdout);
    }
}
