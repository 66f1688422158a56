//! The real program on real git worktrees.

#[path = "../../supervisor/tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::World;
use coord_db::wake::{Listener, Woken};

const MONITOR: &str = env!("CARGO_BIN_EXE_monitor");
const OPEN: &str = "SELECT fingerprint FROM alerts WHERE closed_at IS NULL ORDER BY 1";

/// A repository with an integration branch, and a worktree for each of two loops at work.
struct Repo {
    world: World,
    root: PathBuf,
}

impl Repo {
    fn new() -> Self {
        let world = World::filled(
            "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'running'), ('b', '', 1, 'running');
             INSERT INTO tests(id, loop_id, status, attempts, last_attempt_at)
               VALUES ('ta', 'a', 'in_progress', 1, datetime('now')), ('tb', 'b', 'in_progress', 1, datetime('now'));",
        );
        let root = world.path.parent().unwrap().join("repo");
        std::fs::create_dir(&root).unwrap();
        let repo = Self { world, root };
        git(&repo.root, &["init", "-q", "-b", "main"]);
        write(&repo.root, "x.rs", "one\ntwo\nthree\nfour\nfive\n");
        write(&repo.root, ".gitignore", "target\n");
        repo.commit(&repo.root);
        git(&repo.root, &["branch", "coding-loops/integration"]);
        for id in ["a", "b"] {
            let path = repo.tree(id);
            git(&repo.root, &["worktree", "add", "-q", "-b", id, path.to_str().unwrap(), "coding-loops/integration"]);
        }
        repo
    }

    fn tree(&self, id: &str) -> PathBuf {
        self.world.path.parent().unwrap().join("worktrees").join(id)
    }

    fn commit(&self, tree: &Path) {
        git(tree, &["add", "-A"]);
        git(tree, &["commit", "-q", "-m", "work"]);
    }

    /// Rebases and moves the integration branch, as a landing does.
    fn land(&self, id: &str) {
        let tree = self.tree(id);
        self.commit(&tree);
        git(&tree, &["rebase", "-q", "coding-loops/integration"]);
        git(&tree, &["update-ref", "refs/heads/coding-loops/integration", "HEAD"]);
    }

    fn changes(&self) -> String {
        self.world.sql("SELECT loop_id, file_path FROM worktree_changes ORDER BY 1, 2")
    }
}

fn git(folder: &Path, args: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=x", "-c", "user.email=x@y"])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn two_loops_in_one_file_are_in_conflict_until_one_has_landed() {
    let repo = Repo::new();
    let world = &repo.world;
    write(&repo.tree("a"), "x.rs", "ONE\ntwo\nthree\nfour\nfive\n");
    world.once(MONITOR);
    assert_eq!((world.sql(OPEN), repo.changes()), (String::new(), "a|x.rs".to_owned()));
    write(&repo.tree("b"), "x.rs", "one\ntwo\nthree\nfour\nFIVE\n");
    for _ in 0..3 {
        world.once(MONITOR);
    }
    assert_eq!(world.sql(OPEN), "conflict:x.rs:a:b");
    let said = world.events("file_conflict");
    assert_eq!(said.len(), 1);
    assert_eq!((&said[0].payload["loop_a"], &said[0].payload["loop_b"]), (&"a".into(), &"b".into()));
    repo.land("a");
    world.once(MONITOR);
    assert_eq!((world.sql(OPEN), repo.changes()), (String::new(), "b|x.rs".to_owned()));
    assert_eq!(world.events("file_conflict").len(), 1);
}

