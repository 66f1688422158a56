//! The move of a file to a server: whole or not at all, and never two databases that take changes.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use coord_db::locate::Location;
use coord_db::process::ProcessIdentity;
use coord_db::{ComponentId, Database, Error, EventFilter, KnowledgeSearch, MoveStep, OpenOptions};
use test_support::{Postgres, sql, try_sql};

use super::{note, notes};

const STEPS: [MoveStep; 5] = [MoveStep::Copied, MoveStep::Verified, MoveStep::Closed, MoveStep::Committed, MoveStep::Placed];

/// A row in each table, and what text can hold.
const ROWS: &str = r#"
INSERT INTO loops (id, name, priority) VALUES ('a', 'A', 1), ('b', 'B', 2);
INSERT INTO tests (id, loop_id, notes) VALUES ('t-1', 'a', CAST(x'61ff00' AS TEXT) || 'é'), ('t-2', 'b', NULL);
UPDATE tests SET depends_on = 't-1' WHERE id = 't-2';
INSERT INTO events (id, source, event_type, payload) VALUES ('e1', 'a', 'test_started', '{"test_id": "t-1", "loop_id": "a", "n": "\u0000"}');
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
  INSERT INTO events (id, source, event_type, payload) SELECT 'many-' || i, 'x', 'custom.note', '{"text": "' || i || '"}' FROM n;
INSERT INTO events (id, source, event_type, payload) VALUES ('e2', 'a', 'test_blocked', '{"test_id": "t-1", "loop_id": "a"}');
INSERT INTO archived_events VALUES ('old');
INSERT INTO file_locks (file_path, locked_by, expires_at) VALUES ('src/', 'a', '2099-01-01 00:00:00');
INSERT INTO lease_sets VALUES (1, 'src/');
INSERT INTO lease_requests (id, loop_id, paths, wait_until) VALUES ('r', 'b', '["src/x"]', '2099-01-01 00:00:00');
INSERT INTO lease_request_paths VALUES ('r', 'src/x');
INSERT INTO wait_graph (waiter, holder, resource) VALUES ('b', 'a', 'src/x');
INSERT INTO deadlocks (id, victim, cycle, locks, reason, revoke_at, event_id) VALUES ('d', 'a', '[]', '[]', 'x', '2026-01-01 00:00:00', 'e1');
INSERT INTO knowledge (id, item_type, topic, content, confidence, affected_areas) VALUES
  ('k1', 'fact', 'Café', 'migrations are numbered', 0.1, '["src/**"]'), ('k2', 'fact', 'gone', 'x', 1, '[]');
DELETE FROM knowledge WHERE id = 'k2';
INSERT INTO resources (path, owner_loop) VALUES ('src/', 'a');
INSERT INTO change_requests (id, resource_path, requestor_loop, owner_loop) VALUES ('c', 'src/', 'b', 'a');
INSERT INTO change_request_tests VALUES ('t-2', 'c');
INSERT INTO migrations (number, name, loop_id) VALUES (7, 'm', 'a');
INSERT INTO checkpoints (id, loop_id, git_ref) VALUES ('c1', 'a', 'refs/x');
INSERT INTO proofs (rowid, id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, duration_ms, output_sha256)
  VALUES (41, 'p', 't-1', 1, 'c', 't', 'suite', 'pass', 1, 's');
