//! The real program on real workspaces.

use std::path::PathBuf;
use std::time::Duration;

use coord_db::wake::{Listener, Woken};
use git::{Layout, PutOn, Repository, SnapshotOptions, Store, Workspace};
use test_support::{World, git, make_repository, wait_until, write};

const MONITOR: &str = env!("CARGO_BIN_EXE_monitor");
const OPEN: &str = "SELECT fingerprint FROM alerts WHERE closed_at IS NULL ORDER BY 1";
const SETTINGS: &str = "[repository]\npath = \"repo\"\n[workspace]\nroot = \"repo-loops\"\n";
const OPTIONS: SnapshotOptions<'static> =
    SnapshotOptions { own_folder: "coding-loops", file_bytes: 1_000_000, user: None, take_unignored: false };

/// A repository with a store, and a workspace for each of two loops at work.
struct Repo {
    world: World,
    store: Store,
}

impl Repo {
    fn new() -> Self {
        let world = World::filled(
            "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'running'), ('b', '', 1, 'running');
             INSERT INTO tests(id, loop_id, status, attempts, last_attempt_at)
               VALUES ('ta', 'a', 'in_progress', 1, datetime('now')), ('tb', 'b', 'in_progress', 1, datetime('now'));",
        );
        let (folder, root) = (world.folder().to_owned(), world.folder().join("repo"));
        make_repository(&root, &[("x.rs", "one\ntwo\nthree\nfour\nfive\n"), (".gitignore", "target\n")]);
        let user = Repository::open(&root).unwrap();
        let layout = Layout::new(folder.join("repo-loops"));
        let (store, _) = layout.create(&user, &world.path, "coding-loops/integration").unwrap();
        store.start_integration(&user.commit("main").unwrap()).unwrap();
        let repo = Self { world, store };
        repo.configure("");
        for id in ["a", "b"] {
            repo.start(id);
        }
        repo
    }

    /// Settings beyond those of the world.
    fn configure(&self, settings: &str) {
        std::fs::write(self.world.path.with_file_name("config.toml"), format!("{SETTINGS}{settings}")).unwrap();
    }

    fn tree(&self, id: &str) -> PathBuf {
        self.world.path.with_file_name("repo-loops").join("loops").join(id)
    }

    /// A loop's workspace, made if it is not there.
    fn workspace(&self, id: &str) -> Workspace {
        let layout = Layout::new(self.world.path.with_file_name("repo-loops"));
        let head = self.store.integration().unwrap().unwrap();
        let spec = layout.workspace(id, &format!("coding-loops/{id}"));
        Workspace::open_or_create(&self.store, &spec, &head).unwrap().0
    }

    /// An attempt begins at the head of integration.
    fn start(&self, id: &str) {
        let workspace = self.workspace(id);
        workspace.reset_to(&self.store.integration().unwrap().unwrap()).unwrap();
        workspace.snapshot_start(&OPTIONS).unwrap();
    }

    /// Lands what a loop has changed; its workspace stays as it is.
    fn land(&self, id: &str) {
        let workspace = self.workspace(id);
        let change = workspace.change(&workspace.snapshot(&OPTIONS).unwrap()).unwrap();
        let head = self.store.integration().unwrap().unwrap();
        let PutOn::Tree(tree) = self.store.put_on(&change, &head).unwrap() else { panic!("a conflict") };
        self.store.move_integration(&self.store.commit(&tree, &[&head], "landed", &[]).unwrap(), &head).unwrap();
    }

