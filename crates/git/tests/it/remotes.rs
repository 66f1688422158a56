//! Integration at a remote, for two machines: each has a store of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::place::{BRANCH, Place, commit_on};
use git::{CommitHash, Error, RefExpectation, Refreshed, Repository, Store};
use test_support::{git, git_command, run};

const INTEGRATION: &str = "refs/heads/coding-loops/integration";

/// The user's repository, a bare remote, and as many machines as wanted.
struct Machines {
    place: Place,
    remote: PathBuf,
}

/// A path beside the user's repository; the folder that it is in exists.
fn outside(place: &Place, name: &str) -> PathBuf {
    let path = place.loops.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

impl Machines {
    fn new() -> Self {
        let place = Place::new(&[("a", "1\n")]);
        let remote = outside(&place, "remote.git");
        run(git_command(&place.root).args(["init", "--quiet", "--bare"]).arg(&remote));
        git(&place.root, ["remote", "add", "team", remote.to_str().unwrap()]);
        Self { place, remote }
    }

    /// Another machine: a clone of the user's repository, with a store of its own.
    fn machine(&self, name: &str) -> Store {
        let clone = outside(&self.place, &format!("{name}/repository"));
        run(git_command(&self.place.root).args(["clone", "--quiet", "."]).arg(&clone));
        git(&clone, ["remote", "add", "team", self.remote.to_str().unwrap()]);
        let user = Repository::open(&clone).unwrap();
        let path = outside(&self.place, &format!("{name}/store.git"));
        let (mut store, _) = Store::create(&user, &path, BRANCH).unwrap();
        store.set_remote(&user, "team").unwrap();
        store
    }

    fn begun(&self, name: &str) -> (Store, CommitHash) {
        let store = self.machine(name);
        let main = self.place.user.commit("main").unwrap();
        store.start_integration(&main).unwrap();
        (store, main)
    }

    fn both_begun(&self) -> (Store, Store, CommitHash) {
        let (one, main) = self.begun("one");
        let two = self.machine("two");
        two.start_integration(&main).unwrap();
        (one, two, main)
    }

    fn head(&self) -> Option<CommitHash> {
        let text = run(git_command(&self.remote).args(["for-each-ref", "--format=%(objectname)", INTEGRATION]));
        CommitHash::new(text).ok()
    }

    fn hook(&self, name: &str, script: &str) {
        let hook = self.remote.join("hooks").join(name);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A commit on top of another, in a store.
fn next(store: &Store, on: &CommitHash, file: &str) -> CommitHash {
    commit_on(store, on, &[(file, "new\n")])
}

#[test]
fn one_of_two_lands_and_the_other_finds_it_there() {
    let machines = Machines::new();
    let (one, main) = machines.begun("one");
    assert_eq!(machines.head(), Some(main.clone()));
    // It starts where the others are, not where its user is.
    let first = next(&one, &main, "first");
    one.move_integration(&first, &main).unwrap();
    let two = machines.machine("two");
    assert_eq!(two.start_integration(&main).unwrap(), first);
    let (left, right) = (next(&one, &first, "left"), next(&two, &first, "right"));
    one.move_integration(&left, &first).unwrap();
    let refused = two.move_integration(&right, &first).unwrap_err();
    assert!(matches!(&refused, Error::RefMoved { found, .. } if *found == Some(left.clone())), "{refused}");
    assert_eq!(two.integration().unwrap(), Some(first));
    assert_eq!(two.refresh().unwrap(), Refreshed::Moved { to: left.clone() });
    assert_eq!(two.refresh().unwrap(), Refreshed::Same);
    let both = next(&two, &left, "right");
    two.move_integration(&both, &left).unwrap();
    assert_eq!(machines.head(), Some(both.clone()));
    // A store that is opened later knows its remote, also after its settings were written again.
    let again = Store::open(one.path()).unwrap();
    again.refresh_settings(&machines.place.user).unwrap();
    assert_eq!(Store::open(one.path()).unwrap().remote(), Some(machines.remote.display().to_string()));
    assert_eq!(again.refresh().unwrap(), Refreshed::Moved { to: both });
}

#[test]
fn a_remote_that_is_away_changes_nothing_and_one_whose_answer_is_lost_has_moved() {
    let machines = Machines::new();
    let (store, main) = machines.begun("one");
    let commit = next(&store, &main, "b");
    let away = machines.remote.with_extension("away");
    fs::rename(&machines.remote, &away).unwrap();
    for error in [store.move_integration(&commit, &main).unwrap_err(), store.refresh().unwrap_err()] {
        assert!(matches!(&error, Error::RemoteUnreachable { .. }), "{error}");
    }
    assert_eq!(store.integration().unwrap(), Some(main.clone()));
    fs::rename(&away, &machines.remote).unwrap();
    // The server dies after it has moved the branch.
    machines.hook("post-receive", "kill -9 $PPID");
    store.move_integration(&commit, &main).unwrap();
    assert_eq!((store.integration().unwrap(), machines.head()), (Some(commit.clone()), Some(commit.clone())));
    fs::remove_file(machines.remote.join("hooks/post-receive")).unwrap();
    // Or this process does, before it has moved its own.
    store.repository().set_ref(INTEGRATION, &main, &RefExpectation::Any).unwrap();
    assert_eq!(store.refresh().unwrap(), Refreshed::Moved { to: commit.clone() });
    // A push again of what is there is done.
    store.repository().set_ref(INTEGRATION, &main, &RefExpectation::Any).unwrap();
    store.move_integration(&commit, &main).unwrap();
    assert_eq!(store.integration().unwrap(), Some(commit));
}

#[test]
fn a_refusal_of_the_server_is_reported_verbatim() {
    let machines = Machines::new();
    let (store, main) = machines.begun("one");
    machines.hook("pre-receive", "echo 'this branch is protected' >&2; exit 1");
    let commit = next(&store, &main, "b");
    let refused = store.move_integration(&commit, &main).unwrap_err();
    assert!(matches!(&refused, Error::RemoteRefused { why, .. } if why.contains("this branch is protected")), "{refused}");
    assert_eq!((store.integration().unwrap(), machines.head()), (Some(main.clone()), Some(main)));
}

#[test]
fn a_branch_that_somebody_else_has_moved_is_never_followed_by_itself() {
    let machines = Machines::new();
    let (store, main) = machines.begun("one");
    let commit = next(&store, &main, "b");
    store.move_integration(&commit, &main).unwrap();
    let at = |target: Option<&CommitHash>| match target {
        Some(commit) => git(&machines.remote, ["update-ref", INTEGRATION, commit.as_str()]),
        None => git(&machines.remote, ["update-ref", "-d", INTEGRATION]),
    };
    let other = next(&store, &main, "other");
    git(store.path(), ["push", "--quiet", machines.remote.to_str().unwrap(), &format!("{other}:refs/heads/other")]);
    for found in [Some(main.clone()), Some(other.clone()), None] {
        at(found.as_ref());
        assert_eq!(store.refresh().unwrap(), Refreshed::Diverged { found: found.clone() });
        let refused = store.move_integration(&next(&store, &commit, "c"), &commit).unwrap_err();
        assert!(matches!(refused, Error::RefMoved { .. }), "{refused}");
        assert_eq!(store.integration().unwrap(), Some(commit.clone()));
        // Somebody moves it again, before the answer.
        let stale = next(&store, &main, "stale");
        assert!(matches!(store.overwrite_remote(Some(&stale)).unwrap_err(), Error::RefMoved { .. }));
        store.overwrite_remote(found.as_ref()).unwrap();
        assert_eq!((store.refresh().unwrap(), machines.head()), (Refreshed::Same, Some(commit.clone())));
    }
    at(Some(&other));
    store.take_from_remote(&other, &commit).unwrap();
    assert_eq!(store.refresh().unwrap(), Refreshed::Same);
}

#[test]
fn an_installation_that_has_worked_alone_brings_its_work_along() {
    let machines = Machines::new();
    let (user, path) = (&machines.place.user, outside(&machines.place, "alone/store.git"));
    let (mut store, _) = Store::create(user, &path, BRANCH).unwrap();
    let main = store.fetch_from_user(user, "main").unwrap();
    store.start_integration(&main).unwrap();
    let commit = next(&store, &main, "b");
    store.move_integration(&commit, &main).unwrap();
    for earlier in [None, Some(&main)] {
        if let Some(earlier) = earlier {
            git(&machines.place.root, ["push", "--quiet", "--force", "team", &format!("{earlier}:{INTEGRATION}")]);
            store.set_remote(user, "").unwrap();
            assert_eq!(store.refresh().unwrap(), Refreshed::NoRemote);
        }
        store.set_remote(user, "team").unwrap();
        assert_eq!((store.refresh().unwrap(), machines.head()), (Refreshed::Same, Some(commit.clone())));
    }
    let unknown = store.set_remote(user, "tema").unwrap_err().to_string();
    assert!(unknown.contains("\"tema\" is no remote"), "{unknown}");
}

#[test]
fn references_have_copies_and_queued_work_reaches_the_other_machine() {
    let machines = Machines::new();
    let (one, two, main) = machines.both_begun();
    let (saved, queued) = (next(&one, &main, "saved"), next(&one, &main, "queued"));
    let refs =
        [("refs/coding-loops/saved/x/t/1".to_owned(), saved), ("refs/coding-loops/queued/x/2".to_owned(), queued.clone())];
    one.send(&refs, &[]).unwrap();
    let mut sent = two.sent().unwrap();
    sent.sort();
    let mut all = refs.to_vec();
    all.sort();
    assert_eq!(sent, all);
    assert!(two.repository().resolve(queued.as_str()).unwrap().is_none());
    assert_eq!(two.refresh().unwrap(), Refreshed::Same);
    assert_eq!(two.repository().resolve(queued.as_str()).unwrap(), Some(queued));
    one.send(&[], &[refs[1].0.clone()]).unwrap();
    assert_eq!(two.sent().unwrap(), refs[..1]);
    // Nothing of it is a branch that people would see.
    assert_eq!(git(&machines.remote, ["for-each-ref", "--format=%(refname)", "refs/heads"]), INTEGRATION);
}

/// The file of an object that is in no pack.
fn object_file(repository: &Path, object: &CommitHash) -> PathBuf {
    let (folder, name) = object.as_str().split_at(2);
    repository.join("objects").join(folder).join(name)
}

#[test]
fn what_a_killed_fetch_has_brought_in_part_is_fetched_again() {
    let machines = Machines::new();
    let (one, two, main) = machines.both_begun();
    let (landed, queued) = (next(&one, &main, "landed"), next(&one, &main, "queued"));
    one.move_integration(&landed, &main).unwrap();
    one.send(&[("refs/coding-loops/queued/x/1".to_owned(), queued.clone())], &[]).unwrap();
    for commit in [&queued, &landed] {
        for object in [commit, &one.repository().tree_of(commit).unwrap()] {
            let [from, to] = [&one, &two].map(|store| object_file(store.path(), object));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
    let both = [queued, landed.clone()];
    assert!(!two.are_whole(&both).unwrap() && two.missing(&both).unwrap().is_empty());
    assert_eq!(two.refresh().unwrap(), Refreshed::Moved { to: landed });
    assert!(two.are_whole(&both).unwrap());
    for commit in &both {
        git(two.path(), ["rev-list", "--objects", commit.as_str()]);
    }
}

#[test]
fn one_broken_queued_work_keeps_none_of_the_others_away() {
    let machines = Machines::new();
    let (one, two, main) = machines.both_begun();
    let works: Vec<_> =
        ["a", "b", "c"].map(|name| (format!("refs/coding-loops/queued/{name}/1"), next(&one, &main, name))).into();
    one.send(&works, &[]).unwrap();
    let tree = one.repository().tree_of(&works[1].1).unwrap();
    fs::remove_file(object_file(&machines.remote, &tree)).unwrap();
    assert_eq!(two.refresh().unwrap(), Refreshed::Same);
    let is_there = |at: usize| two.are_whole(std::slice::from_ref(&works[at].1)).unwrap();
    assert_eq!([0, 1, 2].map(is_there), [true, false, true]);
}

#[test]
fn a_conversation_that_nobody_waits_for_ends() {
    let machines = Machines::new();
    let (store, main) = machines.begun("one");
    machines.hook("pre-receive", "echo > begun; while ! test -e go; do sleep 0.1; done");
    let commit = next(&store, &main, "b");
    let cut_off = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let bounded = store.until(std::sync::Arc::clone(&cut_off));
    let pushing = std::thread::spawn(move || bounded.move_integration(&commit, &main));
    test_support::wait_until("the push", || machines.remote.join("begun").exists());
    cut_off.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = pushing.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::RemoteUnreachable { .. }), "{error}");
    fs::write(machines.remote.join("go"), "").unwrap();
}

#[test]
fn the_remote_is_reached_in_the_way_that_the_repository_says() {
    let machines = Machines::new();
    let script = outside(&machines.place, "ssh.sh");
    fs::write(&script, "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let root = &machines.place.root;
    git(root, ["config", "core.sshCommand", &format!("'{}'", script.display())]);
    git(root, ["config", "ssh.variant", "simple"]);
    git(root, ["config", "url.ssh://host/.insteadOf", "team-host:/"]);
    git(root, ["remote", "set-url", "team", &format!("team-host:{}", machines.remote.display())]);
    let path = outside(&machines.place, "by-ssh/store.git");
    let (mut store, _) = Store::create(&machines.place.user, &path, BRANCH).unwrap();
    store.set_remote(&machines.place.user, "team").unwrap();
    let main = store.fetch_from_user(&machines.place.user, "main").unwrap();
    store.start_integration(&main).unwrap();
    assert_eq!(machines.head(), Some(main));
}

#[test]
fn what_may_hold_a_password_is_for_its_owner_alone_and_no_repository_is_its_own_remote() {
    let machines = Machines::new();
    let mut store = machines.machine("one");
    let mode = |store: &Store| fs::metadata(store.path().join("config")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store), 0o600);
    let user = &machines.place.user;
    for own in [machines.place.root.to_str().unwrap(), "./.git", &format!("file://{}", machines.place.root.display())] {
        let refused = store.set_remote(user, own).unwrap_err();
        assert!(matches!(refused, Error::RemoteIsOwn { .. }), "{own}: {refused}");
    }
    store.set_remote(user, &format!("file://{}", machines.remote.display())).unwrap();
    assert_eq!((store.refresh().unwrap(), mode(&store)), (Refreshed::Same, 0o600));
}