INSERT INTO proof_runs (proof_id, kind) VALUES ('p', 'passed');
INSERT INTO passing_tests (test_id, commit_hash) VALUES ('t-1', 'c');
INSERT INTO regressions (id, test_id, check_name, last_good_commit, bad_commit, status) VALUES ('r', 't-1', 'suite', 'g', 'b', 'suspected');
INSERT INTO check_runs (check_name, commit_hash, outcome) VALUES ('suite', 'c', 'pass');
INSERT INTO baseline_runs (check_name, test_id, commit_hash, outcome) VALUES ('suite', 't-1', 'c', 'pass');
INSERT INTO reverts (test_id, commit_hash) VALUES ('t-1', 'c');
INSERT INTO decisions (id, decision_type, summary, options) VALUES ('d', 'question', 's', '[]');
INSERT INTO usage (id, loop_id, cost_microusd) VALUES ('u', 'a', 9223372036854775807);
INSERT INTO component_health (component, status) VALUES ('monitor', 'unknown');
INSERT INTO pauses (loop_id, requested_by) VALUES ('a', 'human');
INSERT INTO conflicts (id, file_path, loop_a, loop_b) VALUES ('c', 'f', 'a', 'b');
INSERT INTO worktree_changes (loop_id, file_path, first_seen_at, last_changed_at) VALUES ('a', 'f', '2026-01-01 00:00:00', '2026-01-01 00:00:00.001');
INSERT INTO agent_outputs VALUES ('a', 'log', 1, '2026-01-01 00:00:00', '2026-01-01 00:00:00', '{}');
INSERT INTO alerts (id, severity, alert_type, message) VALUES ('a', 'info', 'stuck', 'm');
INSERT INTO transaction_log (id, operation, loop_id) VALUES ('j', 'tidy', 'a');
INSERT INTO clock VALUES ('h', 'boot', 0, 1, 1, NULL);
INSERT INTO clock_changes VALUES ('h', '2026-01-01 00:00:00.000', -5);
INSERT INTO holds (subject, kind, reason, loop_id) VALUES ('loop:a', 'human', 'r', 'a');
INSERT INTO stores (cause, path) VALUES ('new', '/s');
INSERT INTO runs (id, loop_id, kind, name, log) VALUES ('r', 'a', 'agent', 'n', 'l');
INSERT INTO loop_ports VALUES ('a', 2000);
INSERT INTO base_runs (tree_hash, check_hash, check_name, commit_hash, state) VALUES ('t', 'h', 'suite', 'c', 'green');
INSERT INTO ignored_checks (check_name) VALUES ('slow');
INSERT INTO base_mends VALUES ('t-1');
INSERT INTO batches (id, base_commit, commit_hash, tree_hash, tests, outcome, judged_by) VALUES ('b', 'c', 'c', 't', '[]', 'passed', 'a');
UPDATE tests SET status = 'in_progress' WHERE id = 't-1';
INSERT INTO landings (id, test_id, loop_id, attempt, base_tree, tree, head, commit_hash, proof) VALUES ('l', 't-1', 'a', 1, 't', 't', 'h', 'c', 'p');
UPDATE counters SET value = value + 100 WHERE name = 'fencing_token';
"#;

/// A file with rows in all tables, in a folder of its own.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        drop(scene.create());
        sql(&scene.path(), ROWS);
        scene
    }

    fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("coordination.db")
    }

    fn create(&self) -> Database {
        Database::create(&self.path(), &OpenOptions::default()).unwrap()
    }

    fn open(&self) -> Database {
        Database::open(&self.path(), &OpenOptions::default()).unwrap()
    }

    /// The names of the files in the folder.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".bell"))
            .collect();
        names.sort();
        names
    }
}

fn move_to(path: &Path, address: &str) -> Result<coord_db::DatabaseMove, Error> {
    Database::open(path, &OpenOptions::default())?.move_to_server(address, false, &mut |_| ())
}

