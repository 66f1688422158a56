//! Answering many questions at once, changing and removing tests, reading settings again, the agents, and why a test stands as it
//! does.

use serde_json::{Value, json};

use crate::common::{Place, agents};

fn ask(place: &Place, summary: &str, options: &[&str]) -> String {
    let mut arguments = vec!["ask", "--summary", summary];
    options.iter().for_each(|option| arguments.extend(["--option", option]));
    place.json(&arguments)["id"].as_str().unwrap().to_owned()
}

#[test]
fn all_open_questions_with_an_option_are_answered_at_once() {
    let place = Place::with_loops();
    place.run(&["decide", "all", "retry"]).fails(1).says("no question waits");
    let (first, second, third) = (
        ask(&place, "one?", &["retry=R", "skip=S"]),
        ask(&place, "two?", &["skip=S", "retry=R"]),
        ask(&place, "three?", &["yes=Y", "no=N"]),
    );
    place.run(&["decide", &second, "skip"]).ok();
    place.run(&["decide", "all", "left"]).fails(2).says("there are no, retry, skip and yes");
    let answered = place.json(&["decide", "all", "retry"]);
    assert_eq!(answered.as_array().unwrap().len(), 1, "the second has its answer: {answered}");
    assert_eq!((&answered[0]["decision_id"], &answered[0]["choice"]), (&first.as_str().into(), &"retry".into()));
    let open = place.json(&["decisions"]);
    let third = open.as_array().unwrap().iter().find(|row| row["id"] == third.as_str()).unwrap();
    assert_eq!(third["answered"], Value::Null);
}

#[test]
fn a_test_can_be_changed_until_it_is_verified() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t1", "--loop", "a", "--notes", "old", "--scope", "src/**"]).ok();
    place.run(&["test", "add", "t2", "--loop", "a"]).ok();
    place.run(&["test", "edit", "t1"]).fails(2).says("nothing is to change");
    place.run(&["test", "edit", "nobody", "--notes", "x"]).fails(4);
    place.run(&["test", "edit", "t1", "--scope", "[", "--notes", "half"]).fails(2).says("not a valid glob");
    let row =
        place.json(&["test", "edit", "t1", "--notes", "new", "--max-attempts", "7", "--depends-on", "t2", "--manual", "true"]);
    assert_eq!(
        (&row["notes"], &row["max_attempts"], &row["depends_on"], &row["automatable"], &row["scope"]),
        (&"new".into(), &7.into(), &"t2".into(), &false.into(), &json!(["src/**"]))
    );
    place.run(&["test", "edit", "t2", "--depends-on", "t1", "--notes", "half"]).fails(1).says("cannot depend on t1");
    assert_eq!(place.sql("SELECT notes FROM tests WHERE id = 't2'"), "", "nothing of it is done");
    assert_eq!(place.json(&["test", "edit", "t1", "--depends-on", ""])["depends_on"], Value::Null);
    let place = agents("");
    std::fs::write(place.workspaces().join("loops/a/new.txt"), "x\n").unwrap();
    place.run(&["submit", "t-a"]).ok();
    place.run(&["test", "edit", "t-a", "--notes", "late"]).fails(1).says("loopctl reset t-a --force");
    // The one that is being done can be changed, for its next attempt.
    place.run(&["test", "edit", "t-b", "--spec", "clearer"]).ok();
    place.run(&["check"]).ok();
}

#[test]
fn only_a_test_without_a_history_is_removed() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t1", "--loop", "a"]).ok();
    place.run(&["test", "add", "t2", "--loop", "b", "--depends-on", "t1"]).ok();
    place.run(&["test", "remove", "t1"]).fails(1).says("test t2 depends on t1");
    place.run(&["test", "remove", "t2"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["test", "remove", "t1"]).fails(1).says("loopctl skip t1");
    place.run(&["test", "remove", "t2"]).fails(4);
    place.run(&["check"]).ok();
}

#[test]
fn why_a_test_stands_as_it_does() {
    let place = agents("");
    assert_eq!(place.json(&["why", "t-a"])["event"]["event_type"], "test_started");
    std::fs::write(place.workspaces().join("loops/a/new.txt"), "x\n").unwrap();
    place.run(&["submit", "t-a"]).ok();
    let why = place.json(&["why", "t-a"]);
    assert_eq!(why["event"]["event_type"], "test_passed");
    assert_eq!(why["evidence"]["proofs"].as_array().unwrap().len(), 2, "{why}");
}

#[test]
fn reload_refuses_bad_settings_and_names_whom_it_reached() {
    let place = Place::with_loops();
    assert_eq!(place.run(&["reload"]).ok().stdout, "nothing runs; the settings are valid\n");
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("beat_seconds = 15", "beat_seconds = 0", 1)).unwrap();
    place.run(&["reload"]).fails(2).says("beat_seconds");
}

#[test]
fn agents_are_listed_with_limits_and_budgets() {
    let place = Place::with_loops();
    assert!(place.run(&["agents"]).ok().stdout.starts_with("no loop has an agent"));
    std::fs::write(
        place.home().join("config.toml"),
        "[agent]\ncommand = [\"claude\", \"-p\"]\n[loop.b.agent]\ncommand = [\"my-agent\"]\n[budget]\ntokens_per_day = 1000\n",
    )
    .unwrap();
    place.run(&["usage", "record", "--loop", "a", "--tokens", "900", "--usd", "1.5"]).ok();
    place.sql("UPDATE loops SET agent = 'claude' WHERE id = 'a'");
    place.sql("INSERT INTO holds (subject, kind, reason, since, until, loop_id) VALUES ('agent:claude', 'limit', 'weekly limit', '2026-01-01 00:00:00.000', '2999-01-01 00:00:00.000', 'a')");
    let view = place.json(&["agents"]);
    let of = |name: &str| view["agents"].as_array().unwrap().iter().find(|row| row["agent"] == name).unwrap().clone();
    assert_eq!((&of("claude")["loops"], &of("claude")["hold"]["reason"]), (&json!(["a"]), &"weekly limit".into()));
    assert_eq!((&of("generic")["loops"], &of("generic")["hold"]), (&json!(["b"]), &Value::Null));
    let shown = place.run(&["agents"]).ok().stdout;
    assert!(shown.contains("weekly limit") && shown.contains("tokens per day") && shown.contains("90 %"), "{shown}");
    let status = place.run(&["status"]).ok().stdout;
    assert!(status.contains("90 % of the budget of tokens per day is used"), "{status}");
}
