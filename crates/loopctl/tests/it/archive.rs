//! Retention: what goes to the archive, what stays, that it is found there, and that a kill at any moment loses nothing.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::common::Place;
use serde_json::Value;
use test_support::{ends_within, sql};

fn archive_of(place: &Place) -> PathBuf {
    place.home().join("coordination.archive.db")
}

/// `n` old events of an external tool, each with a settled delivery, and a new one of the same source.
fn fill(place: &Place, n: usize) {
    place.sql(&format!(
        "INSERT INTO subscriptions (id, subscriber, event_types) VALUES ('s', 's', '[\"custom.old\"]');
         WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {n})
         INSERT INTO events (id, timestamp, source, event_type, payload)
           SELECT printf('e%06d', x), strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 days', printf('+%d seconds', x)), 'them',
             'custom.old', json_object('n', x) FROM c;
         UPDATE events SET acknowledged = 1, acknowledged_by = 's' WHERE source = 'them';
         INSERT INTO events (id, source, event_type) VALUES ('newest', 'them', 'custom.new');"
    ));
}

fn ids(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_open_stays_and_the_rest_is_found_where_it_went() {
    let place = Place::with_loops();
    let old = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 days')";
    place.run(&["test", "add", "open", "--loop", "a"]).ok();
    place.run(&["test", "add", "over", "--loop", "a"]).ok();
    place.sql(&format!(
        "UPDATE tests SET status = 'passed', verified_at = {old} WHERE id = 'over';
         INSERT INTO subscriptions (id, subscriber, event_types) VALUES ('s', 's', '[\"custom.wanted\",\"custom.taken\"]');
         INSERT INTO events (id, timestamp, source, event_type, payload, caused_by) VALUES
           ('root', {old}, 'them', 'custom.x', '{{}}', NULL), ('wanted', {old}, 'them', 'custom.wanted', '{{}}', 'root'),
           ('taken', {old}, 'them', 'custom.taken', '{{}}', 'root'), ('leaf', {old}, 'them', 'custom.x', '{{}}', 'taken'),
           ('about-open', {old}, 'them', 'custom.x', '{{\"test_id\":\"open\"}}', NULL),
           ('about-over', {old}, 'them', 'custom.x', '{{\"test_id\":\"over\"}}', NULL),
           ('named', {old}, 'them', 'custom.x', '{{}}', NULL), ('last', {old}, 'them', 'custom.x', '{{}}', NULL);
         UPDATE events SET acknowledged = 1, acknowledged_by = 's' WHERE id = 'taken';
         INSERT INTO alerts (id, severity, alert_type, message, created_at, closed_at, event_id) VALUES
           ('alert-over', 'info', 'stuck', 'm', {old}, {old}, NULL), ('alert-open', 'info', 'stuck', 'm', {old}, NULL, 'named');
         INSERT INTO decisions (id, decision_type, summary, options, status, requested_at, decided_at, choice, fingerprint) VALUES
           ('asked-first', 'x', 's', json_array('y'), 'decided', {old}, {old}, 'y', 'matter'), ('free', 'x', 's', json_array('y'), 'decided', {old}, {old}, 'y', NULL),
           ('last-word', 'x', 's', json_array('y'), 'decided', datetime({old}, '+1 hour'), datetime({old}, '+1 hour'), 'y', 'matter'),
           ('asked', 'x', 's', '[]', 'pending', {old}, NULL, NULL, NULL),
           ('stopped', 'budget', 's', json_array('stop'), 'decided', {old}, {old}, 'stop', NULL);
         UPDATE decisions SET requested_by = 'pm', context = '{{\"loops\":[\"a\"]}}' WHERE id = 'stopped';
         INSERT INTO regressions (id, test_id, check_name, last_good_commit, bad_commit, first_bad_commit, status, detected_at, resolved_at) VALUES
           ('told', 'over', 'c', 'g', 'b', 'f', 'cleared', {old}, {old}), ('flaky', 'over', 'c', 'g', 'b', NULL, 'flaky', {old}, {old}),
           ('open', 'over', 'c', 'g', 'b', NULL, 'unknown', {old}, NULL);
         INSERT INTO transaction_log (id, operation, status, started_at, completed_at) VALUES
           ('done', 'o', 'committed', {old}, {old}), ('notify:alert:alert-open', 'o', 'committed', {old}, {old}),
           ('notify:alert:alert-over', 'o', 'committed', {old}, {old});
         INSERT INTO transaction_log (id, operation, started_at) VALUES ('begun', 'o', {old});
         INSERT INTO checkpoints (id, loop_id, git_ref, created_at, deleted_at) VALUES ('gone', 'a', 'r', {old}, {old}), ('kept', 'a', 'r', {old}, NULL);"
    ));
    place.run(&["archive", "--older-than", "1h"]).fails(2).says("1d or more");
    let moved = place.json(&["archive"]);
    assert_eq!(moved["archived"]["events"], 4, "{moved}");
    let rest = |sql: &str| place.sql(sql).replace('\n', " ");
    assert_eq!(rest("SELECT id FROM events WHERE source = 'them' ORDER BY rowid"), "wanted about-open named last");
    assert_eq!(rest("SELECT event_id FROM deliveries WHERE subscription_id = 's'"), "wanted");
    assert_eq!(rest("SELECT id FROM alerts ORDER BY id"), "alert-open");
    assert_eq!(rest("SELECT id FROM decisions ORDER BY id"), "asked last-word stopped");
    assert_eq!(rest("SELECT id FROM regressions ORDER BY id"), "open told");
    assert_eq!(rest("SELECT id FROM transaction_log ORDER BY id"), "begun notify:alert:alert-open");
    assert_eq!(rest("SELECT id FROM checkpoints"), "kept");
    assert_eq!(rest("SELECT count(*) FROM maintenance"), "0");
    let archive = archive_of(&place);
    assert_eq!(sql(&archive, "SELECT id FROM events ORDER BY rowid"), "root\ntaken\nleaf\nabout-over");
    assert_eq!(sql(&archive, "SELECT event_id || status FROM deliveries"), "takenacknowledged");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&archive).unwrap()) & 0o777, 0o600);

    // Found, as if nothing had happened.
    let timeline = place.json(&["timeline", "--source", "them"]);
    assert_eq!(ids(&timeline, "id"), ["root", "taken", "leaf", "about-over", "wanted", "about-open", "named", "last"]);
    let why = place.json(&["why", "taken"]);
    assert_eq!((ids(&why["causes"], "id"), ids(&why["effects"], "id")), (vec!["root".to_owned()], vec!["leaf".to_owned()]));
    assert_eq!(ids(&place.json(&["why", "wanted"])["causes"], "id"), ["root"]);
    assert_eq!(ids(&place.json(&["why", "roo"])["effects"], "id").len(), 3);
    assert_eq!(ids(&place.json(&["alerts", "--all"]), "id"), ["alert-over", "alert-open"]);
    assert_eq!(ids(&place.json(&["decisions", "--all"]), "id").len(), 5);
    assert_eq!(ids(&place.json(&["regressions", "--all"]), "id").len(), 3);

    // Its id stays taken.
    for verb in ["INSERT", "INSERT OR REPLACE"] {
        let sql = format!("{verb} INTO events (id, source, event_type) VALUES ('root', 'x', 'custom.x')");
        let output = std::process::Command::new("sqlite3").arg(place.database()).arg(sql).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("was archived"));
    }
    place.run(&["check"]).ok();
    assert_eq!(place.json(&["archive"])["archived"].get("events"), None, "nothing is left to move");
}