#[test]
fn everything_is_moved_and_goes_on() {
    let Some(server) = Postgres::get() else { return };
    let (scene, address) = (Scene::new(), server.empty_address());
    let before = scene.open();
    let long_open = scene.open();
    let tables: Vec<String> = before
        .query_foreign("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'knowledge_words_%'")
        .unwrap()
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect();
    let places: i64 = before.read(|tx| tx.events(&EventFilter::default())).unwrap().len() as i64;
    let mut steps = Vec::new();
    let moved = before.move_to_server(&address, false, &mut |step| steps.push(step)).unwrap();
    assert_eq!(steps, STEPS);
    assert_eq!(moved.tables.keys().cloned().collect::<Vec<_>>(), {
        let mut tables = tables;
        tables.sort();
        tables
    });
    let empty: Vec<&str> = moved.tables.iter().filter(|(_, rows)| **rows == 0).map(|(name, _)| name.as_str()).collect();
    assert_eq!(empty, ["maintenance"], "a row is missing in ROWS");
    assert_eq!((moved.tables["events"], moved.replaced_texts), (places as u64, 1));
    // The address is in the file's place, with a copy of the file beside it, and nothing else.
    assert_eq!(Location::of(&scene.path()), Location::Server(address.clone()));
    assert_eq!(scene.files(), ["backups", "coordination.db"]);
    let kept = Database::open(moved.kept.as_deref().unwrap(), &OpenOptions::default()).unwrap();
    // A copy that is opened says so by an event.
    assert_eq!(kept.read(|tx| tx.events(&EventFilter::default())).unwrap().len() as i64, places + 1);
    // A process that has the old file open cannot write to it, and notices.
    let refused = long_open.write(|tx| tx.publish(&note("lost"))).unwrap_err();
    assert!(coord_db::error_chain(&refused).contains("was moved to postgres://"), "{refused:?}");
    assert!(long_open.check_place().is_err());
    drop((before, long_open, kept));
    let db = scene.open();
    assert_eq!((db.server(), db.check().unwrap()), (Some(moved.server), Vec::new()));
    let read = |query: &str| server.sql(&address, query);
    assert_eq!(read("SELECT notes FROM tests WHERE id = 't-1'"), "a\u{fffd}\u{fffd}é");
    assert_eq!(read("SELECT cost_microusd, (SELECT confidence FROM knowledge) FROM usage"), "9223372036854775807|0.1");
    assert_eq!(read("SELECT value FROM counters WHERE name = 'fencing_token'"), "101");
    let search = KnowledgeSearch { words: vec!["migration".to_owned()], ..KnowledgeSearch::default() };
    assert_eq!(db.read(|tx| tx.search_knowledge(&search)).unwrap().len(), 1);
    // Numbers go on: places of events, what the server numbers, tokens.
    db.write(|tx| tx.publish(&note("after"))).unwrap();
    assert_eq!(notes(&db).last().unwrap(), "after");
    assert_eq!(read("SELECT max(rowid) FROM events"), (places + 2).to_string());
    assert_eq!(
        read("SELECT payload::json ->> 'comment' FROM events ORDER BY rowid DESC LIMIT 1 OFFSET 1").split(" to ").next(),
        Some("the database was moved from an SQLite file")
    );
    read("INSERT INTO file_locks (file_path, locked_by) VALUES ('docs/', 'a')");
    assert_eq!(read("SELECT fencing_token FROM file_locks WHERE file_path = 'docs/'"), "102");
    read("INSERT INTO knowledge (id, item_type, content) VALUES ('k3', 'fact', 'x')");
    assert_eq!(read("SELECT seq FROM knowledge_numbers WHERE knowledge_id = 'k3'"), "3");
    read(
        "INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, duration_ms, output_sha256) VALUES ('p2', 't', 1, 'c', 't', 's', 'pass', 1, 's')",
    );
    assert_eq!(read("SELECT rowid FROM proofs WHERE id = 'p2'"), "42");
    // Once more there is nothing to do.
    assert!(move_to(&scene.path(), &address).unwrap().tables.is_empty());
    assert!(matches!(move_to(&scene.path(), &server.empty_address()), Err(Error::Refused(_))));
}

