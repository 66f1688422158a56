//! Loops that stray from their test: too many files, files outside of its scope, the same error again and again.
//!
//! With a declared scope only what is outside of it counts. Without one, many files alone are no fault: good work on a big
//! test goes on from file to file as well. They are told once a second sign joins them: all of them in one sweep, as when
//! a formatter goes over everything; all over the place; or so many that no one test accounts for them.

use std::collections::BTreeSet;

use coord_db::payload::DigressionDetected;
use coord_db::{AlertType, LoopStatus, Severity, Timestamp};
use globset::{Glob, GlobSet, GlobSetBuilder};
use serde_json::json;

use super::{Finding, Said, Work};
use crate::output::Repeated;
use crate::snapshot::{LoopView, TestView, prefix};

/// A couple of files outside of the scope (a note in the changelog, a line in a module list) is no digression.
pub const COUPLE: usize = 2;
/// Files that are begun within so many minutes were changed in one sweep: nobody writes so many by hand.
const SWEEP_MINUTES: i64 = 10;
/// So many times the limit is a sign of its own.
const FAR_BEYOND: usize = 2;
/// So many files are named.
const MOST_NAMED: usize = 20;

pub(super) fn judge(work: &mut Work<'_>, view: &LoopView) {
    let name = |seen: &TestView| format!("{}{}:{}", prefix::DIGRESSION, view.row.id, seen.test.id);
    for (place, seen) in view.tests.iter().enumerate() {
        let name = name(seen);
        let at_work = view.in_hand == Some(place) && view.row.status == LoopStatus::Running;
        if !at_work {
            // Between two attempts nothing can be told.
            work.keep(&name);
            continue;
        }
        let strays = strays(work, view, seen);
        match work.open(&name) {
            None if strays.texts.is_empty() => {}
            None => {
                let (finding, said) = finding(name, view, seen, strays);
                work.raise(finding, Some(said));
            }
            Some(alert) if !strays.texts.is_empty() => {
                let (finding, _) = finding(name, view, seen, strays);
                work.renew(alert, finding, &["reasons", "files_modified", "files_outside", "repeated_error", "times"]);
            }
            // It stays until the work was undone or the test is done, so that one file more or less says nothing twice.
            Some(_) if !strays.undone => work.keep(&name),
            Some(_) => {}
        }
    }
}

struct Strays<'a> {
    texts: Vec<String>,
    /// The same in short words, as the alert's context has them.
    words: Vec<&'static str>,
    files: Vec<&'a str>,
    outside: Vec<&'a str>,
    repeated: Option<Repeated>,
    /// No changed file is left.
    undone: bool,
}

fn strays<'a>(work: &Work<'_>, view: &'a LoopView, seen: &TestView) -> Strays<'a> {
    let settings = &work.config.monitor;
    // Who looks late sees old changes at once, and a formatter or a rebase rewrites what was begun long before: the earlier
    // of the two times is when a file was begun.
    let rows =
        view.files.rows.iter().map(|row| (&row.file_path, row.first_seen_at.min(row.last_changed_at), row.last_changed_at));
    let all: Vec<_> = rows.chain(view.files.leased.iter().map(|(path, at)| (path, *at, *at))).collect();
    let undone = all.is_empty();
    // What was there before is an earlier test's, seen before its loop has cleared it away, or an earlier attempt's. Where
    // the clock was set back it may lie ahead.
    let of_attempt = |at: Timestamp| seen.attempt_since.is_none_or(|since| (since..=work.at.now).contains(&at));
    let all = all.into_iter().filter(|(_, _, changed)| of_attempt(*changed));
    let (files, mut begun): (Vec<&str>, Vec<Timestamp>) = all.map(|(file, begun, _)| (file.as_str(), begun)).unzip();
    let mut strays = Strays { texts: Vec::new(), words: Vec::new(), outside: Vec::new(), files, repeated: None, undone };
    // What a scope means takes long to find out, and where nothing has changed nothing is outside.
    let scope = if strays.files.is_empty() { None } else { scope(&seen.test.scope.0) };
    if let Some(scope) = &scope {
        strays.outside = strays.files.iter().copied().filter(|file| !scope.is_match(file)).collect();
    }
    // However many files, what the scope means was asked for.
    let limit = usize::try_from(settings.digression_files).unwrap_or(usize::MAX);
    if scope.is_none()
        && let Some(sign) = sign(&strays.files, &mut begun, limit)
    {
        strays.words.push("files");
        strays.texts.push(format!("{} files changed, {sign}", strays.files.len()));
    }
    if strays.outside.len() > COUPLE {
        strays.words.push("scope");
        strays.texts.push(format!("{} files outside of its scope changed", strays.outside.len()));
    }
    if let Some(output) = &view.output
        && seen.attempt_since.is_none_or(|since| output.written_at >= since)
        && let Some(repeated) = &output.repeated
        && settings.digression_same_error > 0
        && repeated.times >= settings.digression_same_error
    {
        strays.words.push("same_error");
        strays.texts.push(format!("the same error {} rounds in a row: {}", repeated.times, repeated.error));
        strays.repeated = Some(repeated.clone());
    }
    strays
}

