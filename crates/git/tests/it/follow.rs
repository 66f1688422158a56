//! What new commits of the user's branch are to integration: forwards, merges, work of ours that came back in another form,
//! rewritten history, conflicts; and how far the two are apart.

use crate::place::{BRANCH, Place, land, show};
use git::{CommitHash, Distance, FollowStep, Incoming, Store, distance, publish};
use test_support::git;

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

struct Two {
    place: Place,
    store: Store,
}

impl Two {
    fn new() -> Self {
        let place = Place::new(&[("shared", LINES), ("other", "one\n")]);
        let store = place.store();
        Self { place, store }
    }

    fn ours(&self) -> CommitHash {
        self.store.integration().unwrap().unwrap()
    }

    /// What the head of `main` is to integration.
    fn incoming(&self) -> Incoming {
        let theirs = self.store.fetch_from_user(&self.place.user, self.main().as_str()).unwrap();
        self.store.incoming(&self.ours(), &theirs, self.store.followed("main").unwrap().as_ref()).unwrap()
    }

    fn main(&self) -> CommitHash {
        self.place.user.commit("main").unwrap()
    }

    /// Brings `main` in, which must go without a conflict. Gives the step.
    fn bring_in(&self) -> Incoming {
        let incoming = self.incoming();
        let (ours, theirs) = (self.ours(), self.main());
        let next = match &incoming.step {
            FollowStep::Nothing => return incoming,
            FollowStep::FastForward => theirs.clone(),
            FollowStep::Merge(tree) => self.store.commit(tree, &[&ours, &theirs], "main", &[]).unwrap(),
            other => panic!("{other:?}"),
        };
        self.store.move_integration(&next, &ours).unwrap();
        self.store.note_followed("main", &theirs).unwrap();
        publish(&self.store, &self.place.user, BRANCH).unwrap();
        incoming
    }

    fn land(&self, files: &[(&str, &str)]) -> CommitHash {
        let commit = land(&self.store, files);
        publish(&self.store, &self.place.user, BRANCH).unwrap();
        commit
    }

    fn user(&self, args: &[&str]) -> String {
        git(&self.place.root, args)
    }

    fn file(&self, name: &str) -> Option<String> {
        show(&self.store, &self.ours(), name)
    }

    fn distance(&self) -> (usize, usize) {
        let Distance { behind, ahead } = distance(&self.store, &self.place.user, "main").unwrap().unwrap();
        (behind, ahead)
    }
}

#[test]
fn new_commits_are_merged_and_nothing_is_nothing() {
    let two = Two::new();
    let start = two.main();
    assert_eq!(two.incoming().step, FollowStep::Nothing);
    two.land(&[("ours", "1\n")]);
    assert_eq!((two.incoming().step, two.distance()), (FollowStep::Nothing, (0, 1)));
    two.place.commit(&[("theirs", "1\n")]);
    two.place.commit(&[("shared", &LINES.replace('1', "one"))]);
    let before = (two.place.fingerprint(), git(two.store.path(), ["for-each-ref"]));
    assert_eq!(two.distance(), (2, 1));
    assert_eq!((two.place.fingerprint(), git(two.store.path(), ["for-each-ref"])), before, "looking writes nothing");
    let ours = two.ours();
    let incoming = two.bring_in();
    // What was never on integration is no state to search for a fault in.
    let states = two.store.repository().hashes_between(&start, &two.ours(), &[]).unwrap();
    assert_eq!(states, [ours.clone(), two.ours()]);
    assert!(matches!(incoming, Incoming { commits: 2, is_rewritten: false, step: FollowStep::Merge(_), .. }), "{incoming:?}");
    assert_eq!(git(two.store.path(), ["log", "-1", "--format=%P", BRANCH]), format!("{ours} {}", two.main()));
    assert_eq!((two.file("ours").as_deref(), two.file("theirs").as_deref()), (Some("1\n"), Some("1\n")));
    assert_eq!((two.incoming().step, two.distance()), (FollowStep::Nothing, (0, 2)));
}