    fn changes(&self) -> String {
        self.world.sql("SELECT loop_id, file_path FROM worktree_changes ORDER BY 1, 2")
    }
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
fn two_that_land_one_file_one_after_the_other_are_in_no_conflict_nor_are_lock_files_builds_and_new_bases() {
    let repo = Repo::new();
    let world = &repo.world;
    let daemon = world.daemon(MONITOR);
    write(&repo.tree("a"), "x.rs", "ONE\ntwo\nthree\nfour\nfive\n");
    world.until("SELECT loop_id, file_path FROM worktree_changes", "a|x.rs");
    repo.land("a");
    // Nothing in a's workspace says that its work has landed.
    write(&repo.tree("b"), "x.rs", "one\ntwo\nthree\nfour\nFIVE\n");
    world.until("SELECT loop_id, file_path FROM worktree_changes", "b|x.rs");
    repo.land("b");
    for id in ["a", "b"] {
        repo.start(id);
        write(&repo.tree(id), "Cargo.lock", id);
        write(&repo.tree(id), "sub/package-lock.json", id);
        write(&repo.tree(id), "target/x.o", id);
        write(&repo.tree(id), format!("{id}.rs"), id);
    }
    world.until("SELECT loop_id, file_path FROM worktree_changes ORDER BY 1", "a|a.rs\nb|b.rs");
    assert_eq!(daemon.terminate().code(), Some(0));

    for id in ["a", "b"] {
        std::fs::remove_file(repo.tree(id).join("Cargo.lock")).unwrap();
        std::fs::remove_dir_all(repo.tree(id).join("sub")).unwrap();
    }

    // b has changed the file long ago; that it starts from what a has landed since is no change.
    repo.start("b");
    write(&repo.tree("b"), "b.rs", "b");
    write(&repo.tree("b"), "x.rs", "ONE\ntwo\nthree\nfour\n5\n");
    world.once(MONITOR);
    world.sql("UPDATE worktree_changes SET last_changed_at = datetime('now', '-1 hour') WHERE file_path = 'x.rs'");
    write(&repo.tree("a"), "y.rs", "y");
    repo.land("a");
    repo.start("a");
    git(&repo.tree("b"), ["commit", "-q", "-am", "mine"]);
    git(&repo.tree("b"), ["pull", "-q", "--rebase"]);
    repo.workspace("b").follow_agent(&repo.store.integration().unwrap().unwrap()).unwrap().unwrap();
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
    write(&repo.tree("a"), "x.gen", "a");
    write(&repo.tree("b"), "x.gen", "b");
    repo.configure("[monitor]\nconflict_ignore = [\"*.gen\"]\n");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    repo.configure("");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "conflict:x.gen:a:b");

    let repo = Repo::new();
    let world = &repo.world;
    write(&repo.tree("a"), "x.rs", "a");
    world.once(MONITOR);
    world.sql("UPDATE worktree_changes SET last_changed_at = datetime('now', '-4 minutes')");
    repo.configure("[monitor]\nconflict_window_minutes = 3\n");
    write(&repo.tree("b"), "x.rs", "b");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "");
    repo.configure("");
    world.once(MONITOR);
    assert_eq!(world.sql(OPEN), "conflict:x.rs:a:b");
}

/// Waits until nobody has committed for a while: no look is due any more.
fn quiet(world: &World) {
    let mut listener = Listener::new(&world.path);
    wait_until("nobody to commit", || listener.wait(Duration::from_millis(1500)) == Woken::Timer);
}

#[test]
fn a_change_wakes_the_daemon() {
    let repo = Repo::new();
    let world = &repo.world;
    repo.configure("[monitor]\ninterval_seconds = 3600\n");
    let daemon = world.daemon(MONITOR);
    for id in ["a", "b"] {
        write(&repo.tree(id), "deep/er/x.rs", id);
    }
    world.until(OPEN, "conflict:deep/er/x.rs:a:b");
    // A change wakes it unless an earlier one still waits for its look. Its timers also make it look, but wake nobody.
    let wakes = || daemon.log().matches("woken by a change outside the database").count();
    let mut conflict = true;
    wait_until("four changes to wake the daemon", || {
        conflict = !conflict;
        if conflict {
            write(&repo.tree("b"), "deep/er/x.rs", "again");
            world.until(OPEN, "conflict:deep/er/x.rs:a:b");
        } else {
            std::fs::remove_file(repo.tree("b").join("deep/er/x.rs")).unwrap();
            world.until(OPEN, "");
        }
        wakes() >= 4
    });
    daemon.kill();
}

#[test]
fn a_build_in_ignored_folders_is_a_sign_of_life() {
    let repo = Repo::new();
    let world = &repo.world;
    repo.configure("[monitor]\ninterval_seconds = 1\n");
    world.sql("UPDATE tests SET last_attempt_at = datetime('now', '-20 minutes')");
    let daemon = world.daemon(MONITOR);
    world.until(OPEN, "stuck:a:ta\nstuck:b:tb");
    wait_until("the build to be noticed", || {
        write(&repo.tree("a"), "target/debug/x.o", "built");
        world.sql(OPEN) == "stuck:b:tb"
    });
    assert_eq!(repo.changes(), "");
    daemon.kill();
}

