//! Submodules: what the user's repository has of them is in workspaces and check-outs, without a network.

use std::fs;
use std::path::{Path, PathBuf};

use crate::place::{OPTIONS, Place, land, look, names};
use git::{CommitHash, Finding, SnapshotOptions, Store, Workspace};
use test_support::{commit, git, git_command, make_repository, write};

const ALLOWED: [&str; 2] = ["-c", "protocol.file.allow=always"];

/// A repository with one file, and its commits as they are made.
struct Library(PathBuf);

impl Library {
    fn new(place: &Place, name: &str) -> Self {
        let library = Self(place.dir.path().join(name));
        make_repository(&library.0, &[("l.txt", "one\n")]);
        library
    }

    fn commit(&self, text: &str) -> String {
        commit(&self.0, text, &[("l.txt", text)])
    }

    fn add_to(&self, root: &Path, path: &str) {
        git(root, ALLOWED.into_iter().chain(["submodule", "--quiet", "add", self.0.to_str().unwrap(), path]));
        git(root, ["commit", "--quiet", "-m", "a submodule"]);
    }
}

/// `lib/vendor` with `inner` in it, initialised in the user's checkout; the sources are gone.
fn nested() -> (Place, Store) {
    let place = Place::new(&[("a.txt", "one\n")]);
    let (inner, library) = (Library::new(&place, "inner"), Library::new(&place, "library"));
    inner.add_to(&library.0, "deep/inner");
    library.add_to(&place.root, "lib/vendor");
    let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
    git(&place.root, ALLOWED.into_iter().chain(update));
    for source in [&inner.0, &library.0] {
        fs::rename(source, source.with_extension("away")).unwrap();
    }
    let store = place.store();
    (place, store)
}

fn read(root: &Path, name: &str) -> Option<String> {
    fs::read_to_string(root.join(name)).ok()
}

fn head(store: &Store) -> CommitHash {
    store.integration().unwrap().unwrap()
}

const FILES: [&str; 2] = ["lib/vendor/l.txt", "lib/vendor/deep/inner/l.txt"];

#[test]
fn nested_ones_are_there_offline() {
    let (place, store) = nested();
    let before = place.fingerprint();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    for name in FILES {
        assert_eq!(read(root, name).as_deref(), Some("one\n"), "{name}");
    }
    assert_eq!(look(&workspace), (vec![], vec![]));
    assert_eq!(git(root, ["status", "--porcelain"]), "");
    let status = git(root, ["submodule", "status", "--recursive"]);
    assert!(status.lines().count() == 2 && status.lines().all(|line| line.starts_with(' ')), "{status}");
    git(root, ["submodule", "--quiet", "update", "--init", "--recursive"]);
    // The agent's mess there goes with a reset, and reaches nobody.
    write(root, "lib/vendor/l.txt", "dirty\n");
    write(root, "lib/vendor/new.txt", "x");
    fs::remove_dir_all(root.join("lib/vendor/deep")).unwrap();
    git(&root.join("lib/vendor"), ["config", "core.fsmonitor", "touch /nowhere"]);
    workspace.reset_to(&head(&store)).unwrap();
    for name in FILES {
        assert_eq!(read(root, name).as_deref(), Some("one\n"), "{name}");
    }
    assert_eq!(read(root, "lib/vendor/new.txt"), None);
    assert_eq!(git(root, ["submodule", "status", "--recursive"]), status);
    fs::remove_dir_all(root.join("lib")).unwrap();
    std::os::unix::fs::symlink("/", root.join("lib")).unwrap();
    workspace.reset_to(&head(&store)).unwrap();
    assert_eq!(read(root, FILES[1]).as_deref(), Some("one\n"));
    fs::remove_dir_all(root.join(".git")).unwrap();
    Workspace::open_or_create(&store, &place.spec("a"), &head(&store)).unwrap();
    assert_eq!(git(root, ["submodule", "status", "--recursive"]), status);
    assert_eq!(place.fingerprint(), before);
}

