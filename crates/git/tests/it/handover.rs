//! Landed work as a branch for review: a straight line on the user's base, with the files that were verified.

use crate::place::{BRANCH, Place, show};
use git::{CommitHash, FollowStep, HandedOver, Line, Store, hand_over};
use test_support::{git, git_command, run, write};

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
const WORK: &str = "coding-loops-work";

/// Lands the work of a test.
fn land(store: &Store, test: &str, files: &[(&str, &str)]) -> CommitHash {
    let bare = crate::place::land(store, files);
    let tree = store.repository().tree_of(&bare).unwrap();
    let parent = store.repository().commit(&format!("{bare}^")).unwrap();
    let commit = store.commit(&tree, &[&parent], &format!("{test}: done"), &[("Test".to_owned(), test.to_owned())]).unwrap();
    store.move_integration(&commit, &bare).unwrap();
    commit
}

/// Brings `main` in by a merge; `resolved` is the content of a file that does not merge.
fn bring_in(place: &Place, store: &Store, resolved: Option<(&str, &str)>) {
    let (ours, theirs) = (store.integration().unwrap().unwrap(), main(place, store));
    let tree = match (store.incoming(&ours, &theirs, None).unwrap().step, resolved) {
        (FollowStep::Merge(tree), None) => tree,
        (_, Some((file, content))) => {
            let index = tempfile::tempdir().unwrap();
            let git = |args: &[&str]| {
                let at = ["--git-dir", store.path().to_str().unwrap(), "--work-tree", index.path().to_str().unwrap()];
                run(git_command(index.path()).env("GIT_INDEX_FILE", index.path().join("i")).args(at).args(args))
            };
            git(&["read-tree", theirs.as_str()]);
            write(index.path(), file, content);
            git(&["update-index", "--add", file]);
            CommitHash::new(git(&["write-tree"])).unwrap()
        }
        (step, None) => panic!("{step:?}"),
    };
    let merge = store.commit(&tree, &[&ours, &theirs], "main", &[]).unwrap();
    store.move_integration(&merge, &ours).unwrap();
}

fn main(place: &Place, store: &Store) -> CommitHash {
    store.fetch_from_user(&place.user, "refs/heads/main").unwrap()
}

fn line_up(place: &Place, store: &Store) -> Option<Line> {
    store.line_up(&main(place, store), &store.integration().unwrap().unwrap()).unwrap()
}

fn lined_up(place: &Place, store: &Store) -> Line {
    line_up(place, store).unwrap()
}

fn tests(line: &Line) -> Vec<&str> {
    line.works.iter().map(|(commit, _)| commit.trailer("Test").unwrap()).collect()
}

#[test]
fn work_on_the_base_is_handed_over_as_it_landed() {
    let place = Place::new(&[("shared", LINES)]);
    let store = place.store();
    let (first, second) = (land(&store, "t1", &[("a", "1\n")]), land(&store, "t2", &[("b", "1\n")]));
    let line = lined_up(&place, &store);
    assert_eq!((tests(&line), &line.head, line.has_merges), (vec!["t1", "t2"], &second, false));
    assert_eq!(line.works[0].1, first);
    let before = place.fingerprint();
    assert_eq!(hand_over(&store, &place.user, WORK, &line.head).unwrap(), HandedOver::At(second.clone()));
    assert_eq!(place.user.commit(WORK).unwrap(), second);
    git(&place.root, ["branch", "-D", WORK]);
    assert_eq!(place.fingerprint(), before, "nothing but the branch was made");
}

#[test]
fn merges_of_the_base_are_left_out_and_the_same_works_give_the_same_commits() {
    let place = Place::new(&[("shared", LINES)]);
    let store = place.store();
    land(&store, "t1", &[("shared", &LINES.replace('1', "one"))]);
    place.commit(&[("shared", &LINES.replace('9', "nine"))]);
    assert_eq!(line_up(&place, &store), None, "nobody has verified the work with the new commit");
    bring_in(&place, &store, None);
    land(&store, "t2", &[("b", "1\n")]);
    let line = lined_up(&place, &store);
    assert_eq!((tests(&line), line.has_merges), (vec!["t1", "t2"], false));
    assert_eq!(lined_up(&place, &store), line);
    let log =
        git(store.path(), ["log", "--format=%s|%an|%(trailers:key=Test,valueonly,separator=)", &format!("{}", line.head)]);
    assert_eq!(log.lines().count(), 4, "two works on the two commits of the user: {log}");
    assert!(log.starts_with("t2: done|Zoë|t2\nt1: done|Zoë|t1\nwork|"), "{log}");
    let of_integration = store.repository().tree_of(&store.integration().unwrap().unwrap()).unwrap();
    assert_eq!(store.repository().tree_of(&line.head).unwrap(), of_integration);
    assert_eq!(show(&store, &line.head, "shared").unwrap(), LINES.replace('1', "one").replace('9', "nine"));
}

#[test]
fn what_the_base_has_in_another_form_is_no_work_any_more() {
    let place = Place::new(&[("shared", LINES)]);
    let store = place.store();
    land(&store, "t1", &[("a", "1\n")]);
    place.commit(&[("a", "1\n"), ("other", "1\n")]);
    bring_in(&place, &store, None);
    land(&store, "t2", &[("b", "1\n")]);
    assert_eq!(tests(&lined_up(&place, &store)), ["t2"]);
}

#[test]
fn a_conflict_that_was_resolved_in_a_merge_keeps_its_merge() {
    let place = Place::new(&[("shared", LINES)]);
    let store = place.store();
    land(&store, "t1", &[("shared", &LINES.replace('5', "five"))]);
    place.commit(&[("shared", &LINES.replace('5', "FIVE"))]);
    bring_in(&place, &store, Some(("shared", &LINES.replace('5', "Five"))));
    let line = lined_up(&place, &store);
    assert!(line.has_merges);
    assert_eq!((tests(&line), Some(&line.head)), (vec!["t1"], store.integration().unwrap().as_ref()));
}

#[test]
fn a_branch_of_somebody_else_is_never_moved() {
    let place = Place::new(&[("shared", LINES)]);
    let store = place.store();
    let first = land(&store, "t1", &[("a", "1\n")]);
    git(&place.root, ["branch", WORK]);
    let theirs = place.user.commit(WORK).unwrap();
    assert_eq!(hand_over(&store, &place.user, WORK, &first).unwrap(), HandedOver::Taken(theirs));
    git(&place.root, ["branch", "-D", WORK]);
    hand_over(&store, &place.user, WORK, &first).unwrap();
    // Its own branch follows the work.
    let second = land(&store, "t2", &[("b", "1\n")]);
    assert_eq!(hand_over(&store, &place.user, WORK, &second).unwrap(), HandedOver::At(second.clone()));
    // Until somebody commits there.
    git(&place.root, ["checkout", "--quiet", WORK]);
    let on_top = place.commit(&[("c", "1\n")]);
    let third = land(&store, "t3", &[("d", "1\n")]);
    assert_eq!(hand_over(&store, &place.user, WORK, &third).unwrap(), HandedOver::Taken(on_top));
    assert!(place.user.commit(BRANCH).is_err(), "it publishes nothing");
}
