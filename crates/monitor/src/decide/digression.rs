//! Loops that digress from their test: too many files, files outside its scope, or the same error again and again.
//!
//! If the test declares a scope, only files outside it count. Without a scope a large number of files alone is no
//! digression: good work on a large test changes many files too. It is reported together with a second sign: all of
//! them changed within minutes, as by a formatter; many folders; or a multiple of the limit.

use std::collections::BTreeSet;

use coord_db::payload::DigressionDetected;
use coord_db::{AlertType, LoopStatus, Severity, Timestamp};
use globset::{Glob, GlobSet, GlobSetBuilder};
use serde_json::json;

use super::{AlertEvent, Finding, Work};
use crate::output::Repeated;
use crate::snapshot::{LoopView, TestView, prefix};

/// Number of files outside the scope that is accepted (a note in the changelog, a line in a module list).
pub const ACCEPTED_OUTSIDE: usize = 2;
/// More files than the limit, first changed within this time, were not written by hand.
const SWEEP_MINUTES: i64 = 10;
/// This multiple of the limit is a sign of its own.
const FAR_BEYOND: usize = 2;
/// Maximum number of files named in an alert.
const MAX_NAMED: usize = 20;

pub(super) fn judge(work: &mut Work<'_>, view: &LoopView) {
    let name = |seen: &TestView| format!("{}{}:{}", prefix::DIGRESSION, view.row.id, seen.test.id);
    for (place, seen) in view.tests.iter().enumerate() {
        let name = name(seen);
        let at_work = view.current == Some(place) && view.row.status == LoopStatus::Running;
        if !at_work {
            // Between two attempts nothing can be judged.
            work.keep(&name);
            continue;
        }
        let digression = digression(work, view, seen);
        match work.open(&name) {
            None if digression.texts.is_empty() => {}
            None => {
                let (finding, event) = finding(name, view, seen, digression);
                work.raise(finding, Some(event));
            }
            Some(alert) if !digression.texts.is_empty() => {
                let (finding, _) = finding(name, view, seen, digression);
                work.renew(alert, finding, &["reasons", "files_modified", "files_outside", "repeated_error", "times"]);
            }
            // The alert stays until the changes are undone or the test is done; otherwise one file more or less would
            // report it again.
            Some(_) if !digression.undone => work.keep(&name),
            Some(_) => {}
        }
    }
}

struct Digression<'a> {
    texts: Vec<String>,
    /// The same as keywords for the alert's context.
    words: Vec<&'static str>,
    files: Vec<&'a str>,
    outside: Vec<&'a str>,
    repeated: Option<Repeated>,
    /// No changed file is left.
    undone: bool,
}

fn digression<'a>(work: &Work<'_>, view: &'a LoopView, seen: &TestView) -> Digression<'a> {
    let settings = &work.config.monitor;
    // A late observation sees old changes all at once, and a formatter or a rebase rewrites files that were begun long
    // before: the earlier of the two times is when the work on a file began.
    let rows =
        view.files.rows.iter().map(|row| (&row.file_path, row.first_seen_at.min(row.last_changed_at), row.last_changed_at));
    let all: Vec<_> = rows.chain(view.files.leased.iter().map(|(path, at)| (path, *at, *at))).collect();
    let undone = all.is_empty();
    // Older changes belong to an earlier test, if the loop has not yet cleared them away, or to an earlier attempt.
    // Later times are possible after the clock was set back.
    let of_attempt = |at: Timestamp| seen.attempt_since.is_none_or(|since| (since..=work.at.now).contains(&at));
    let all = all.into_iter().filter(|(_, _, changed)| of_attempt(*changed));
    let (files, mut begun): (Vec<&str>, Vec<Timestamp>) = all.map(|(file, begun, _)| (file.as_str(), begun)).unzip();
    let mut digression =
        Digression { texts: Vec::new(), words: Vec::new(), outside: Vec::new(), files, repeated: None, undone };
    // Compiling the globs of a scope is slow, and without changed files it is not needed.
    let scope = if digression.files.is_empty() { None } else { scope(&seen.test.scope.0) };
    if let Some(scope) = &scope {
        digression.outside = digression.files.iter().copied().filter(|file| !scope.is_match(file)).collect();
    }
    // With a scope, any number of files in it is expected.
    let limit = usize::try_from(settings.digression_files).unwrap_or(usize::MAX);
    if scope.is_none()
        && let Some(sign) = sign(&digression.files, &mut begun, limit)
    {
        digression.words.push("files");
        digression.texts.push(format!("{} files changed, {sign}", digression.files.len()));
    }
    if digression.outside.len() > ACCEPTED_OUTSIDE {
        digression.words.push("scope");
        digression.texts.push(format!("{} files changed outside its scope", digression.outside.len()));
    }
    if let Some(output) = &view.output
        && seen.attempt_since.is_none_or(|since| output.written_at >= since)
        && let Some(repeated) = &output.repeated
        && settings.digression_same_error > 0
        && repeated.times >= settings.digression_same_error
    {
        digression.words.push("same_error");
        digression
            .texts
            .push(format!("the same error in {} consecutive checks of its output: {}", repeated.times, repeated.error));
        digression.repeated = Some(repeated.clone());
    }
    digression
}

/// The second sign that makes a large number of files a digression, as text.
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

/// Compiles the globs of a scope, if there are any. A glob also matches everything below the path that it names;
/// invalid globs are left out.
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

fn finding(name: String, view: &LoopView, seen: &TestView, digression: Digression<'_>) -> (Finding, AlertEvent) {
    let named = if digression.outside.is_empty() { &digression.files } else { &digression.outside };
    let named: Vec<String> = named.iter().take(MAX_NAMED).map(|file| (*file).to_owned()).collect();
    let test = &seen.test;
    let error = digression.repeated.as_ref().map(|repeated| repeated.error.clone());
    let finding = Finding {
        fingerprint: name,
        severity: Severity::Warning,
        alert_type: AlertType::Digression,
        message: format!("{} digresses from test {}: {}", view.row.id, test.id, digression.texts.join(", ")),
        context: json!({
            "loop_id": view.row.id, "test_id": test.id, "reasons": digression.words, "files_modified": digression.files.len(),
            "expected_scope": test.scope, "actual_scope": named, "files_outside": digression.outside.len(), "repeated_error": error,
            "times": digression.repeated.map(|repeated| repeated.times),
        }),
    };
    let payload = DigressionDetected {
        loop_id: view.row.id.clone(),
        test_id: test.id.clone(),
        files_modified: i64::try_from(digression.files.len()).unwrap_or(i64::MAX),
        expected_scope: test.scope.0.clone(),
        actual_scope: named,
        repeated_error: error,
    };
    (finding, AlertEvent::new(payload, seen.started.clone()).with("reasons", json!(digression.words)))
}