/// What makes more files than the limit a digression, in words.
fn sign(files: &[&str], begun: &mut [Timestamp], limit: usize) -> Option<String> {
    if files.len() <= limit {
        return None;
    }
    begun.sort_unstable();
    let one_sweep = begun.windows(limit + 1).any(|some| some[limit].seconds_since(some[0]) <= SWEEP_MINUTES * 60);
    let folders: BTreeSet<&str> = files.iter().map(|file| file.rsplit_once('/').map_or("", |(folder, _)| folder)).collect();
    if one_sweep {
        Some(format!("more than {limit} of them within {SWEEP_MINUTES} minutes"))
    } else if folders.len() > limit / 2 {
        Some(format!("in {} folders", folders.len()))
    } else {
        (files.len() > limit.saturating_mul(FAR_BEYOND)).then(|| format!("more than {FAR_BEYOND} times {limit}"))
    }
}

/// What the globs of a scope mean, if there are any. A glob also means everything below what it names; one that is none is
/// left out.
fn scope(globs: &[String]) -> Option<GlobSet> {
    let mut set = GlobSetBuilder::new();
    let mut any = false;
    for glob in globs {
        let bare = glob.trim_start_matches("./").trim_end_matches('/');
        if bare.is_empty() || bare == "." {
            return None;
        }
        for glob in [bare.to_owned(), format!("{bare}/**")] {
            if let Ok(glob) = Glob::new(&glob) {
                set.add(glob);
                any = true;
            }
        }
    }
    set.build().ok().filter(|_| any)
}

fn finding(name: String, view: &LoopView, seen: &TestView, strays: Strays<'_>) -> (Finding, Said) {
    let named = if strays.outside.is_empty() { &strays.files } else { &strays.outside };
    let named: Vec<String> = named.iter().take(MOST_NAMED).map(|file| (*file).to_owned()).collect();
    let test = &seen.test;
    let error = strays.repeated.as_ref().map(|repeated| repeated.error.clone());
    let finding = Finding {
        fingerprint: name,
        severity: Severity::Warning,
        alert_type: AlertType::Digression,
        message: format!("{} strays from test {}: {}", view.row.id, test.id, strays.texts.join(", ")),
        context: json!({
            "loop_id": view.row.id, "test_id": test.id, "reasons": strays.words, "files_modified": strays.files.len(),
            "expected_scope": test.scope, "actual_scope": named, "files_outside": strays.outside.len(), "repeated_error": error,
            "times": strays.repeated.map(|repeated| repeated.times),
        }),
    };
    let payload = DigressionDetected {
        loop_id: view.row.id.clone(),
        test_id: test.id.clone(),
        files_modified: i64::try_from(strays.files.len()).unwrap_or(i64::MAX),
        expected_scope: test.scope.0.clone(),
        actual_scope: named,
        repeated_error: error,
    };
    (finding, Said::new(payload, seen.started.clone()).with("reasons", json!(strays.words)))
}