#[test]
fn checks_see_them_and_what_they_do_there_ends_with_them() {
    let (place, store) = nested();
    let path = place.loops.join("gates/a");
    let tree = store.check_out(&path, &head(&store)).unwrap();
    let all = || FILES.map(|name| read(tree.root(), name).unwrap_or_default());
    assert_eq!(all(), ["one\n", "one\n"]);
    assert_eq!(git(tree.root(), ["status", "--porcelain"]), "");
    write(tree.root(), FILES[0], "two\n");
    write(tree.root(), "lib/vendor/built", "x");
    fs::remove_file(tree.root().join("lib/vendor/.git")).unwrap();
    fs::write(tree.root().join("lib/vendor/deep/inner/.git"), "gitdir: /nowhere\n").unwrap();
    store.check_out(&path, &head(&store)).unwrap();
    assert_eq!(all(), ["one\n", "one\n"]);
    assert_eq!(read(tree.root(), "lib/vendor/built"), None);
    assert_eq!(git(tree.root(), ["submodule", "status", "--recursive"]).lines().count(), 2);
    // A commit without them.
    let without = land(&store, &[("b.txt", "two\n")]);
    let index = place.dir.path().join("index");
    let git_dir = store.path().to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let place = ["--git-dir", &git_dir, "--work-tree", &git_dir];
        test_support::run(git_command(store.path()).env("GIT_INDEX_FILE", &index).args(place).args(args))
    };
    run(&["read-tree", without.as_str()]);
    run(&["update-index", "--force-remove", "lib/vendor", ".gitmodules"]);
    let bare = CommitHash::new(run(&["write-tree"])).unwrap();
    let bare = store.commit(&bare, &[&without], "removed", &[]).unwrap();
    store.check_out(&path, &bare).unwrap();
    assert!(!tree.root().join("lib").exists());
    store.check_out(&path, &without).unwrap();
    assert_eq!(all(), ["one\n", "one\n"]);
}

#[test]
fn at_a_commit_that_nobody_has_the_checks_see_none_of_its_files() {
    let (place, store) = nested();
    let gate = place.loops.join("gates/a");
    let tree = store.check_out(&gate, &head(&store)).unwrap();
    assert!(FILES.iter().all(|name| read(tree.root(), name).is_some()));
    let nobodys = format!("160000,{},lib/vendor", "1".repeat(40));
    git(&place.root, ["update-index", "--cacheinfo", &nobodys]);
    git(&place.root, ["commit", "--quiet", "-m", "a commit of nobody's"]);
    let commit = store.fetch_from_user(&place.user, "HEAD").unwrap();
    for _ in 0..2 {
        let tree = store.check_out(&gate, &commit).unwrap();
        assert!(FILES.iter().all(|name| read(tree.root(), name).is_none()));
        assert!(!tree.root().join("lib/vendor/.git").exists() && tree.root().join("lib/vendor").is_dir());
    }
    let tree = store.check_out(&gate, &head(&store)).unwrap();
    assert!(FILES.iter().all(|name| read(tree.root(), name).is_some()));
}

#[test]
fn one_that_the_user_has_moved_or_initialised_since_is_followed() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let library = Library::new(&place, "library");
    library.add_to(&place.root, "vendor");
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    assert_eq!(read(workspace.root(), "vendor/l.txt").as_deref(), Some("one\n"));
    let two = library.commit("two\n");
    git(&place.root.join("vendor"), ALLOWED.into_iter().chain(["pull", "--quiet", "origin", "main"]));
    let moved = place.commit(&[]);
    let second = Library::new(&place, "second");
    second.add_to(&place.root, "other");
    let both = place.user.commit("HEAD").unwrap();
    store.fetch_from_user(&place.user, "main").unwrap();
    for commit in [&moved, &both] {
        workspace.reset_to(commit).unwrap();
        assert_eq!(read(workspace.root(), "vendor/l.txt").as_deref(), Some("two\n"));
        assert_eq!(git(&workspace.root().join("vendor"), ["rev-parse", "HEAD"]), two);
    }
    assert_eq!(read(workspace.root(), "other/l.txt").as_deref(), Some("one\n"));
    // One that the user does not have stays empty, and so it is nobody's change.
    git(&place.root, ["submodule", "--quiet", "deinit", "-f", "other"]);
    fs::remove_dir_all(place.root.join(".git/modules/other")).unwrap();
    fs::remove_dir_all(&place.loops).unwrap();
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    assert_eq!(read(workspace.root(), "other/l.txt"), None);
    assert_eq!(read(workspace.root(), "vendor/l.txt").as_deref(), Some("two\n"));
    assert_eq!(look(&workspace), (vec![], vec![]));
}

