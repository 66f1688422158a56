//! Too many files, files outside of the scope, the same error again and again.

use super::*;

fn with_files(count: usize) -> LoopView {
    let mut view = at_work("a");
    for file in 0..count {
        changed(&mut view, &format!("src/f{file}.rs"), ago(1));
    }
    view
}

const DIGRESSION: &str = "raise digression:a:t-a say digression_detected";

#[test]
fn too_many_files_are_told_once_until_the_work_is_undone() {
    nothing(&world(vec![with_files(20)]));
    let snapshot = world(vec![with_files(21)]);
    assert_eq!(told(&snapshot), [DIGRESSION]);
    let mut open = after(&snapshot);
    nothing(&open);
    open.loops[0] = with_files(22);
    assert_eq!(told(&open), ["amend digression:a:t-a"]);
    open = after(&open);
    assert!(open.alerts["digression:a:t-a"].message.contains("22 files"));
    open.loops[0] = with_files(19);
    nothing(&open);
    open.loops[0].tests[0].test.status = TestStatus::Pending;
    open.loops[0].current = None;
    nothing(&open);
    open.loops[0] = with_files(0);
    assert_eq!(told(&open), ["close digression:a:t-a"]);
}

#[test]
fn what_was_changed_before_the_attempt_is_no_digression_of_it() {
    for at in [ago(2), NOW.plus_seconds(60)] {
        let mut view = with_files(21);
        for row in &mut view.files.rows {
            row.last_changed_at = at;
        }
        nothing(&world(vec![view]));
    }
}

#[test]
fn many_files_without_a_scope_need_a_second_sign() {
    // One after the other, each in a minute of its own, spread over `folders`.
    let slowly = |count: usize, folders: usize| {
        let mut view = begun("a", 85);
        view.output = Some(AgentActivity { news_at: ago(1), ..heard(ago(1)) });
        for (file, minutes) in (0..count).zip((0..).step_by(2)) {
            changed(&mut view, &format!("src/{}/f{file}.rs", file % folders), ago(84 - minutes));
        }
        view
    };
    nothing(&world(vec![slowly(21, 10)]));
    assert_eq!(told(&world(vec![slowly(21, 11)])), [DIGRESSION]);
    nothing(&world(vec![slowly(40, 1)]));
    assert_eq!(told(&world(vec![slowly(41, 1)])), [DIGRESSION]);
    // Rewritten all at once, or all seen at once by who looks late: neither is a sweep.
    let mut formatted = slowly(30, 1);
    formatted.files.rows.iter_mut().for_each(|row| row.last_changed_at = ago(1));
    nothing(&world(vec![formatted]));
    let mut seen_late = slowly(30, 1);
    seen_late.files.rows.iter_mut().for_each(|row| row.first_seen_at = ago(1));
    nothing(&world(vec![seen_late]));
    let mut swept = slowly(30, 1);
    swept.files.rows.iter_mut().skip(9).for_each(|row| (row.first_seen_at, row.last_changed_at) = (ago(1), ago(2)));
    assert_eq!(told(&world(vec![swept.clone()])), [DIGRESSION]);
    swept.files.rows.pop();
    nothing(&world(vec![swept]));
}

#[test]
fn many_files_within_a_declared_scope_are_a_big_task_and_no_digression() {
    let mut view = with_files(60);
    view.tests[0].test.scope = serde_json::from_str(r#"["src/**"]"#).unwrap();
    nothing(&world(vec![view]));
}

#[test]
fn more_than_a_couple_of_files_outside_of_the_scope_are_a_digression() {
    for (scope, files, expected) in [
        (r#"["src/**"]"#, ["src/a.rs", "src/b/c.rs", "src/d.rs", "docs/x"], false),
        (r#"["src"]"#, ["src/a.rs", "src/b/c.rs", "README.md", "docs/x"], false),
        (r#"["src/"]"#, ["src/a.rs", "CHANGELOG", "README.md", "docs/x"], true),
        (r#"["./src/*.rs", "docs"]"#, ["src/a.rs", "a", "b", "docs/x"], false),
        (r#"["."]"#, ["src/a.rs", "a", "b", "docs/x"], false),
        (r#"["src/[z-a]"]"#, ["src/a.rs", "a", "b", "docs/x"], false),
        ("[]", ["src/a.rs", "a", "b", "docs/x"], false),
    ] {
        let mut view = at_work("a");
        view.tests[0].test.scope = serde_json::from_str(scope).unwrap();
        for file in files {
            changed(&mut view, file, ago(1));
        }
        let expected: &[&str] = if expected { &[DIGRESSION] } else { &[] };
        assert_eq!(told(&world(vec![view])), expected, "{scope}");
    }
}

#[test]
fn the_same_error_again_and_again_in_the_attempts_own_output_is_a_digression() {
    let mut view = at_work("a");
    let repeated = |times| Some(Repeated { error: "error: no such thing".to_owned(), times });
    view.output = Some(AgentActivity { repeated: repeated(4), ..heard(NOW) });
    nothing(&world(vec![view.clone()]));
    view.output = Some(AgentActivity { repeated: repeated(5), ..heard(NOW) });
    assert_eq!(told(&world(vec![view.clone()])), [DIGRESSION]);
    view.output = Some(AgentActivity { repeated: repeated(50), ..heard(ago(2)) });
    nothing(&world(vec![view]));
}

// ---- resources ----
