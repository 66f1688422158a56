//! Loops of other machines, whose files and logs are not visible.

use super::*;

/// A loop on another machine that has been at work for these minutes, and whose run has reported something new then.
fn away(minutes: i64, reported_at: Option<Timestamp>) -> LoopView {
    let mut view = begun("a", minutes);
    view.elsewhere = true;
    view.files = Files::default();
    view.output = reported_at.map(|news_at| AgentActivity { written_at: news_at, news_at, repeated: None, store: None });
    view
}

#[test]
fn is_not_stuck_by_silence_and_not_while_its_run_reports_something_new() {
    nothing(&world(vec![away(90, Some(ago(29)))]));
    nothing(&world(vec![away(29, Some(ago(29)))]));
    let stuck = world(vec![away(90, Some(ago(30)))]);
    assert_eq!(told(&stuck), [STUCK]);
    let Some(Action::Raise(finding, _)) = plan(&stuck).pop() else { panic!() };
    assert!(finding.message.contains("the last 30 without progress"), "{}", finding.message);
    let signs: [fn(&mut LoopView); 2] =
        [|view| view.last_event = Some(("e".parse().unwrap(), ago(5))), |view| view.used_at = Some(ago(5))];
    for sign in signs {
        let mut view = away(90, Some(ago(30)));
        sign(&mut view);
        nothing(&world(vec![view]));
    }
}

#[test]
fn is_judged_by_its_failures_alone_if_its_run_reports_nothing() {
    let mut view = away(90, None);
    nothing(&world(vec![view.clone()]));
    view.tests[0].failures.count = 3;
    let failing = world(vec![view]);
    assert_eq!(told(&failing), [STUCK]);
    // What was found while its machine could see it stands until it is known to be over.
    let mut open = after(&world(vec![begun("a", 90)]));
    open.loops = vec![away(91, None)];
    nothing(&open);
    open.loops[0].output = away(91, Some(ago(1))).output;
    assert_eq!(told(&open), ["close stuck:a:t-a"]);
}

#[test]
fn is_judged_by_the_files_that_it_reports() {
    let mut view = away(20, Some(ago(1)));
    view.tests[0].test.scope = coord_db::StringList(vec!["src".to_owned()]);
    let file = |path: &str| WorktreeChange {
        loop_id: "a".parse().unwrap(),
        file_path: path.to_owned(),
        first_seen_at: ago(10),
        last_changed_at: ago(10),
        fingerprint: "base:x".to_owned(),
    };
    view.files = Files { rows: ["a", "b", "c"].map(file).into(), observed: true, fresh: true, ..Files::default() };
    assert_eq!(told(&world(vec![view.clone()])), ["raise digression:a:t-a say digression_detected"]);
    let mut other = at_work("b");
    other.files = Files { rows: vec![WorktreeChange { loop_id: "b".parse().unwrap(), ..file("c") }], ..view.files.clone() };
    view.files.rows = vec![file("c")];
    assert_eq!(told(&world(vec![view, other])), ["raise conflict:c:a:b say file_conflict"]);
}