#[test]
fn a_commit_that_others_can_fetch_lands_with_its_files_and_another_is_kept() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let library = Library::new(&place, "library");
    library.add_to(&place.root, "vendor");
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let vendor = workspace.root().join("vendor");
    let two = library.commit("two\n");
    git(&vendor, ALLOWED.into_iter().chain(["fetch", "--quiet", "origin"]));
    git(&vendor, ["checkout", "--quiet", &two]);
    let options = SnapshotOptions { user: Some(&place.user), ..OPTIONS };
    let snapshot = workspace.snapshot(&options).unwrap();
    assert_eq!(snapshot.findings, []);
    let work = workspace.change(&snapshot).unwrap();
    let git::PutOn::Tree(tree) = store.put_on(&work, &head(&store)).unwrap() else { panic!() };
    let commit = store.commit(&tree, &[&head(&store)], "moved", &[]).unwrap();
    fs::rename(&library.0, library.0.with_extension("away")).unwrap();
    let checked = store.check_out(&place.loops.join("gates/a"), &commit).unwrap();
    assert_eq!(read(checked.root(), "vendor/l.txt").as_deref(), Some("two\n"));
    // Put back later, and put aside.
    workspace.reset_to(&head(&store)).unwrap();
    assert_eq!(read(&vendor, "l.txt").as_deref(), Some("one\n"));
    workspace.put_back(&tree).unwrap();
    assert_eq!(read(&vendor, "l.txt").as_deref(), Some("two\n"));
    assert_eq!(look(&workspace).0, ["vendor"]);
    write(&vendor, "l.txt", "mine\n");
    git(&vendor, ["commit", "--quiet", "-am", "mine"]);
    let mine = git(&vendor, ["rev-parse", "HEAD"]).to_owned();
    assert!(matches!(look(&workspace).1[..], [Finding::UnknownSubmoduleCommit { commit: Some(_), .. }]));
    workspace.reset_to(&head(&store)).unwrap();
    assert_eq!(git(&store.path().join("modules/vendor"), ["cat-file", "-t", &mine]), "commit");
    // What others have landed there is taken over where the agent has not touched it.
    store.move_integration(&commit, &head(&store)).unwrap();
    let updated = workspace.update_paths(&[PathBuf::from("vendor")], &commit).unwrap();
    assert_eq!(updated.updated, [PathBuf::from("vendor")]);
    assert_eq!(read(&vendor, "l.txt").as_deref(), Some("two\n"));
    assert_eq!(look(&workspace), (vec![], vec![]));
}

fn saving(place: &Place) -> SnapshotOptions<'_> {
    SnapshotOptions { take_unignored: true, user: Some(&place.user), ..OPTIONS }
}

fn edited(workspace: &Workspace) -> Vec<(String, Vec<String>)> {
    let described = |finding: Finding| match finding {
        Finding::EditedInSubmodule { path, files } => (path.to_string_lossy().into_owned(), names(&files)),
        other => panic!("{other:?}"),
    };
    let (changed, findings) = look(workspace);
    assert_eq!(changed, Vec::<String>::new());
    findings.into_iter().map(described).collect()
}

/// Saves what a workspace holds, resets it, and puts it back.
fn save_and_put_back(place: &Place, store: &Store, workspace: &Workspace) {
    let snapshot = workspace.snapshot(&saving(place)).unwrap();
    let work = workspace.change(&snapshot).unwrap();
    assert_eq!(workspace.snapshot(&saving(place)).unwrap().tree, snapshot.tree, "the same is saved as the same");
    let saved = store.commit(&work.tree, &[&head(store)], "saved", &[]).unwrap();
    store.repository().set_ref("refs/coding-loops/saved/x", &saved, &git::RefExpectation::Any).unwrap();
    workspace.reset_to(&head(store)).unwrap();
    workspace.snapshot_start(&OPTIONS).unwrap();
    assert_eq!(look(workspace), (vec![], vec![]));
    for repository in ["", "modules/lib/vendor", "modules/lib/vendor/modules/deep/inner"] {
        let path = store.path().join(repository);
        if path.exists() {
            git(&path, ["gc", "--quiet", "--prune=now"]);
        }
    }
    workspace.put_back(&work.tree).unwrap();
}

