//! What an agent should know before it begins: its test, the rules, the checks, and what others know, own and hold.

use std::fmt::Write as _;

use coord_db::{Config, Database, Error, KNOWLEDGE_CONTEXT_BYTES, LoopId, Test};
use views::when::clock;

use crate::exit::Outcome;
use crate::workplace::Workplace;

/// Maximum number of owned paths, leases and requests listed.
const MAX_LISTED: usize = 40;

/// The text of the tool `context`.
///
/// # Errors
/// Exit 4 for an unknown loop.
pub(super) fn overview(db: &Database, config: &Config, loop_id: &LoopId, place: &Workplace) -> Outcome<String> {
    let text = db.read(|tx| {
        let row = tx.loop_row(loop_id)?;
        let test = row.current_test_id.as_ref().map(|test| tx.test(test)).transpose()?;
        let mut text = format!("You are loop {loop_id} and work in {}.\n", place.root().display());
        match &test {
            Some(test) => about_test(&mut text, test),
            None => text.push_str("No test is in progress.\n"),
        }
        about_checks(&mut text, config, test.as_ref());
        about_rules(&mut text, config);
        let resources = tx.resources()?;
        let owned = resources.iter().filter(|resource| resource.owner_loop != *loop_id);
        listed(
            &mut text,
            "Owned by other loops; ask for permission with the tool request",
            owned.map(|resource| format!("{} ({})", resource.path, resource.owner_loop)),
        );
        let requests = tx.change_requests(None)?;
        let own = requests.iter().filter(|request| request.requestor_loop == *loop_id);
        listed(&mut text, "Your requests", own.map(|request| format!("{}: {}", request.resource_path, request.status)));
        let leases = tx.leases(true)?;
        let (mine, others): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| lease.locked_by == loop_id.as_str());
        let until = |at: Option<coord_db::Timestamp>| at.map(|at| format!(" until {}", clock(at))).unwrap_or_default();
        let why = |reason: &Option<String>| reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        listed(
            &mut text,
            "Leased by others now",
            others.iter().map(|lease| {
                format!("{} ({}{}){}", lease.file_path, lease.locked_by, until(lease.expires_at), why(&lease.lock_reason))
            }),
        );
        listed(&mut text, "Leased by you", mine.iter().map(|lease| lease.file_path.to_string()));
        if let Some(test) = &test {
            let known = tx.knowledge_context(test, KNOWLEDGE_CONTEXT_BYTES)?.text;
            if !known.is_empty() {
                let _ = write!(text, "\nKnowledge of other loops:\n{known}");
            }
        }
        Ok::<_, Error>(text)
    })?;
    Ok(text)
}

fn about_test(text: &mut String, test: &Test) {
    let _ = writeln!(text, "Your test is {}, attempt {} of {}.", test.id, test.attempts, test.max_attempts);
    let specification = test.spec_content.as_deref().or(test.notes.as_deref()).unwrap_or("(no specification was given)");
    let _ = writeln!(text, "\n{}", specification.trim_end());
    if !test.scope.0.is_empty() {
        let _ = writeln!(text, "\nIt is about these files: {}", test.scope.0.join(", "));
    }
    if let Some(error) = &test.last_error {
        let _ = writeln!(text, "\nError of the previous attempt:\n{}", error.trim_end());
    }
}

fn about_checks(text: &mut String, config: &Config, test: Option<&Test>) {
    let applies = |categories: &[String]| test.is_none_or(|test| categories.is_empty() || categories.contains(&test.category));
    let checks = config.gate.check.iter().filter(|check| applies(&check.categories));
    listed(
        text,
        "Your work is judged by these checks, run in a clean clone of your workspace on top of what has landed",
        checks.map(|check| format!("{}: {}", check.name, check.command.join(" "))),
    );
}

fn about_rules(text: &mut String, config: &Config) {
    text.push_str(
        "\nRules: only the files in your workspace count; do not push, and leave no work on another branch or stashed. Commits are \
         not needed. Lease files with lock before you change them.",
    );
    if !config.gate.protected.is_empty() {
        let _ = write!(text, " Changes to these files need an approval of the human: {}.", config.gate.protected.join(", "));
    }
    text.push('\n');
}

fn listed(text: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    for item in items.iter().take(MAX_LISTED) {
        let _ = writeln!(text, "- {item}");
    }
    if items.len() > MAX_LISTED {
        let _ = writeln!(text, "- and {} more", items.len() - MAX_LISTED);
    }
}