#[test]
fn a_merge_or_a_forward_of_ours_into_main_is_no_conflict_and_leaves_no_empty_commit() {
    let two = Two::new();
    two.land(&[("shared", &LINES.replace('5', "five"))]);
    two.user(&["merge", "--quiet", "--ff-only", BRANCH]);
    assert_eq!((two.incoming().step, two.distance()), (FollowStep::Nothing, (0, 0)));
    // The user goes on from there.
    let on_top = two.place.commit(&[("theirs", "1\n")]);
    assert_eq!(two.bring_in().step, FollowStep::FastForward);
    assert_eq!(two.ours(), on_top);
    // A merge commit that adds nothing.
    two.land(&[("shared", &LINES.replace('5', "FIVE"))]);
    two.user(&["merge", "--quiet", "--no-ff", "-m", "merge", BRANCH]);
    let ours = two.ours();
    assert_eq!((two.bring_in().step, two.distance()), (FollowStep::Nothing, (0, 0)));
    assert_eq!(two.ours(), ours);
    // What comes on top of it does, and the first parents stay the states that were judged.
    two.place.commit(&[("shared", &LINES.replace('5', "5th"))]);
    assert!(matches!(two.bring_in().step, FollowStep::Merge(_)));
    assert_eq!(two.store.repository().commit(&format!("{BRANCH}^1")).unwrap(), ours);
    assert_eq!(two.file("shared"), Some(LINES.replace('5', "5th")));
}

#[test]
fn work_that_was_squashed_into_main_is_known_again() {
    let two = Two::new();
    two.land(&[("shared", &LINES.replace('5', "five"))]);
    two.land(&[("shared", &LINES.replace('5', "fifth")), ("extra", "1\n")]);
    two.user(&["merge", "--quiet", "--squash", BRANCH]);
    two.user(&["commit", "--quiet", "-m", "squashed"]);
    // Both go on where a merge with the old base would be a conflict.
    two.land(&[("shared", &LINES.replace('5', "V"))]);
    assert!(matches!(two.incoming().step, FollowStep::Merge(_)));
    let ours_only = two.ours();
    two.bring_in();
    assert_eq!(two.file("shared"), Some(LINES.replace('5', "V")), "recorded, with nothing changed");
    assert!(two.store.repository().is_ancestor(&two.main(), &two.ours()).unwrap());
    assert_ne!(two.ours(), ours_only);
    // So that the user's next squash is none either.
    two.user(&["merge", "--quiet", "--squash", BRANCH]);
    two.user(&["commit", "--quiet", "-m", "squashed again"]);
    // What integration has reverted since stays reverted.
    two.land(&[("shared", LINES)]);
    two.place.commit(&[("theirs", "1\n")]);
    two.bring_in();
    assert_eq!((two.file("shared").as_deref(), two.file("theirs").as_deref()), (Some(LINES), Some("1\n")));
    // And what the user has reverted of it stays reverted.
    two.user(&["merge", "--quiet", "--squash", BRANCH]);
    two.user(&["commit", "--quiet", "--allow-empty", "-m", "third"]);
    two.bring_in();
    two.land(&[("late", "1\n")]);
    two.user(&["merge", "--quiet", "--squash", BRANCH]);
    two.user(&["commit", "--quiet", "-m", "fourth"]);
    two.user(&["revert", "--no-edit", "HEAD"]);
    two.bring_in();
    assert_eq!(two.file("late"), None);
}

#[test]
fn work_that_main_holds_beside_its_own_is_known_by_its_content() {
    for way in ["squash", "rebase"] {
        let two = Two::new();
        two.land(&[("shared", &LINES.replace('5', "five"))]);
        two.land(&[("shared", &LINES.replace('5', "fifth"))]);
        two.place.commit(&[("shared", &LINES.replace('1', "one"))]);
        if way == "squash" {
            two.user(&["merge", "--quiet", "--squash", BRANCH]);
            two.user(&["commit", "--quiet", "-m", "squashed"]);
        } else {
            two.user(&["cherry-pick", &format!("main..{BRANCH}")]);
        }
        two.land(&[("shared", &LINES.replace('5', "V"))]);
        let incoming = two.bring_in();
        assert!(matches!(incoming.step, FollowStep::Merge(_)), "{way}: {incoming:?}");
        assert_eq!(two.file("shared"), Some(LINES.replace('1', "one").replace('5', "V")), "{way}");
    }
    // One of two commits picked merges as it would for git.
    let two = Two::new();
    two.land(&[("a", "1\n")]);
    let second = two.land(&[("b", "1\n")]);
    two.place.commit(&[("theirs", "1\n")]);
    two.user(&["cherry-pick", second.as_str()]);
    two.bring_in();
    assert_eq!(["a", "b", "theirs"].map(|name| two.file(name).is_some()), [true; 3]);
}