#[test]
fn a_landing_is_noticed_although_nothing_changes_in_the_workspace() {
    let repo = Repo::new();
    let world = &repo.world;
    repo.configure("[monitor]\ninterval_seconds = 1\n");
    let daemon = world.daemon(MONITOR);
    write(&repo.tree("a"), "x.rs", "mine\n");
    world.until("SELECT loop_id, file_path FROM worktree_changes", "a|x.rs");
    quiet(world);
    repo.land("a");
    world.until("SELECT loop_id, file_path FROM worktree_changes", "");
    daemon.kill();
}

#[test]
fn too_many_files_and_files_out_of_scope_are_digressions() {
    let repo = Repo::new();
    let world = &repo.world;
    world.sql("UPDATE tests SET scope = '[\"src\"]' WHERE id = 'tb'");
    for file in 0..21 {
        write(&repo.tree("a"), format!("src/{file}.rs"), "x");
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
fn workspaces_that_are_gone_or_damaged_are_no_error() {
    let repo = Repo::new();
    let world = &repo.world;
    write(&repo.tree("a"), "n.rs", "n");
    write(&repo.tree("b"), "n.rs", "m");
    world.once(MONITOR);
    assert_eq!(repo.changes(), "a|n.rs\nb|n.rs");
    std::fs::remove_dir_all(repo.tree("a")).unwrap();
    world.once(MONITOR);
    assert_eq!((repo.changes(), world.sql(OPEN)), ("b|n.rs".to_owned(), String::new()));
    write(&repo.tree("a"), ".git", "gitdir: /nowhere\n");
    std::fs::remove_dir_all(repo.tree("b").join(".git")).unwrap();
    world.once(MONITOR);
    assert!(repo.changes().ends_with("\nb|n.rs"), "{}", repo.changes());
    // Without a store nobody has a workspace.
    std::fs::rename(repo.store.path(), repo.tree("store")).unwrap();
    world.once(MONITOR);
    assert_eq!(repo.changes(), "");
    std::fs::remove_dir_all(world.path.with_file_name("repo-loops")).unwrap();
    world.once(MONITOR);
}

#[test]
fn a_loop_that_works_on_its_workspace_is_not_disturbed_and_what_was_known_stands() {
    let repo = Repo::new();
    let world = &repo.world;
    write(&repo.tree("a"), "n.rs", "n");
    world.once(MONITOR);
    let lock = std::fs::File::open(world.path.with_file_name("repo-loops").join("state/a/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::fs::remove_file(repo.tree("a").join("n.rs")).unwrap();
    world.once(MONITOR);
    assert_eq!(repo.changes(), "a|n.rs");
    // A daemon does not wait for its interval.
    repo.configure("[monitor]\ninterval_seconds = 3600\n");
    let daemon = world.daemon(MONITOR);
    write(&repo.tree("b"), "m.rs", "m");
    world.until("SELECT loop_id, file_path FROM worktree_changes ORDER BY 1", "a|n.rs\nb|m.rs");
    drop(lock);
    world.until("SELECT loop_id, file_path FROM worktree_changes", "b|m.rs");
    daemon.kill();
}

#[test]
fn the_agents_git_hides_nothing_and_adds_nothing() {
    let repo = Repo::new();
    let (world, a) = (&repo.world, repo.tree("a"));
    let daemon = world.daemon(MONITOR);
    let until = |expected: &str| world.until("SELECT file_path FROM worktree_changes WHERE loop_id = 'a' ORDER BY 1", expected);
    write(&a, "x.rs", "mine\n");
    git(&a, ["commit", "-q", "-am", "mine"]);
    until("x.rs");
    git(&a, ["checkout", "-q", "HEAD~1"]);
    until("");
    write(&a, "x.rs", "mine\n");
    until("x.rs");
    git(&a, ["stash", "-q"]);
    until("");
    git(&a, ["rm", "-q", "--cached", "x.rs"]);
    write(&a, ".git/info/exclude", "*\n");
    write(&a, "app/n.rs", "n");
    git(&a.join("app"), ["init", "-q"]);
    until("app/n.rs");
    git(&a, ["reset", "-q"]);
    git(&a, ["update-index", "--assume-unchanged", "x.rs"]);
    write(&a, "x.rs", "mine\n");
    until("app/n.rs\nx.rs");
    std::fs::remove_dir_all(a.join(".git")).unwrap();
    std::fs::remove_dir_all(a.join("app")).unwrap();
    until("x.rs");
    daemon.kill();
}