#[test]
fn usage_counts_the_passes_that_were_archived() {
    let place = Place::with_loops();
    place.run(&["test", "add", "over", "--loop", "a"]).ok();
    let old = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 days')";
    place.sql(&format!(
        "UPDATE tests SET status = 'passed', verified_at = {old} WHERE id = 'over';
         INSERT INTO usage (id, loop_id, test_id, tokens_estimated, duration_seconds, recorded_at) VALUES ('u', 'a', 'over', 70, 7, {old});
         INSERT INTO events (id, timestamp, source, event_type, payload) VALUES
           ('passed', {old}, 'a', 'test_passed', json_object('loop_id', 'a', 'test_id', 'over')),
           ('newest', {old}, 'a', 'custom.x', '{{}}');"
    ));
    let before = place.json(&["usage", "report", "--by", "test"]);
    assert_eq!(before[0]["passed"], 1, "{before:#}");
    assert_eq!(before.as_array().unwrap().iter().map(|row| row["passed"].as_i64().unwrap()).sum::<i64>(), 1, "{before:#}");
    assert_eq!(place.json(&["usage", "report", "--by", "test"]), before);
}

#[test]
fn an_unreadable_archive_is_reported_and_the_rest_is_shown() {
    let place = Place::with_loops();
    fill(&place, 3);
    place.run(&["archive"]).ok();
    let archive = archive_of(&place);
    let away = place.outside().join("away.db");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", archive.display()));
    }
    std::fs::rename(&archive, &away).unwrap();
    let told = |what: &str| {
        let ran = place.run(&["--json", "timeline", "--source", "them"]).ok().says(what);
        assert_eq!(ids(&ran.json(), "id"), ["newest"]);
        place.run(&["why", "e000001"]).fails(3);
        place.run(&["why", "newest"]).ok();
    };
    told("does not exist");
    assert!(!archive.exists(), "a look makes no archive");
    sql(&archive, "CREATE TABLE x (y)");
    let before = std::fs::read(&archive).unwrap();
    told("is not a coding-loops database");
    place.run(&["archive"]).fails(3);
    assert_eq!(std::fs::read(&archive).unwrap(), before);
    std::fs::write(&archive, "a text that is no database ".repeat(100)).unwrap();
    told("is not a coding-loops database");
    place.run(&["archive"]).fails(3);
    std::fs::remove_file(&archive).unwrap();
    std::fs::create_dir(&archive).unwrap();
    told("not a regular file");
    std::fs::remove_dir(&archive).unwrap();
    std::fs::copy(&away, &archive).unwrap();
    assert_eq!(place.json(&["timeline", "--source", "them"]).as_array().unwrap().len(), 4);
    sql(&archive, "PRAGMA user_version = 99");
    told("newer than this program");
    place.run(&["archive"]).fails(3);
    assert_eq!(sql(&archive, "PRAGMA user_version; SELECT count(*) FROM events"), "99\n3");
}