#[test]
fn two_that_land_one_file_one_after_the_other_are_in_no_conflict_nor_are_lock_files_builds_and_rebases() {
    let repo = Repo::new();
    let world = &repo.world;
    let daemon = world.daemon(MONITOR);
    write(&repo.tree("a"), "x.rs", "ONE\ntwo\nthree\nfour\nfive\n");
    world.until("SELECT loop_id, file_path FROM worktree_changes", "a|x.rs");
    repo.land("a");
    // Nothing in a's worktree tells that its work has landed.
    write(&repo.tree("b"), "x.rs", "one\ntwo\nthree\nfour\nFIVE\n");
    world.until("SELECT loop_id, file_path FROM worktree_changes", "b|x.rs");
    repo.land("b");
    for id in ["a", "b"] {
        write(&repo.tree(id), "Cargo.lock", id);
        write(&repo.tree(id), "sub/package-lock.json", id);
        write(&repo.tree(id), "target/x.o", id);
        write(&repo.tree(id), &format!("{id}.rs"), id);
    }
    world.until("SELECT loop_id, file_path FROM worktree_changes ORDER BY 1", "a|a.rs\nb|b.rs");
    assert_eq!(daemon.terminate().code(), Some(0));

    for id in ["a", "b"] {
        std::fs::remove_file(repo.tree(id).join("Cargo.lock")).unwrap();
        std::fs::remove_dir_all(repo.tree(id).join("sub")).unwrap();
    }

    // b has changed the file long ago; that it is rebased onto what a has landed since is no change.
    write(&repo.tree("b"), "x.rs", "ONE\ntwo\nthree\nfour\n5\n");
    repo.commit(&repo.tree("b"));
    world.once(MONITOR);
    world.sql("UPDATE worktree_changes SET last_changed_at = datetime('now', '-1 hour') WHERE file_path = 'x.rs'");
    write(&repo.tree("a"), "y.rs", "y");
    repo.land("a");
    git(&repo.tree("b"), &["rebase", "-q", "coding-loops/integration"]);
    write(&repo.tree("a"), "x.rs", "1\ntwo\nthree\nfour\nFIVE\n");
    world.once(MONITOR);
    assert_eq!(repo.changes(), "a|x.rs\nb|b.rs\nb|x.rs");
    assert_eq!(world.sql("SELECT last_changed_at < datetime('now', '-50 minutes') FROM worktree_changes WHERE loop_id = 'b' AND file_path = 'x.rs'"), "1");
    assert_eq!(world.events("file_conflict"), []);
    assert_eq!(world.sql(OPEN), "");
}

#[test]
fn a_change_in_what_another_has_leased_is_a_conflict_unless_its_loop_queues_for_it() {
    let repo = Repo::new();
    let world = &repo.world;
    world.sql("INSERT INTO file_locks(file_path, locked_by, locked_at) VALUES ('deep/', 'a', datetime('now', '-1 hour'))");
    write(&repo.tree("b"), "deep/er/x.rs", "b");
    write(&repo.tree("b"), "deep/Cargo.lock", "b");
    write(&repo.tree("b"), "y.rs", "b");
    world.once(MONITOR);
    // Its own loop has a moment to queue.
    assert_eq!((world.sql(OPEN), repo.changes()), (String::new(), "b|deep/er/x.rs\nb|y.rs".to_owned()));
    world.sql("UPDATE worktree_changes SET first_seen_at = datetime('now', '-31 seconds')");
    world.once(MONITOR);
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "conflict:deep/er/x.rs:a:b");
    let said = world.events("file_conflict");
    assert_eq!(said.len(), 1);
    assert_eq!((&said[0].payload["loop_a"], &said[0].payload["file_path"]), (&"a".into(), &"deep/er/x.rs".into()));
    world.sql("INSERT INTO wait_graph(waiter, holder, resource) VALUES ('b', 'a', 'deep/er/x.rs')");
    world.once(MONITOR);
    assert_eq!((world.sql(OPEN).as_str(), world.events("file_conflict").len()), ("", 1));
}

#[test]
fn what_counts_as_a_conflict_is_set() {
    let repo = Repo::new();
    let world = &repo.world;
    let config = world.path.parent().unwrap().join("config.toml");
    write(&repo.tree("a"), "x.gen", "a");
    write(&repo.tree("b"), "x.gen", "b");
    std::fs::write(&config, "[monitor]\nconflict_ignore = [\"*.gen\"]\n").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    std::fs::write(&config, "").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "conflict:x.gen:a:b");

    let repo = Repo::new();
    let world = &repo.world;
    let config = world.path.parent().unwrap().join("config.toml");
    write(&repo.tree("a"), "x.rs", "a");
    world.once(MONITOR);
    world.sql("UPDATE worktree_changes SET last_changed_at = datetime('now', '-4 minutes')");
    std::fs::write(&config, "[monitor]\nconflict_window_minutes = 3\n").unwrap();
    write(&repo.tree("b"), "x.rs", "b");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    std::fs::write(&config, "").unwrap();
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "conflict:x.rs:a:b");
}

