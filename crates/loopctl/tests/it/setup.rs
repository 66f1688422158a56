//! Setting up: init, loops, tests, import, and every exit code.

use crate::common;
use std::os::unix::fs::PermissionsExt;

use crate::common::Place;
use test_support::{sql, wait_until};

#[test]
fn init_makes_everything_once_and_keeps_what_is_there() {
    let place = Place::bare();
    let first = place.run(&["init"]).ok();
    assert!(first.stdout.starts_with("created: "), "{}", first.stdout);
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.home()), 0o700);
    assert_eq!(mode(place.database()), 0o600);
    assert_eq!(std::fs::read_to_string(place.home().join(".gitignore")).unwrap(), "*\n");
    assert!(!place.home().join("worktrees").exists());
    for folder in ["backups", "logs"] {
        assert!(place.home().join(folder).is_dir());
    }
    // An agent that this machine has is marked.
    let config = std::fs::read_to_string(place.home().join("config.toml")).unwrap().replace("; found here", "");
    // The branch that is checked out is followed.
    let follow = format!("follow = \"{}\"", place.git(&["symbolic-ref", "--short", "HEAD"]));
    let default = coord_db::config::DEFAULT_TEXT.replacen(&format!("{:<36} #", "follow = \"\""), &format!("{follow:<36} #"), 1);
    assert!(default.contains(&follow));
    // Variables of this machine's shell are passed on: `doctor.rs`.
    let shown = |text: &str| text.lines().filter(|line| !line.starts_with("environment = ")).collect::<Vec<_>>().join("\n");
    assert_eq!(shown(&config), shown(&default));

    std::fs::write(place.home().join("config.toml"), "# mine\n").unwrap();
    place.run(&["loop", "add", "a"]).ok();
    let second = place.run(&["init"]).ok();
    assert!(second.stdout.starts_with("already exists: "));
    assert_eq!(second.stdout.lines().filter(|line| line.starts_with("  ")).count(), 3);
    assert_eq!(std::fs::read_to_string(place.home().join("config.toml")).unwrap(), "# mine\n");
    assert_eq!(place.json(&["loop", "list"])[0]["id"], "a");
    let document = place.json(&["init"]);
    assert_eq!(document["created"], false);
    let status =
        std::process::Command::new("git").arg("-C").arg(place.repository()).args(["status", "--porcelain"]).output().unwrap();
    assert!(status.stdout.is_empty(), "git does not see the folder");
}

#[test]
fn init_needs_a_repository() {
    let place = Place::bare();
    place.run_in(place.outside(), &["init"]).fails(1).says("git init");
    place.run_in(place.outside(), &["init", "--repository", "repo"]).ok();
    assert!(place.database().exists());
    let empty = tempfile::tempdir().unwrap();
    std::process::Command::new("git").args(["init", "--bare", "--quiet"]).arg(empty.path()).status().unwrap();
    place.run(&["init", "--repository", empty.path().to_str().unwrap()]).fails(1).says("bare");
}

#[test]
fn a_database_elsewhere_knows_its_repository_and_leaves_the_folder_visible_to_git() {
    let place = Place::bare();
    let elsewhere = place.outside().join("else");
    std::fs::create_dir(&elsewhere).unwrap();
    let db = elsewhere.join("x.db");
    place.run(&["--db", db.to_str().unwrap(), "init"]).ok();
    assert!(!elsewhere.join(".gitignore").exists());
    let config = coord_db::Config::load(&db, None).unwrap();
    assert_eq!(config.repository_path().canonicalize().unwrap(), place.repository().canonicalize().unwrap());
}

#[test]
fn a_worktree_and_a_subfolder_find_the_repositorys_database() {
    let place = Place::with_loops();
    let tree = place.outside().join("tree");
    place.git(&["worktree", "add", "--quiet", "-b", "other", tree.to_str().unwrap()]);
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    assert!(place.run_in(&tree.join("deep/er"), &["loop", "list"]).ok().stdout.contains('a'));
    std::fs::create_dir_all(place.repository().join("x/y")).unwrap();
    place.run_in(&place.repository().join("x/y"), &["loop", "list"]).ok();
    // And init from there means the same one.
    assert!(place.run_in(&tree, &["init"]).ok().stdout.starts_with("already exists"));
}

#[test]
fn version_help_and_completions_need_no_database() {
    let place = Place::bare();
    assert!(place.run(&["--version"]).ok().stdout.starts_with("loopctl "));
    assert!(place.run(&["--help"]).ok().stdout.contains("Exit status"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.run(&["completions", shell]).ok().stdout.contains("loopctl"));
    }
    assert!(!place.home().exists());
}