/// Kills in the middle, at moments that differ from run to run, while others write; larger with `ARCHIVE_KILLS`.
#[test]
fn a_kill_at_any_moment_loses_nothing_and_doubles_nothing() {
    let kills: usize = std::env::var("ARCHIVE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let rows = kills * 400;
    let place = Place::with_loops();
    fill(&place, rows);
    let archive = archive_of(&place);
    let union = format!(
        "ATTACH '{}' AS archive; SELECT count(DISTINCT id) FROM (SELECT id FROM events WHERE event_type = 'custom.old'
         UNION ALL SELECT id FROM archive.events)",
        archive.display()
    );
    let mut killed = 0;
    let mut published = 0;
    for round in 0.. {
        assert!(round < kills * 100, "it never ends");
        let mut child = place.command(&["archive"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let enough = killed >= kills;
        if !enough {
            ends_within(&mut child, Duration::from_micros(5_000 + fastrand_of(round) % 60_000));
        }
        // A process that writes meanwhile does not wait long.
        place.run(&["publish", "custom.meanwhile", "--payload", "{}"]).ok();
        published += 1;
        if !enough && child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        let output = child.wait_with_output().unwrap();
        if archive.exists() && !sql(&archive, "SELECT name FROM sqlite_schema WHERE name = 'events'").is_empty() {
            assert_eq!(place.sql(&union), rows.to_string(), "after {killed} kills");
        }
        assert_eq!(place.sql("PRAGMA integrity_check"), "ok");
        if output.status.success() {
            break;
        }
        assert!(output.status.code().is_none(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(place.sql("SELECT count(*) FROM events WHERE event_type = 'custom.old'"), "0");
    assert_eq!(place.sql("SELECT count(*) FROM deliveries WHERE subscription_id = 's'"), "0");
    assert_eq!(place.sql("SELECT count(*) FROM archived_events"), rows.to_string());
    assert_eq!(place.sql("SELECT count(*) FROM events WHERE event_type = 'custom.meanwhile'"), published.to_string());
    assert_eq!(
        sql(
            &archive,
            "PRAGMA integrity_check; SELECT count(*), count(DISTINCT id), sum(json_extract(payload, '$.n')) FROM events"
        ),
        format!("ok\n{rows}|{rows}|{}", rows * (rows + 1) / 2)
    );
    assert_eq!(
        sql(&archive, "SELECT count(*), count(DISTINCT event_id) FROM deliveries WHERE status = 'acknowledged'"),
        format!("{rows}|{rows}")
    );
    place.run(&["check"]).ok();
}

/// Anything that differs from round to round and from run to run.
fn fastrand_of(round: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(round)
}