#[test]
fn edits_in_them_are_named_saved_and_put_back() {
    let (place, store) = nested();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, "lib/vendor/.gitignore", "out/\n");
    write(root, "lib/vendor/generated", "by set-up\n");
    write(root, "lib/vendor/deep/inner/generated", "by set-up\n");
    workspace.snapshot_start(&OPTIONS).unwrap();
    write(root, "lib/vendor/out/x.o", "built");
    assert_eq!(edited(&workspace), []);
    write(root, "lib/vendor/l.txt", "two\n");
    write(root, "lib/vendor/new ünï", "new\n");
    write(root, "lib/vendor/app/main", "its own repository\n");
    git(&root.join("lib/vendor/app"), ["init", "--quiet"]);
    fs::remove_file(root.join(FILES[1])).unwrap();
    git(&root.join("lib/vendor"), ["add", "l.txt"]);
    let expected = [
        ("lib/vendor".to_owned(), vec!["app/main".to_owned(), "l.txt".to_owned(), "new ünï".to_owned()]),
        ("lib/vendor/deep/inner".to_owned(), vec!["l.txt".to_owned()]),
    ];
    assert_eq!(edited(&workspace), expected);
    // Without its git folder too.
    fs::remove_file(root.join("lib/vendor/.git")).unwrap();
    assert_eq!(edited(&workspace), expected);
    save_and_put_back(&place, &store, &workspace);
    assert_eq!(read(root, "lib/vendor/l.txt").as_deref(), Some("two\n"));
    assert_eq!(read(root, "lib/vendor/new ünï").as_deref(), Some("new\n"));
    assert_eq!(read(root, "lib/vendor/app/main").as_deref(), Some("its own repository\n"));
    assert_eq!(read(root, FILES[1]), None);
    assert!(git(&root.join("lib/vendor"), ["status", "--porcelain"]).contains(" M l.txt"));
    let is_edited = |name: &str| {
        look(&workspace)
            .1
            .iter()
            .any(|finding| matches!(finding, Finding::EditedInSubmodule { path, .. } if path == Path::new(name)))
    };
    assert!(is_edited("lib/vendor") && is_edited("lib/vendor/deep/inner"));
}

#[test]
fn commits_and_edits_on_them_in_a_nested_one_come_back_too() {
    let (place, store) = nested();
    let workspace = place.workspace(&store, "a");
    let inner = workspace.root().join("lib/vendor/deep/inner");
    write(&inner, "l.txt", "mine\n");
    git(&inner, ["commit", "--quiet", "-am", "mine"]);
    let mine = git(&inner, ["rev-parse", "HEAD"]);
    assert_eq!(edited(&workspace), [("lib/vendor".to_owned(), vec!["deep/inner".to_owned()])]);
    write(&inner, "l.txt", "edited\n");
    save_and_put_back(&place, &store, &workspace);
    assert_eq!(read(&inner, "l.txt").as_deref(), Some("edited\n"));
    assert_eq!(git(&inner, ["rev-parse", "HEAD"]), mine);
    git(&inner, ["commit", "--quiet", "-am", "again"]);
    git(&workspace.root().join("lib/vendor"), ["commit", "--quiet", "-am", "mine"]);
    git(&workspace.root().join("lib/vendor"), ["update-ref", "refs/remotes/origin/pushed", "HEAD"]);
    let snapshot = workspace.snapshot(&SnapshotOptions { user: Some(&place.user), ..OPTIONS }).unwrap();
    // As if the outer one were pushed and the inner one not.
    let [Finding::UnknownSubmoduleCommit { path, commit: Some(_) }] = &snapshot.findings[..] else { panic!("{snapshot:?}") };
    assert_eq!(path, Path::new("lib/vendor/deep/inner"));
}