#[test]
fn no_database_and_one_that_is_not_ours_or_newer_or_damaged_exit_3() {
    let place = Place::bare();
    place.run(&["status"]).fails(3).says("loopctl init");
    let file = place.outside().join("other.db");
    let db = file.to_str().unwrap().to_owned();
    let status = |made_by: &str| {
        let _ = std::fs::remove_file(&file);
        sql(&file, made_by);
        place.run(&["--db", &db, "status"])
    };
    status("CREATE TABLE x (y)").fails(3).says("--db");
    status(&format!("PRAGMA application_id = {}; PRAGMA user_version = 999; CREATE TABLE x (y)", coord_db::APPLICATION_ID))
        .fails(3)
        .says("newer");
    std::fs::write(&file, "this is no database, and it is long enough to be distinguished from one".repeat(50)).unwrap();
    place.run(&["--db", &db, "status"]).fails(3);
    place.run(&["--db", place.outside().to_str().unwrap(), "status"]).fails(3);

    let place = Place::new();
    let mut bytes = std::fs::read(place.database()).unwrap();
    for byte in &mut bytes[4096..] {
        *byte ^= 0x55;
    }
    std::fs::write(place.database(), bytes).unwrap();
    place.run(&["status"]).fails(3).says("restore");
}

#[test]
fn bad_usage_exits_2() {
    let place = Place::with_loops();
    for arguments in [
        &["no-such-command"][..],
        &["loop", "add", "a b"],
        &["loop", "add", "../x"],
        &["loop", "add", "monitor"],
        &["loop", "add", "all"],
        &["loop", "add", "c", "--priority", "0"],
        &["loop", "add", "c", "--branch", "-x"],
        &["loop", "add", "c", "--branch", "x..y"],
        &["loop", "add", "c", "--branch", "coding-loops/integration"],
        &["test", "add", "t/1", "--loop", "a"],
        &["test", "add", "t", "--loop", "a", "--scope", "[x"],
        &["test", "add", "t", "--loop", "a", "--depends-on", "t"],
        &["lock", "/etc/passwd", "--loop", "a"],
        &["lock", "../x", "--loop", "a"],
        &["lock", "", "--loop", "a"],
        &["lock", "x", "--loop", "a", "--ttl", "0"],
        &["unlock", "--loop", "a"],
        &["publish", "unheard_of", "--source", "a"],
        &["publish", "custom.x", "--source", "a", "--payload", "{"],
        &["publish", "component_started", "--source", "a", "--payload", "{\"component\": \"x\"}"],
        &["publish", "custom.x", "--source", "a b"],
        &["publish", "custom.x", "--source", "a", "--priority", "0"],
        &["subscribe", "x", "--types", "unheard_of"],
        &["timeline", "--since", "yesterday"],
        &["tests", "--status", "done"],
        &["give-back", "t", "--category", "bad-luck"],
        &["status", "--watch", "--json"],
        &["own", "/abs", "--loop", "a"],
        &["ask", "--summary", "q", "--option", "A"],
        &["ask", "--summary", "q", "--option", "A=x", "--option", "A=y"],
        &["ask", "--summary", "q", "--option", "A=x", "--default", "B"],
        &["ask", "--summary", "q", "--option", "A=x", "--context", "{"],
        &["knowledge", "add", "x", "--confidence", "2"],
        &["--as", "no body", "pause", "a"],
        &["priority", "a", "0"],
        &["force-unlock"],
        &["force-unlock", "a", "--all"],
        &["restore", "nothing-here.db"],
        &["completions", "no-shell"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
    }
    std::fs::write(place.home().join("config.toml"), "[lease]\nttl_second = 3\n").unwrap();
    place.run(&["status"]).fails(2).says("config.toml:2");
    place.run(&["--config", "missing.toml", "status"]).fails(2);
}

#[test]
fn what_is_not_there_exits_4() {
    let place = Place::with_loops();
    for arguments in [
        &["status", "nobody"][..],
        &["loop", "remove", "nobody"],
        &["test", "add", "t", "--loop", "nobody"],
        &["test", "add", "t", "--loop", "a", "--depends-on", "nothing"],
        &["tests", "--loop", "nobody"],
        &["next", "--loop", "nobody"],
        &["beat", "--loop", "nobody"],
        &["lock", "x", "--loop", "nobody"],
        &["lock", "x", "--loop", "a", "--test", "nothing"],
        &["renew", "--loop", "nobody", "--token", "1"],
        &["unlock", "x", "--loop", "nobody"],
        &["unlock", "--all", "--loop", "nobody"],
        &["give-back", "nothing", "--category", "code"],
        &["skip", "nothing"],
        &["reset", "nothing"],
        &["pause", "nobody"],
        &["resume", "nobody"],
        &["restart", "nobody"],
        &["rollback", "nobody"],
        &["rollback", "a", "--checkpoint", "nothing"],
        &["priority", "nobody", "1"],
        &["force-unlock", "nobody"],
        &["decide", "nothing", "A"],
        &["ack-alert", "nothing"],
        &["poll", "nobody"],
        &["ack", "nobody", "x"],
        &["ack", "human", "nothing"],
        &["why", "nothing"],
        &["publish", "custom.x", "--source", "a", "--caused-by", "nothing"],
        &["knowledge", "supersede", "x", "--by", "y"],
        &["knowledge", "context", "nothing"],
        &["knowledge", "add", "x", "--loop", "nobody"],
        &["own", "x", "--loop", "nobody"],
        &["request", "create", "x", "--loop", "a"],
        &["request", "approve", "nothing"],
        &["migration", "allocate", "m", "--loop", "nobody"],
        &["migration", "done", "7"],
        &["usage", "record", "--loop", "nobody"],
        &["usage", "record", "--test", "nothing"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 4, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn loops_are_registered_once_and_removed_without_history_only() {
    let place = Place::new();
    let row = place.json(&["loop", "add", "a", "--name", "first", "--priority", "2"]);
    assert_eq!((&row["id"], &row["priority"], &row["branch"]), (&"a".into(), &2.into(), &"coding-loops/a".into()));
    assert!(row["created_at"].as_str().unwrap().ends_with('Z'));
    place.run(&["loop", "add", "a"]).fails(1).says("exists already");
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    place.run(&["test", "add", "t", "--loop", "a"]).fails(1).says("exists already");
    place.run(&["loop", "remove", "a"]).fails(1).says("history");
    place.run(&["loop", "add", "b"]).ok();
    place.run(&["loop", "remove", "b"]).ok();
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn tests_are_imported_from_every_form() {
    let place = Place::with_loops();
    let toml = "[[test]]\nid = 't1'\nloop = 'a'\nspec = 'do it'\nscope = ['src/**']\n[[test]]\nid = 't2'\nloop_id = 'b'\ndepends_on = 't1'\n\
                max_attempts = 5\nautomatable = false\ncategory = 'build'\nnotes = 'n'\n";
    std::fs::write(place.repository().join("t.toml"), toml).unwrap();
    let imported = place.json(&["test", "import", "t.toml"]);
    assert_eq!(imported["imported"], serde_json::json!(["t1", "t2"]));
    let array = r#"[{"id": "t3", "loop": "a"}, {"id": "t4", "loop": "a", "depends_on": "t5"}, {"id": "t5", "loop": "a"}]"#;
    place.run_with(array, &["test", "import", "-"]).ok();
    place.run_with("{\"tests\": [{\"id\": \"t6\", \"loop\": \"a\"}]}", &["test", "import", "-"]).ok();
    place.run_with("{\"id\": \"t7\", \"loop\": \"a\"}\n\n{\"id\": \"t8\", \"loop\": \"b\"}\n", &["test", "import", "-"]).ok();
    std::fs::write(place.repository().join("t.jsonl"), "{\"id\": \"t9\", \"loop\": \"a\"}\n").unwrap();
    place.run(&["test", "import", "t.jsonl"]).ok();
    place
        .run_with(&toml.replace("t1", "u1").replace("t2", "u2").replace("[[test]]", "[[tests]]"), &["test", "import", "-"])
        .ok();
    let tests = place.json(&["tests"]);
    assert_eq!(tests.as_array().unwrap().len(), 11);
    let t1 = &tests[0];
    assert_eq!(t1["spec_content"], "do it");
    assert_eq!(t1["scope"], serde_json::json!(["src/**"]));
    assert_eq!((&t1["max_attempts"], &t1["automatable"]), (&3.into(), &true.into()));
    let t2 = &tests[1];
    assert_eq!((&t2["max_attempts"], &t2["automatable"], &t2["category"]), (&5.into(), &false.into(), &"build".into()));
}

#[test]
fn every_import_error_has_its_line_and_nothing_is_imported() {
    let place = Place::with_loops();
    let check = |name: &str, text: &str, expected: &[&str]| {
        std::fs::write(place.repository().join(name), text).unwrap();
        let ran = place.run(&["test", "import", name]).fails(2);
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{}", ran.stderr);
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("{name}:{expected}")), "{line:?} does not begin with {expected:?}");
        }
        assert_eq!(place.json(&["tests"]), serde_json::json!([]));
    };
    check(
        "a.toml",
        "[[test]]\nid = 'x'\nloop = 'a'\ncolour = 1\n\n[[test]]\nloop = 'a'\nmax_attempts = 0\n\n[[test]]\nid = 'a b'\nloop = 'nobody'\n",
        &[
            "4: \"colour\" is not a field",
            "6: the test has no id",
            "8: max_attempts must be",
            "11: \"a b\" is not a valid test id",
        ],
    );
    check("b.toml", "[[test]]\nid = 'x'\nloop = \n", &["3: "]);
    check("c.toml", "title = 'x'\n", &["1: \"title\" is not expected"]);
    check("d.toml", "\n", &["1: the file has no tests"]);
    check(
        "e.toml",
        "[[test]]\nid = 'x'\nloop = 'nobody'\n[[test]]\nid = 'y'\nloop = 'a'\ndepends_on = 'y2'\n[[test]]\nid = 'y'\nloop = 'a'\n",
        &["1: test x: no loop", "4: test y is named twice", "4: test y: depends_on names no test"],
    );
    check(
        "f.json",
        "[\n {\"id\": \"x\", \"loop\": \"a\"},\n {\"id\": 7,\n  \"loop\": \"a\"},\n 5\n]",
        &["3: id must be text", "5: a test must be an object"],
    );
    check("g.json", "[\n {\"id\": \"x\"\n  \"loop\": \"a\"}]", &["3: "]);
    check("h.json", "{\"tests\": [], \"more\": 1}", &["1: \"more\" is not expected"]);
    check(
        "i.jsonl",
        "{\"id\": \"x\", \"loop\": \"a\"}\n\nnonsense\n{\"id\": \"y\", \"id\": \"z\", \"loop\": \"a\", \"scope\": \"s\"}\n",
        &["3: ", "4: \"id\" appears twice", "4: id appears twice", "4: scope must be"],
    );
    check(
        "j.toml",
        "[[test]]\nid = 'x'\nloop = 'a'\ndepends_on = 'y'\n[[test]]\nid = 'y'\nloop = 'a'\ndepends_on = 'x'\n",
        &["1: test x depends on itself", "5: test y depends on itself"],
    );
    check(
        "l.json",
        "[{\"id\": \"x\", \"loop\": \"a\",\n \"spec\": \"a \\ud800 b\"},\n {\"id\": \"y\", \"loop\": \"a\",\n \"notes\": \"\\udfff\"}]",
        &["2: spec is not valid text", "4: notes is not valid text"],
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check(
        "m.jsonl",
        &format!("{{\"id\": \"x\", \"loop\": \"a\"}}\n{{\"id\": \"y\", \"loop\": \"a\", \"spec\": {deep}}}\n"),
        &["2: spec is not valid text"],
    );
    check("n.toml", &format!("[[test]]\nid = 'x'\nloop = 'a'\nspec = {deep}\n"), &["4: "]);
    check("o.toml", "[[test]]\nid = 'x'\nloop = 'a'\nspec = nan\n", &["4: spec must be text"]);
    place.run(&["test", "import", "missing.toml"]).fails(2).says("missing.toml");
    std::fs::write(place.repository().join("k.toml"), b"[[test]]\nid = '\xff'\n").unwrap();
    place.run(&["test", "import", "k.toml"]).fails(2).says("k.toml:2:");
    place.run_with("[[test]]\nid = 'x'\n", &["test", "import", "-"]).fails(2).says("-:1:");
}

#[test]
fn a_long_chain_of_dependencies_is_imported() {
    use std::io::Write;
    use std::process::Stdio;
    let place = Place::with_loops();
    let row = |n: usize| format!("{{\"id\": \"t{n}\", \"loop\": \"a\", \"depends_on\": \"t{}\"}}\n", n + 1);
    let mut rows: String = (0..99_999).map(row).collect();
    let start = |rows: &str| {
        let mut child =
            place.command(&["--quiet", "test", "import", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(rows.as_bytes()).unwrap();
        wait_until("the import to end", || child.try_wait().unwrap().is_some());
        common::ran(child.wait_with_output().unwrap())
    };
    // The last one closes the chain, or ends it.
    let closed = format!("{rows}{}", row(99_999).replace("t100000", "t99500"));
    let ran = start(&closed).fails(2);
    assert_eq!(ran.stderr.lines().count(), 500, "{}", &ran.stderr[..200]);
    rows.push_str("{\"id\": \"t99999\", \"loop\": \"a\"}\n");
    start(&rows).ok();
    assert_eq!(place.sql("SELECT count(*), count(depends_on) FROM tests"), "100000|99999");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let place = Place::with_loops();
    let rows: String =
        (0..3000).map(|n| format!("{{\"id\": \"t{n}\", \"loop\": \"a\", \"notes\": \"{}\"}}\n", "x".repeat(80))).collect();
    place.run_with(&rows, &["test", "import", "-"]).ok();
    for arguments in [&["tests"][..], &["--json", "tests"], &["dump"]] {
        let mut child = place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = common::ran(child.wait_with_output().unwrap()).ok();
        assert_eq!(ran.stderr, "");
    }
}
