//! What was saved of tests that have passed since goes after its time; what has not landed stays.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::common::{CHECK, World};
use coord_db::Error;

#[test]
fn saved_work_goes_after_its_time_if_its_test_has_passed_and_never_otherwise() {
    let agent = "echo $RANDOM$$ > half; if [ $TEST_ID = t1 ] && [ $ATTEMPT = 2 ]; then touch $TEST_ID; fi; test -e $TEST_ID";
    let world = World::with_test(agent, CHECK);
    world.add_test("t2", "one");
    world.once("one");
    let refs =
        || world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved", "refs/coding-loops/checkpoints"]);
    let of = |test: &str| refs().lines().filter(|name| name.contains(&format!("/{test}/"))).count();
    let (first, second) = (of("t1"), of("t2"));
    assert!(first >= 2 && second >= 2, "{}", refs());
    world.once("one");
    assert_eq!((of("t1"), of("t2")), (first, second), "nothing goes before its time");
    // With no time to keep them.
    let config = fs::read_to_string(world.home.join("config.toml")).unwrap();
    fs::write(world.home.join("config.toml"), format!("{config}\n[retention]\nsaved_work_days = 0\n")).unwrap();
    // The next loop that starts does it, even another one.
    world.add_loop("two");
    world.once("two");
    assert_eq!((of("t1"), of("t2")), (0, second), "{}", refs());
    let left = world.db.read(|tx| Ok::<_, Error>(tx.checkpoints(None, false)?.len())).unwrap();
    assert_eq!(left, second, "the rows say the same");
    world.assert_tidy();
}

#[test]
fn folders_that_no_loop_uses_go_after_their_time_and_work_in_them_is_saved() {
    let world = World::new("cat >/dev/null; echo x >$TEST_ID\n", CHECK);
    for (id, test) in [("one", "t1"), ("gone", "t2"), ("young", "t3")] {
        world.add_loop(id);
        world.add_test(test, id);
        assert_eq!(world.once(id).status.code(), Some(0));
    }
    let root = world.root();
    fs::write(world.workspace("gone").join("mine"), "unsaved\n").unwrap();
    fs::create_dir(root.join("loops/one.damaged-20200101T000000Z")).unwrap();
    let today = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    fs::create_dir(root.join(format!("loops/one.damaged-{today}"))).unwrap();
    for id in ["gone", "young"] {
        world.sql(&format!(
            "PRAGMA foreign_keys = OFF; DELETE FROM tests WHERE loop_id = '{id}'; DELETE FROM loops WHERE id = '{id}'"
        ));
    }
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for name in ["loops/gone", "state/gone/state.json", "gates/gone", "gates/gone.git", "gates/gone.git/HEAD", "state/gone"] {
        fs::File::open(root.join(name)).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(world.once("one").status.code(), Some(0));
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("loops"), format!("one one.damaged-{today} young"));
    assert_eq!(names("state"), "one young");
    assert_eq!(names("gates"), "one one.git one.lock young young.git young.lock");
    let saved = world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/gone/none/"]);
    assert_eq!(world.store(&["show", &format!("{saved}:mine")]), "unsaved");
}

#[test]
fn what_a_loop_of_another_machine_has_is_left_to_that_machine() {
    let world = World::new("cat >/dev/null; echo x >$TEST_ID\n", CHECK);
    for (id, test) in [("one", "t1"), ("two", "t2")] {
        world.add_loop(id);
        world.add_test(test, id);
        assert_eq!(world.once(id).status.code(), Some(0));
    }
    world.configure(|config| format!("{config}\n[retention]\nsaved_work_days = 0\n"));
    world.sql("UPDATE runs SET started_at = '2020-01-01 00:00:00.000'");
    let (two, git_ref) = ("two".parse().unwrap(), "refs/coding-loops/saved/two/t2/x");
    let commit = world.git(&["rev-parse", "main"]);
    let intent = |host: &str| {
        serde_json::json!({ "git_ref": git_ref, "commit": commit, "test": "t2", "reason": "x", "target": null,
            "owner": { "pid": 1, "boot_id": "another", "host": host } })
    };
    world.sql("UPDATE loops SET status = 'error' WHERE id = 'two'");
    let intended = intent("elsewhere/12345678");
    let entry = world.db.write(|tx| tx.begin_operation("put_away", "two", Some(&two), &intended, None)).unwrap();
    let host = world.sql("SELECT host FROM component_health WHERE component = 'two'");
    world.sql("UPDATE component_health SET host = 'elsewhere/12345678' WHERE component = 'two'");
    let left = || {
        [
            "runs WHERE loop_id = 'two'",
            "checkpoints WHERE loop_id = 'two' AND checkpoint_type = 'branch' AND deleted_at IS NULL",
            "transaction_log WHERE status = 'in_progress'",
        ]
        .map(|rows| world.sql(&format!("SELECT count(*) > 0 FROM {rows}")))
    };
    world.once("one");
    assert_eq!(left(), ["1", "1", "1"]);
    world.sql(&format!("UPDATE component_health SET host = '{host}' WHERE component = 'two'"));
    let steps = serde_json::json!([intent(&host)]);
    world.sql(&format!("UPDATE transaction_log SET steps = '{steps}' WHERE id = '{entry}'"));
    world.once("one");
    assert_eq!(left()[2], "0");
    world.once("one");
    assert_eq!(left(), ["0", "0", "0"]);
}