#[test]
fn edits_in_one_that_only_the_agent_has_are_found() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let library = Library::new(&place, "library");
    library.add_to(&place.root, "vendor");
    git(&place.root, ["submodule", "--quiet", "deinit", "-f", "vendor"]);
    fs::remove_dir_all(place.root.join(".git/modules/vendor")).unwrap();
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let vendor = workspace.root().join("vendor");
    // Files where nobody has filled it.
    write(&vendor, "stray", "x\n");
    assert_eq!(edited(&workspace), [("vendor".to_owned(), vec!["stray".to_owned()])]);
    save_and_put_back(&place, &store, &workspace);
    assert_eq!(read(&vendor, "stray").as_deref(), Some("x\n"));
    fs::remove_dir_all(&vendor).unwrap();
    git(workspace.root(), ALLOWED.into_iter().chain(["submodule", "--quiet", "update", "--init"]));
    assert_eq!(edited(&workspace), []);
    write(&vendor, "l.txt", "two\n");
    assert_eq!(edited(&workspace), [("vendor".to_owned(), vec!["l.txt".to_owned()])]);
    save_and_put_back(&place, &store, &workspace);
    assert_eq!(read(&vendor, "l.txt").as_deref(), Some("two\n"));
    // One that the agent adds.
    git(workspace.root(), ALLOWED.into_iter().chain(["submodule", "--quiet", "add", library.0.to_str().unwrap(), "more"]));
    write(workspace.root(), "more/l.txt", "two\n");
    for _ in 0..2 {
        let findings = look(&workspace).1;
        let is_edit =
            |finding: &Finding| matches!(finding, Finding::EditedInSubmodule { path, .. } if path == Path::new("more"));
        assert!(findings.iter().any(is_edit), "{findings:?}");
    }
}

#[test]
fn a_hostile_submodule_runs_nothing_when_its_edits_are_looked_at() {
    use std::os::unix::fs::PermissionsExt;
    let (place, store) = nested();
    let workspace = place.workspace(&store, "a");
    let vendor = workspace.root().join("lib/vendor");
    let (marker, script) = (place.dir.path().join("executed"), place.dir.path().join("evil.sh"));
    fs::write(&script, format!("#!/bin/sh\ntouch '{}'\ncat\n", marker.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let evil = script.to_str().unwrap();
    for key in ["core.fsmonitor", "filter.evil.clean", "filter.evil.process", "diff.external", "core.alternateRefsCommand"] {
        git(&vendor, ["config", key, evil]);
    }
    let hooks = workspace.root().join(".git/modules/lib/vendor/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for hook in ["post-index-change", "reference-transaction", "pre-commit"] {
        fs::copy(&script, hooks.join(hook)).unwrap();
    }
    write(&vendor, ".gitattributes", "* filter=evil\n");
    write(&vendor, "l.txt", "two\n");
    drop(fs::remove_file(&marker));
    assert_eq!(edited(&workspace), [("lib/vendor".to_owned(), vec![".gitattributes".to_owned(), "l.txt".to_owned()])]);
    workspace.snapshot(&saving(&place)).unwrap();
    assert!(!marker.exists());
}

#[test]
fn a_filter_whose_program_is_missing_leaves_its_files_as_they_are_stored() {
    let place = Place::new(&[("a.txt", "one\n"), (".gitattributes", "*.bin filter=lfs\n"), ("x.bin", "pointer\n")]);
    for part in ["process", "smudge", "clean"] {
        git(&place.root, ["config", &format!("filter.lfs.{part}"), "no-such-lfs x"]);
    }
    git(&place.root, ["config", "filter.lfs.required", "true"]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    assert_eq!(read(root, "x.bin").as_deref(), Some("pointer\n"));
    assert_eq!(look(&workspace), (vec![], vec![]));
    write(root, "a.txt", "two\n");
    assert_eq!(look(&workspace).0, ["a.txt"]);
    git(root, ["add", "-A"]);
    let tree = store.check_out(&place.loops.join("gates/a"), &head(&store)).unwrap();
    assert_eq!(read(tree.root(), "x.bin").as_deref(), Some("pointer\n"));
}
