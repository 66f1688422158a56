//! Faults of the machine under the real programs: each with a clear error, nothing lost, and recovery without help once the
//! cause has ended.

use std::process::Output;

use system_tests::namespace::Namespace;
use system_tests::processes::World;
use test_support::{Process, wait_for, wait_until};

const SUPERVISORS: [&str; 4] = ["heartbeat", "monitor", "pm-agent", "deadlock-detector"];

/// A world on a disk of its own.
fn on_a_small_disk(kilobytes: u32) -> Option<(World, Namespace)> {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let space = Namespace::with_disk(&disk, kilobytes)?;
    let world = World::within(folder, disk.join("repository/coding-loops"), space.prefix());
    Some((world, space))
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn publish(world: &World, number: u32, payload: &str) -> Output {
    world.loopctl(&["publish", "custom.fault", "--source", "human", "--payload", payload, "--correlation", &number.to_string()])
}

/// How many of ours were published.
fn published(world: &World) -> String {
    world.sql("SELECT count(*) FROM events WHERE event_type = 'custom.fault'").unwrap()
}

/// The shell closes a cycle between two new loops, and the detector finds it.
fn a_new_cycle_is_found(world: &World, name: &str) {
    let (a, b) = (format!("{name}-a"), format!("{name}-b"));
    let written = world.sql(&format!(
        "INSERT INTO loops (id, name, priority, status) VALUES ('{a}', '', 1, 'running'), ('{b}', '', 2, 'running');
         INSERT INTO file_locks (file_path, locked_by) VALUES ('{a}', '{a}'), ('{b}', '{b}');
         INSERT INTO wait_graph (waiter, holder, resource) VALUES ('{a}', '{b}', '{b}'), ('{b}', '{a}', '{a}');"
    ));
    assert!(written.is_some());
    world.until(&format!("SELECT count(*) FROM deadlocks WHERE victim = '{b}'"), "1");
}

fn all_end_well(world: &World, supervisors: Vec<Process>) {
    for mut supervisor in supervisors {
        assert!(supervisor.is_running(), "{}", supervisor.log());
        let said = supervisor.log();
        assert!(!said.contains("panicked") && !said.contains("ERROR"), "{said}");
        assert_eq!(supervisor.terminate().code(), Some(0));
    }
    let check = world.loopctl(&["check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

fn shell(world: &World, script: &str) {
    let output = world.command("sh").args(["-c", script, "sh"]).arg(world.home()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_is_said_waited_for_and_loses_nothing() {
    let Some((world, _space)) = on_a_small_disk(12_000) else { return };
    let supervisors: Vec<Process> = SUPERVISORS.iter().map(|name| world.supervisor(name)).collect();
    let mut kept = 0;
    for number in 0..5 {
        assert!(publish(&world, number, "{}").status.success());
        kept += 1;
    }
    // An emptied -wal has to grow with the next commit. What still fits shrinks with each commit of the others.
    world.sql("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let filled = world
        .command("sh")
        .args(["-c", "cat /dev/zero > \"$1\"/filler; cat /dev/zero > \"$1\"/filler2", "sh"])
        .arg(world.home())
        .output();
    assert!(!filled.unwrap().status.success());
    let large = format!("{{\"text\": \"{}\"}}", "x".repeat(60_000));
    let told = wait_for("the disk to be full", || {
        let output = publish(&world, kept, &large);
        if output.status.success() {
            kept += 1;
            return None;
        }
        Some(complaint(&output))
    });
    assert!(told.contains("full") && told.contains("loopctl doctor"), "{told}");
    for supervisor in &supervisors {
        supervisor.until_logged("cannot continue; trying again");
    }
    // What is there can be read.
    assert!(world.loopctl(&["status"]).status.success());
    let refused = world.loopctl(&["loop", "add", "late"]);
    assert!(complaint(&refused).contains("full"));
    assert_eq!(published(&world), kept.to_string());

    shell(&world, "rm \"$1\"/filler \"$1\"/filler2");
    for supervisor in &supervisors {
        supervisor.until_logged("continuing: the cause has ended");
    }
    assert!(publish(&world, kept, &large).status.success());
    assert_eq!(published(&world), (kept + 1).to_string());
    assert_eq!(world.sql("SELECT count(*) FROM loops WHERE id = 'late'").unwrap(), "0");
    a_new_cycle_is_found(&world, "after");
    all_end_well(&world, supervisors);
}

/// What a loop's agent and check do: the agent makes a file that git cannot make smaller; where somebody wishes for it,
/// the disk of the tested folder is full after the agent, or after the check.
const FILLING: &str = r#"
[agent]
command = ["sh", "-c", 'cat > prompt; rm prompt; head -c 300000 /dev/urandom > big-$TEST_ID; rm "TOP/fill-agent" 2> /dev/null && cat /dev/zero > "DISK/filler"; exit 0']
kill_after_seconds = 1
[[gate.check]]
name = "big"
command = ["sh", "-c", 'test -s big-$TEST_ID || exit 1; rm "TOP/fill-check" 2> /dev/null && cat /dev/zero > "DISK/filler"; exit 0']
"#;

/// A world in which one folder lies on a small disk of its own; the folder's path.
fn with_a_small(place: &str, kilobytes: u32) -> Option<(World, Namespace, std::path::PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    let (top, disk) = (folder.path().to_owned(), folder.path().join(place));
    std::fs::create_dir_all(&disk).unwrap();
    let space = Namespace::with_disk(&disk, kilobytes)?;
    let world = World::within(folder, top.join("repository/coding-loops"), space.prefix());
    world.settings(&FILLING.replace("TOP", &top.to_string_lossy()).replace("DISK", &disk.to_string_lossy()));
    assert!(world.loopctl(&["loop", "add", "one"]).status.success());
    Some((world, space, disk))
}

fn add_test(world: &World, id: &str) {
    assert!(world.loopctl(&["test", "add", id, "--loop", "one"]).status.success());
}

/// Everything that has passed is on integration, in the store and published; both repositories are sound, nothing is held, and
/// nothing half-done lies in the folder of workspaces.
fn all_is_landed_and_sound(world: &World, loops: Vec<Process>) {
    shell(
        world,
        r#"cd "$1/.." && root=$PWD-loops && branch=refs/heads/coding-loops/integration
           n=0; until [ "$(git rev-parse --verify --quiet $branch)" = "$(git -C "$root/store.git" rev-parse $branch)" ]; do
               n=$((n + 1)); [ $n -lt 300 ] || { echo "not published" >&2; exit 1; }; sleep 0.2
           done
           for at in . "$root/store.git"; do git -C "$at" fsck --strict --no-dangling >&2 || exit 1; done
           for test in $(sqlite3 coding-loops/coordination.db "SELECT id || '=' || commit_hash FROM tests WHERE status = 'passed'"); do
               git merge-base --is-ancestor "${test#*=}" $branch && git cat-file -e "$branch:big-${test%%=*}" || { echo "$test is lost" >&2; exit 1; }
           done
           left=$(find "$root" -name '*.new' -o -name '*.damaged-*' -o -name 'transfer-*' -o -name '*.keep' -o -name 'index.put-back')
           [ -z "$left" ] || { echo "left: $left" >&2; exit 1; }"#,
    );
    all_end_well(world, loops);
    assert_eq!(world.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'").unwrap(), "0");
}

#[test]
fn a_full_disk_while_a_store_and_a_workspace_are_made_is_waited_for() {
    let Some((world, _space, disk)) = with_a_small("repository-loops", 9_000) else { return };
    // A repository whose check-out is larger than the room that is left.
    shell(
        &world,
        r#"cd "$1/.." && head -c 2000000 /dev/urandom > large && git add large && git -c user.name=A -c user.email=a@e commit -qm large"#,
    );
    let root = disk.display();
    shell(&world, &format!("rm -r {root}/store.git; cat /dev/zero > {root}/filler || true"));
    add_test(&world, "t1");
    let running = world.start("coding-loop", &["one"]);
    running.until_logged("cannot continue; trying again");
    assert!(running.log().contains("no space is left"), "{}", running.log());
    assert_eq!(world.sql("SELECT status, attempts FROM tests").unwrap(), "pending|0");
    // Room for the store, and not for the files.
    shell(&world, &format!("truncate -s -3M {root}/filler"));
    wait_for("the store", || {
        world.command("test").arg("-d").arg(disk.join("store.git")).status().unwrap().success().then_some(())
    });
    wait_for("a workspace without room", || {
        (running.log().matches("cannot continue; trying again").count() == 2).then_some(())
    });
    assert_eq!(world.sql("SELECT status, attempts FROM tests").unwrap(), "pending|0");
    shell(&world, &format!("rm {root}/filler"));
    world.until("SELECT status, attempts FROM tests", "passed|1");
    all_is_landed_and_sound(&world, vec![running]);
}

#[test]
fn a_full_disk_under_an_agent_and_under_the_gate_loses_no_work() {
    for moment in ["agent", "check"] {
        let Some((world, _space, disk)) = with_a_small("repository-loops", 9_000) else { return };
        add_test(&world, "t1");
        std::fs::write(world.folder().join(format!("fill-{moment}")), "").unwrap();
        let running = world.start("coding-loop", &["one"]);
        running.until_logged("cannot continue; trying again");
        assert_eq!(world.sql("SELECT status FROM tests").unwrap(), "in_progress", "it is not given up");
        shell(&world, &format!("rm {}/filler", disk.display()));
        world.until("SELECT status, attempts FROM tests", "passed|1");
        // What the first run made is saved as it was.
        let saved = world.sql("SELECT git_ref FROM checkpoints WHERE checkpoint_type = 'stash' ORDER BY id LIMIT 1").unwrap();
        shell(&world, &format!(r#"test "$(git -C {}/store.git cat-file -s {saved}:big-t1)" = 300000"#, disk.display()));
        let failures = "SELECT json_extract(payload, '$.error_category') FROM events WHERE event_type = 'test_failed'";
        assert_eq!(world.sql(failures).unwrap(), "transient", "{}", running.log());
        all_is_landed_and_sound(&world, vec![running]);
    }
}

/// The check of two works together fills the disk once.
const FILLING_TOGETHER: &str = r#"
[agent]
command = ["sh", "-c", 'cat > prompt; rm prompt; head -c 300000 /dev/urandom > big-$TEST_ID']
kill_after_seconds = 1
[[gate.check]]
name = "big"
command = ["sh", "-c", 'test -z "$TEST_ID" && rm "TOP/fill-check" 2> /dev/null && cat /dev/zero > "DISK/filler"; exit 0']
per_test = false
"#;

#[test]
fn a_full_disk_while_works_are_judged_together_is_waited_for() {
    for place in ["repository-loops", "repository/coding-loops"] {
        let Some((world, _space, disk)) = with_a_small(place, 12_000) else { return };
        let top = world.folder().to_string_lossy().into_owned();
        world.settings(&FILLING_TOGETHER.replace("TOP", &top).replace("DISK", &disk.to_string_lossy()));
        add_test(&world, "t1");
        assert!(world.loopctl(&["loop", "add", "two"]).status.success());
        assert!(world.loopctl(&["test", "add", "t2", "--loop", "two"]).status.success());
        let held = world.sql("INSERT INTO file_locks (file_path, locked_by) VALUES ('git:integration', 'human')");
        assert!(held.is_some());
        let running = ["one", "two"].map(|name| world.start("coding-loop", &[name]));
        world.until("SELECT count(*) FROM landings", "2");
        std::fs::write(world.folder().join("fill-check"), "").unwrap();
        assert!(world.sql("DELETE FROM file_locks WHERE locked_by = 'human'").is_some());
        let says = |running: &Process| running.log().contains("cannot continue; trying again");
        wait_until("the judge to wait for room", || running.iter().any(says));
        assert_eq!(world.sql("SELECT DISTINCT status FROM tests").unwrap(), "in_progress");
        shell(&world, &format!("rm {}/filler", disk.display()));
        world.until("SELECT DISTINCT status, attempts FROM tests", "passed|1");
        assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'test_failed'").unwrap(), "0");
        all_is_landed_and_sound(&world, running.into());
    }
}

#[test]
fn a_full_disk_of_the_users_repository_delays_only_publishing() {
    let Some((world, _space, disk)) = with_a_small("repository/.git", 9_000) else { return };
    add_test(&world, "t1");
    std::fs::write(world.folder().join("fill-check"), "").unwrap();
    let running = world.start("coding-loop", &["one"]);
    world.until("SELECT status, attempts FROM tests", "passed|1");
    running.until_logged("cannot publish the landed commits");
    shell(&world, &format!("rm {}/filler", disk.display()));
    // Any news wakes it.
    assert!(publish(&world, 0, "{}").status.success());
    all_is_landed_and_sound(&world, vec![running]);
}

#[test]
fn a_read_only_folder_is_said_and_waited_for() {
    let Some((world, _space)) = on_a_small_disk(20_000) else { return };
    assert!(publish(&world, 0, "{}").status.success());
    // What is opened from now on may only be read. Modes would not stop root.
    shell(&world, "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"");
    let told = complaint(&publish(&world, 1, "{}"));
    assert!(told.contains("read") && told.contains("loopctl doctor"), "{told}");
    let starting: Vec<Process> = SUPERVISORS.iter().map(|name| world.start(name, &[])).collect();
    for supervisor in &starting {
        supervisor.until_logged("cannot continue; trying again");
        assert!(supervisor.log().contains("read"), "{}", supervisor.log());
    }
    shell(&world, "umount \"$1\"");
    for supervisor in &starting {
        supervisor.until_logged("is ready");
    }
    assert_eq!(published(&world), "1");
    assert!(publish(&world, 1, "{}").status.success());
    a_new_cycle_is_found(&world, "after");
    all_end_well(&world, starting);
}

#[test]
fn a_deleted_bell_delays_nobody_for_long_and_is_created_again() {
    let world = World::new();
    let supervisors: Vec<Process> = SUPERVISORS.iter().map(|name| world.supervisor(name)).collect();
    let bell = coord_db::wake::bell_folder(&world.path());
    std::fs::remove_dir_all(&bell).unwrap();
    a_new_cycle_is_found(&world, "without");
    wait_until("the bell to be created again", || bell.join("ring").exists());
    // Where there can be none, everything goes on as well.
    std::fs::remove_dir_all(&bell).unwrap();
    if std::fs::write(&bell, "").is_ok() {
        assert!(publish(&world, 0, "{}").status.success());
        a_new_cycle_is_found(&world, "never");
        std::fs::remove_file(&bell).unwrap();
    }
    wait_until("the bell to be created again", || bell.join("ring").exists());
    assert!(publish(&world, 1, "{}").status.success());
    a_new_cycle_is_found(&world, "again");
    all_end_well(&world, supervisors);
}

/// How many inotify instances a process has.
fn instances(process: &Process) -> usize {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", process.pid())) else { return 0 };
    let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.as_os_str() == "anon_inode:inotify").count()
}

#[test]
fn without_inotify_everyone_looks_at_short_intervals_and_listens_again_later() {
    // The limits are those of the user namespace.
    let Some((world, space)) = on_a_small_disk(20_000) else { return };
    if !space.has_limits() {
        return;
    }
    shell(&world, "echo 0 > /proc/sys/user/max_inotify_instances");
    let supervisors: Vec<Process> = SUPERVISORS.iter().map(|name| world.supervisor(name)).collect();
    for supervisor in &supervisors {
        supervisor.until_logged("cannot watch the database for commits; polling it at short intervals");
        assert_eq!(instances(supervisor), 0);
    }
    assert!(publish(&world, 0, "{}").status.success());
    a_new_cycle_is_found(&world, "blind");
    let polled = world.loopctl(&["poll", "human", "--wait", "1"]);
    assert!(polled.status.success(), "{}", String::from_utf8_lossy(&polled.stderr));
    shell(&world, "echo 100 > /proc/sys/user/max_inotify_instances");
    for supervisor in &supervisors {
        wait_until("the supervisor to listen again", || instances(supervisor) > 0);
    }
    a_new_cycle_is_found(&world, "seeing");
    all_end_well(&world, supervisors);
}

#[test]
fn a_database_that_is_deleted_or_replaced_is_left_alone_and_the_new_one_is_used_after_a_start() {
    let world = World::new();
    let (path, old, new) = (world.path(), world.home().join("old.db"), world.home().join("new.db"));
    assert!(publish(&world, 0, "{}").status.success());
    let end = |supervisors: Vec<Process>, words: &str| {
        for mut supervisor in supervisors {
            assert_eq!(supervisor.wait().code(), Some(3), "{}", supervisor.log());
            assert!(supervisor.log().contains(words), "{}", supervisor.log());
        }
    };
    let supervisors: Vec<Process> = SUPERVISORS.iter().map(|name| world.supervisor(name)).collect();
    assert!(world.sql(&format!("VACUUM INTO '{}'", new.display())).is_some());
    std::fs::rename(&path, &old).unwrap();
    end(supervisors, "loopctl init");

    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    std::fs::copy(&new, &path).unwrap();
    for name in SUPERVISORS {
        std::fs::remove_file(world.folder().join(format!("{name}.log"))).unwrap();
    }
    let supervisors: Vec<Process> = SUPERVISORS.iter().map(|name| world.supervisor(name)).collect();
    a_new_cycle_is_found(&world, "new");
    std::fs::rename(&new, &path).unwrap();
    end(supervisors, "the file was replaced by another one");
}

/// Every time in the database, and what the clocks said, moved: as if the wall clock had jumped the other way.
fn jump(world: &World, seconds: i64) {
    let by = -seconds;
    let moved = |table: &str, columns: &[&str]| {
        let sets: Vec<String> = columns
            .iter()
            .map(|column| format!("{column} = strftime('%Y-%m-%d %H:%M:%f', {column}, '{by} seconds')"))
            .collect();
        format!("UPDATE {table} SET {};", sets.join(", "))
    };
    let sql = [
        "BEGIN IMMEDIATE;".to_owned(),
        moved("file_locks", &["locked_at", "expires_at"]),
        moved("component_health", &["last_heartbeat", "started_at"]),
        moved("loops", &["created_at", "updated_at"]),
        moved("tests", &["created_at", "last_attempt_at"]),
        format!("UPDATE clock SET wall_ms = wall_ms + {by} * 1000; COMMIT;"),
    ]
    .join("\n");
    assert!(world.sql(&sql).is_some());
}

#[test]
fn a_clock_that_jumps_takes_no_lease_and_kills_nobody() {
    for seconds in [7_200, -7_200] {
        let world = World::new();
        let supervisors: Vec<Process> = SUPERVISORS.iter().map(|name| world.supervisor(name)).collect();
        for name in ["one", "two"] {
            assert!(world.loopctl(&["loop", "add", name]).status.success());
            assert!(world.loopctl(&["beat", "--loop", name]).status.success());
        }
        assert!(world.loopctl(&["test", "add", "t", "--loop", "one"]).status.success());
        assert!(world.loopctl(&["next", "--loop", "one"]).status.success());
        let lock = world.loopctl(&["--json", "lock", "file", "--loop", "one", "--ttl", "900"]);
        let granted: serde_json::Value = serde_json::from_slice(&lock.stdout).unwrap();
        let token = granted["fencing_token"].to_string();
        world.until("SELECT count(*) FROM clock", "1");

        jump(&world, seconds);
        // Neither of them is free to anyone else, whichever way time has gone.
        let taken = world.loopctl(&["lock", "file", "--loop", "two"]);
        assert_eq!(taken.status.code(), Some(1), "{seconds}: {}", String::from_utf8_lossy(&taken.stdout));
        // All beat again by the new time, and have looked at what is there.
        let fresh =
            "SELECT count(*) FROM component_health WHERE component IN ('heartbeat', 'monitor', 'pm', 'deadlock-detector')
                       AND abs(julianday(last_heartbeat) - julianday('now')) * 86400 < 60 AND status = 'healthy'";
        world.until(fresh, "4");
        a_new_cycle_is_found(&world, "after");
        let renewed = world.loopctl(&["renew", "--loop", "one", "--token", &token]);
        assert!(renewed.status.success(), "{seconds}: {}", String::from_utf8_lossy(&renewed.stderr));
        assert!(world.loopctl(&["beat", "--loop", "one"]).status.success());
        assert_eq!(world.sql("SELECT status, attempts FROM tests").unwrap(), "in_progress|1");
        assert_eq!(world.sql("SELECT fencing_token FROM file_locks WHERE locked_by = 'one'").unwrap(), token);
        assert_eq!(
            world.sql("SELECT group_concat(source || json_extract(payload, '$.component')) FROM events WHERE event_type = 'component_degraded'
                       AND json_extract(payload, '$.status') = 'dead'").unwrap(),
            ""
        );
        // Said afterwards comes afterwards, whatever the time says.
        assert!(publish(&world, 0, "{}").status.success());
        assert_eq!(world.sql("SELECT event_type FROM events ORDER BY rowid DESC LIMIT 1").unwrap(), "custom.fault");
        all_end_well(&world, supervisors);
    }
}
