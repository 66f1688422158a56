//! Other tools beside the programs: a Python program with its standard library only, and the `sqlite3` shell.
//!
//! `FOREIGN_EVENTS=…` makes the first test larger.

use std::collections::BTreeMap;
use std::process::Stdio;

use coord_db::{ActorId, NewEvent, Payload};
use system_tests::processes::World;
use system_tests::supervisors;
use test_support::{Process, new_loop};

fn assert_well(supervisors: Vec<Process>) {
    for mut supervisor in supervisors {
        assert!(supervisor.is_running(), "{}", supervisor.log());
        let said = supervisor.log();
        assert!(!said.contains("ERROR") && !said.contains("panicked"), "{said}");
        assert_eq!(supervisor.terminate().code(), Some(0), "{said}");
    }
}

#[test]
fn what_foreign_hands_publish_is_heard_once_and_in_order_while_they_read_vacuum_and_checkpoint() {
    let events: usize = std::env::var("FOREIGN_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    let world = World::new();
    let db = world.open();
    let listener: ActorId = "listener".parse().unwrap();
    db.write(|tx| {
        for id in ["py", "ours"] {
            tx.add_loop(&new_loop(id))?;
        }
        tx.subscribe(&listener, &["custom.foreign".to_owned(), "custom.ours".to_owned()], None)
    })
    .unwrap();
    let running: Vec<Process> = supervisors().iter().map(|name| world.supervisor(name)).collect();
    let mut program = world.python("foreign_hands.py");
    program.arg(world.path()).arg(events.to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = program.spawn().unwrap();

    let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut bell = coord_db::wake::Listener::new(&world.path());
    let (mut said, mut ended) = (0, false);
    loop {
        // What one look finds after everyone has ended is all there will be.
        let last = ended;
        if said < events {
            let payload = Payload::Custom { event_type: "custom.ours".to_owned(), value: serde_json::json!({"number": said}) };
            let event = NewEvent::new("ours".parse().unwrap(), payload);
            db.write(|tx| tx.publish(&event)).unwrap();
            said += 1;
        }
        let taken = db
            .write(|tx| {
                let deliveries = tx.pending_deliveries("listener", 50)?;
                tx.acknowledge("listener", deliveries.iter().map(|delivery| &delivery.event.id))?;
                Ok::<_, coord_db::Error>(deliveries)
            })
            .unwrap();
        for delivery in &taken {
            heard.entry(delivery.event.source.to_string()).or_default().push(delivery.event.id.to_string());
        }
        if taken.is_empty() {
            if last && said == events {
                break;
            }
            ended = program.try_wait().unwrap().is_some();
            if !ended {
                bell.wait(std::time::Duration::from_millis(20));
            }
        }
    }
    let output = program.wait_with_output().unwrap();
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    let told: BTreeMap<String, u64> = serde_json::from_str(&told).unwrap();
    assert!(told.values().all(|count| *count > 0), "{told:?}");
    let numbered = |name: &str, count: usize| (0..count).map(|number| format!("{name}-{number}")).collect::<Vec<_>>();
    assert_eq!(heard["py"], numbered("py", events));
    assert_eq!(heard["sh"], numbered("sh", events / 10));
    assert_eq!(heard["ours"].len(), events);
    assert_eq!(db.check().unwrap(), []);
    assert_well(running);
}

#[test]
fn every_row_that_is_promised_to_be_refused_is_refused() {
    let world = World::new();
    let output = world.python("bad_rows.py").arg("refused").arg(world.path()).output().unwrap();
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{complaints}");
    let tried: usize = told.split(' ').next().unwrap().parse().unwrap();
    assert!(tried > 1500, "{told}");
}

/// Something to do for pm, monitor, heartbeat and deadlock-detector, sound in itself.
const SOUND: &str = r#"
    INSERT INTO loops (id, name, priority, status) VALUES ('sound', '', 1, 'running'), ('sounder', '', 2, 'running');
    INSERT INTO loops (id, name, priority, status, pid) VALUES ('sound-gone', '', 3, 'running', 1);
    INSERT INTO component_health (component, last_heartbeat, status, pid, pid_start_time, boot_id) VALUES
      ('sound-gone', datetime('now'), 'healthy', 1, 1, 'another boot');
    INSERT INTO tests (id, loop_id, status) VALUES ('sound', 'sound', 'in_progress');
    WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3)
      INSERT INTO events (id, source, event_type, payload) SELECT 'sound-fail' || x, 'sound', 'test_failed',
        json_object('test_id', 'sound', 'loop_id', 'sound', 'attempt', x, 'error_category', 'code', 'error_message', 'x',
          'will_retry', json('true')) FROM c;
    INSERT INTO events (id, source, event_type, priority, payload) VALUES ('sound-pass', 'sound', 'test_passed', 5,
      '{"test_id":"sound2","loop_id":"sound","attempt":1,"duration_seconds":1,"files_modified":[],"verified":true,"verification_checks":{},"commit":"c"}');
    INSERT INTO file_locks (file_path, locked_by) VALUES ('sound/1', 'sound'), ('sound/2', 'sounder');
    INSERT INTO wait_graph (waiter, holder, resource) VALUES ('sound', 'sounder', 'sound/2'), ('sounder', 'sound', 'sound/1');"#;

#[test]
fn every_odd_row_that_is_taken_is_survived() {
    let world = World::new();
    let output = world.python("bad_rows.py").arg("odd").arg(world.path()).output().unwrap();
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{complaints}");
    let told: BTreeMap<String, u64> = serde_json::from_str(&told).unwrap();
    assert!(told["taken"] > 3000, "{told:?}");

    let running: Vec<Process> = supervisors().iter().map(|name| world.supervisor(name)).collect();
    assert!(world.sql(SOUND).is_some());
    // Each has done what is sound, and come round since.
    world.until("SELECT subscription_id, status FROM deliveries WHERE event_id = 'sound-pass'", "pm|acknowledged");
    world.until("SELECT count(*) FROM alerts WHERE fingerprint = 'stuck:sound:sound' AND closed_at IS NULL", "1");
    world.until("SELECT status FROM loops WHERE id = 'sound-gone'", "error");
    world.until("SELECT victim FROM deadlocks WHERE locks LIKE '%sound/%'", "sounder");
    let inserted = world.sql("SELECT timestamp FROM events WHERE id = 'sound-pass'").unwrap();
    let since = format!("SELECT count(*) FROM component_health WHERE version IS NOT NULL AND last_heartbeat > '{inserted}'");
    world.until(&since, &supervisors().len().to_string());
    // Rows whose keys are no UTF-8 cannot be got at: they keep nobody busy.
    running[0].until_logged("passes change nothing although something is due");
    for arguments in &[
        ["status"].as_slice(),
        &["status", "sound"],
        &["health"],
        &["timeline"],
        &["tests"],
        &["locks", "--all"],
        &["deadlocks", "--all"],
        &["conflicts", "--all"],
        &["stuck"],
        &["regressions", "--all"],
        &["alerts", "--all"],
        &["summary"],
        &["decisions", "--all"],
        &["loop", "list"],
        &["poll", "human"],
        &["why", "sound-pass"],
        &["knowledge", "search"],
        &["usage", "report"],
        &["own"],
        &["doctor"],
        &["check"],
        &["dump"],
    ] {
        let texts = matches!(arguments[0], "status" | "timeline" | "alerts");
        for json in [&["--json"] as &[&str], &[]].into_iter().take(1 + usize::from(texts)) {
            let all = [*arguments, json].concat();
            let output = world.loopctl(&all);
            let complaints = String::from_utf8_lossy(&output.stderr);
            // Findings are no failure to read.
            let fine =
                output.status.success() || (matches!(arguments[0], "check" | "doctor") && output.status.code() == Some(1));
            assert!(fine && !complaints.contains("panicked"), "loopctl {all:?}: {:?} {complaints}", output.status);
        }
    }
    assert_well(running);
}

#[test]
fn malformed_events_are_counted_in_one_alert_for_each_source_and_type() {
    let world = World::new();
    let db = world.open();
    db.write(|tx| tx.add_loop(&new_loop("a"))).unwrap();
    let insert = |source: &str, event_type: &str, number: usize| {
        world
            .sql(&format!(
                "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {number})
                 INSERT INTO events (id, source, event_type, payload)
                   SELECT '{event_type}-{source}-' || x || '-' || hex(randomblob(4)), '{source}', '{event_type}', '{{\"x\":1}}' FROM c"
            ))
            .unwrap();
    };
    insert("a", "test_passed", 700);
    insert("tool", "test_passed", 5);
    insert("tool", "stuck_detected", 1);
    let running: Vec<Process> = supervisors().iter().map(|name| world.supervisor(name)).collect();
    let open = "SELECT count(*) FROM deliveries WHERE status = 'pending' AND subscription_id IN
                  (SELECT id FROM subscriptions WHERE subscriber = 'pm')";
    world.until(open, "0");
    insert("a", "test_passed", 300);
    world.until(open, "0");
    assert_well(running);
    let messages = world.sql("SELECT substr(message, 1, instr(message, ' cannot') - 1) FROM alerts ORDER BY 1").unwrap();
    let messages: Vec<&str> = messages.trim().lines().collect();
    assert_eq!(messages[..2], ["1000 events of type test_passed from a", "5 events of type test_passed from tool"]);
    assert!(messages[2].starts_with("event stuck_detected-tool-1-"), "{messages:?}");
    assert!(messages[2].ends_with(" of type stuck_detected from tool") && messages.len() == 3, "{messages:?}");
    let status = String::from_utf8(world.loopctl(&["status"]).stdout).unwrap();
    assert_eq!(status.matches("cannot be handled").count(), 3, "{status}");
    assert_eq!(status.matches("1000 events of type test_passed from a cannot be handled").count(), 1, "{status}");
}