/// Waits until nobody has committed for a while: no look is due any more.
fn quiet(world: &World) {
    let mut listener = Listener::new(&world.path);
    let begun = Instant::now();
    while listener.wait(Duration::from_millis(1500)) != Woken::Timer {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never comes to rest");
    }
}

#[test]
fn a_change_wakes_the_daemon() {
    let repo = Repo::new();
    let world = &repo.world;
    std::fs::write(world.path.parent().unwrap().join("config.toml"), "[monitor]\ninterval_seconds = 3600\n").unwrap();
    let daemon = world.daemon(MONITOR);
    for id in ["a", "b"] {
        write(&repo.tree(id), "deep/er/x.rs", id);
    }
    world.until(OPEN, "conflict:deep/er/x.rs:a:b");
    // By its slow timer alone it would see about half of the changes so soon; a busy machine may hold up one or two.
    let mut soon = 0;
    for round in 0..8 {
        quiet(world);
        let begun = Instant::now();
        if round % 2 == 0 {
            std::fs::remove_file(repo.tree("b").join("deep/er/x.rs")).unwrap();
            world.until(OPEN, "");
        } else {
            write(&repo.tree("b"), "deep/er/x.rs", "again");
            world.until(OPEN, "conflict:deep/er/x.rs:a:b");
        }
        soon += usize::from(begun.elapsed() < Duration::from_millis(2500));
    }
    assert!(soon >= 6, "{soon} of 8 changes were seen before the timer");
    daemon.kill();
}

#[test]
fn too_many_files_and_files_out_of_scope_are_digressions() {
    let repo = Repo::new();
    let world = &repo.world;
    world.sql("UPDATE tests SET scope = '[\"src\"]' WHERE id = 'tb'");
    for file in 0..21 {
        write(&repo.tree("a"), &format!("src/{file}.rs"), "x");
    }
    for file in ["src/1.rs", "docs/ä ö.md", "docs/b\n.md", "c.md"] {
        write(&repo.tree("b"), file, "other");
    }
    world.once(MONITOR);
    world.once(MONITOR);
    let said = world.events("digression_detected");
    assert_eq!(said.len(), 2);
    assert_eq!((&said[0].payload["loop_id"], &said[0].payload["files_modified"]), (&"a".into(), &21.into()));
    assert_eq!(said[1].payload["actual_scope"], serde_json::json!(["c.md", "docs/b\n.md", "docs/ä ö.md"]));
}

#[test]
fn worktrees_that_are_gone_broken_or_somebody_elses_are_no_error() {
    let repo = Repo::new();
    let world = &repo.world;
    write(&repo.tree("a"), "n.rs", "n");
    write(&repo.tree("b"), "n.rs", "m");
    world.once(MONITOR);
    assert_eq!(repo.changes(), "a|n.rs\nb|n.rs");
    std::fs::remove_dir_all(repo.tree("a")).unwrap();
    world.once(MONITOR);
    assert_eq!((repo.changes(), world.sql(OPEN)), ("b|n.rs".to_owned(), String::new()));
    std::fs::create_dir(repo.tree("a")).unwrap();
    std::fs::write(repo.tree("b").join(".git"), "gitdir: /nowhere\n").unwrap();
    world.once(MONITOR);
    std::fs::remove_dir_all(&repo.root).unwrap();
    world.once(MONITOR);
    // In the middle of a rebase nothing can be told.
    let repo = Repo::new();
    write(&repo.tree("a"), "n.rs", "n");
    repo.world.once(MONITOR);
    std::fs::create_dir(repo.root.join(".git/worktrees/a/rebase-merge")).unwrap();
    std::fs::remove_file(repo.tree("a").join("n.rs")).unwrap();
    repo.world.once(MONITOR);
    assert_eq!(repo.changes(), "a|n.rs");
}