#[test]
fn a_dry_run_keeps_nothing() {
    let Some(server) = Postgres::get() else { return };
    let (scene, address) = (Scene::new(), server.empty_address());
    let moved = scene.open().move_to_server(&address, true, &mut |_| ()).unwrap();
    assert!(moved.kept.is_none() && moved.tables["events"] > 3000);
    assert_eq!(server.sql(&address, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"), "0");
    scene.open().write(|tx| tx.publish(&note("goes on"))).unwrap();
}

/// What is refused leaves the file in use and the server as it was.
#[test]
fn what_cannot_be_moved_stays_in_use() {
    let Some(server) = Postgres::get() else { return };
    let (scene, address) = (Scene::new(), server.empty_address());
    let refused = |why: &str, target: &str| {
        let error = move_to(&scene.path(), target).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        scene.open().write(|tx| tx.publish(&note("goes on"))).unwrap();
        assert!(scene.open().server().is_none());
    };
    refused("is not empty; name an empty one", &server.new_address());
    server.sql(&address, "CREATE TABLE theirs (id int)");
    refused("is not empty; name an empty one", &address);
    server.sql(&address, "DROP TABLE theirs");
    refused("cannot reach", "postgres://me@127.0.0.1:1/loops");
    sql(&scene.path(), "CREATE TABLE own (id int); ALTER TABLE loops ADD COLUMN more TEXT");
    refused("not as the schema has them: loops, own", &address);
    sql(&scene.path(), "DROP TABLE own; ALTER TABLE loops DROP COLUMN more");
    sql(&scene.path(), "UPDATE resources SET owner_loop = 'nobody'");
    refused("the server refuses a row of resources", &address);
    sql(&scene.path(), "UPDATE resources SET owner_loop = 'a'");
    let own = ProcessIdentity::own();
    let monitor: ComponentId = "monitor".parse().unwrap();
    // A process that sleeps, as another component.
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let identity = ProcessIdentity::of(i64::from(other.id()));
    assert_ne!(identity, own);
    scene.open().write(|tx| tx.start_component(&monitor, &identity, "1")).unwrap();
    refused("stop it first", &address);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(move_to(&scene.path(), &address).is_ok());
}

/// Runs in a process of its own, which it kills at a step of a move.
#[test]
fn a_process_that_is_killed() {
    let (Ok(path), Ok(address), Ok(step)) =
        (std::env::var("MOVE_PATH"), std::env::var("MOVE_ADDRESS"), std::env::var("MOVE_STEP"))
    else {
        return;
    };
    let db = Database::open(Path::new(&path), &OpenOptions::default()).unwrap();
    let moved = db.move_to_server(&address, false, &mut |reached| {
        if format!("{reached:?}") == step {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    });
    panic!("{step} was not reached: {moved:?}");
}

#[test]
fn a_killed_move_leaves_one_database_and_is_finished_by_the_next() {
    let Some(server) = Postgres::get() else { return };
    for step in STEPS {
        let (scene, address) = (Scene::new(), server.empty_address());
        let open_before = scene.open();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "moving::a_process_that_is_killed", "--nocapture"]);
        child.env("MOVE_PATH", scene.path()).env("MOVE_ADDRESS", &address).env("MOVE_STEP", format!("{step:?}"));
        let output = child.output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step:?}: {}", String::from_utf8_lossy(&output.stderr));
        // What takes changes now?
        let file_takes_changes = open_before.write(|tx| tx.publish(&note("file"))).is_ok();
        let server_has_tables = test_support::wait_for("the server ends the transaction", || {
            let asked = server.try_sql(&address, "SET lock_timeout = '1s'; SELECT to_regclass('events') IS NOT NULL").ok()?;
            (server.sql(
                "postgres",
                &format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'", address.rsplit('/').next().unwrap()),
            ) == "0")
                .then_some(asked == "t")
        });
        let (taken, had) = match step {
            MoveStep::Copied | MoveStep::Verified => (true, false),
            MoveStep::Closed => (false, false),
            MoveStep::Committed | MoveStep::Placed => (false, true),
        };
        assert_eq!((file_takes_changes, server_has_tables), (taken, had), "{step:?}");
        if matches!(step, MoveStep::Closed | MoveStep::Committed) {
            let refused = try_sql(&scene.path(), "INSERT INTO loops (id) VALUES ('z')").unwrap_err();
            assert!(
                refused.contains("finish with loopctl move-database, or return to the file with loopctl restore"),
                "{refused}"
            );
            // Not to another place.
            assert!(matches!(move_to(&scene.path(), &server.empty_address()), Err(Error::Refused(_))));
        }
        drop(open_before);
        move_to(&scene.path(), &address).unwrap();
        let db = scene.open();
        assert!(db.server().is_some(), "{step:?}");
        assert_eq!(notes(&db).iter().filter(|text| *text == "file").count(), usize::from(taken), "{step:?}");
        assert_eq!(db.check().unwrap(), [], "{step:?}");
        assert!(scene.files().iter().all(|name| name == "backups" || name == "coordination.db"), "{:?}", scene.files());
    }
}

#[test]
fn an_interrupted_move_can_be_given_up() {
    let Some(server) = Postgres::get() else { return };
    let (scene, address) = (Scene::new(), server.empty_address());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "moving::a_process_that_is_killed"]);
    child.env("MOVE_PATH", scene.path()).env("MOVE_ADDRESS", &address).env("MOVE_STEP", "Closed");
    assert_eq!(child.output().unwrap().status.signal(), Some(9));
    let backups: Vec<PathBuf> =
        std::fs::read_dir(scene.folder.path().join("backups")).unwrap().map(|entry| entry.unwrap().path()).collect();
    scene.open().restore(&backups[0], 5).unwrap();
    scene.open().write(|tx| tx.publish(&note("file"))).unwrap();
    assert!(scene.open().server().is_none());
}