#[test]
fn history_that_was_rewritten_is_compared_with_what_was_brought_in() {
    let two = Two::new();
    two.land(&[("ours", "1\n")]);
    two.place.commit(&[("shared", &LINES.replace('5', "five")), ("dropped", "1\n")]);
    two.bring_in();
    // Another message alone.
    two.user(&["commit", "--quiet", "--amend", "-m", "in other words"]);
    let incoming = two.bring_in();
    assert!(incoming.is_rewritten && matches!(incoming.step, FollowStep::Merge(_)), "{incoming:?}");
    // Other content, and a file less.
    two.user(&["rm", "--quiet", "dropped"]);
    std::fs::write(two.place.root.join("shared"), LINES.replace('5', "V")).unwrap();
    two.user(&["commit", "--quiet", "--all", "--amend", "-m", "again"]);
    assert!(two.bring_in().is_rewritten);
    assert_eq!((two.file("shared"), two.file("dropped")), (Some(LINES.replace('5', "V")), None));
    assert_eq!(two.file("ours").as_deref(), Some("1\n"));
    // A branch that was only set back brings nothing, and takes nothing away.
    let ours = two.ours();
    two.user(&["reset", "--quiet", "--hard", "HEAD~1"]);
    assert_eq!((two.bring_in().step, two.ours()), (FollowStep::Nothing, ours));
    // Rebased on integration, it goes on from there.
    two.place.commit(&[("rebased", "1\n")]);
    two.user(&["rebase", "--quiet", BRANCH]);
    assert_eq!(two.bring_in().step, FollowStep::FastForward);
}

#[test]
fn renames_merge_and_conflicts_are_named() {
    let two = Two::new();
    two.user(&["mv", "shared", "moved"]);
    two.place.commit(&[]);
    two.land(&[("shared", &LINES.replace('5', "five"))]);
    two.bring_in();
    assert_eq!((two.file("moved"), two.file("shared")), (Some(LINES.replace('5', "five")), None));
    two.land(&[("other", "ours\n"), ("fine", "ours\n")]);
    two.place.commit(&[("other", "theirs\n"), ("new", "theirs\n")]);
    let FollowStep::Conflict(files) = two.incoming().step else { panic!("no conflict") };
    assert_eq!(files, [std::path::PathBuf::from("other")]);
    // What a merge by hand has left out.
    let base = two.incoming().base.unwrap();
    let left_out = |files: &[(&str, &str)]| {
        let ours = two.ours();
        let commit = land(&two.store, files);
        two.store.move_integration(&ours, &commit).unwrap();
        two.store.left_out(&base, &two.main(), &commit).unwrap()
    };
    assert_eq!(left_out(&[("other", "both\n")]), [std::path::PathBuf::from("new")]);
    assert_eq!(left_out(&[("other", "both\n"), ("new", "theirs\n")]), Vec::<std::path::PathBuf>::new());
    // By hand, in the user's repository.
    std::fs::write(two.place.root.join("other"), "both\n").unwrap();
    two.user(&["merge", "--quiet", "-s", "ours", "--no-commit", BRANCH]);
    two.place.commit(&[("other", "both\n"), ("fine", "ours\n")]);
    two.bring_in();
    assert_eq!(two.file("other").as_deref(), Some("both\n"));
}

#[test]
fn histories_without_anything_in_common() {
    let two = Two::new();
    two.land(&[("ours", "1\n")]);
    two.user(&["checkout", "--quiet", "--orphan", "fresh"]);
    two.place.commit(&[("x", "1\n")]);
    two.user(&["branch", "--quiet", "--force", "main", "HEAD"]);
    let incoming = two.incoming();
    assert_eq!((incoming.step, incoming.base), (FollowStep::Unrelated, None));
    assert_eq!(distance(&two.store, &two.place.user, "no-such-branch").unwrap(), None);
    assert!(two.store.note_followed(BRANCH, &two.main()).is_err());
}
