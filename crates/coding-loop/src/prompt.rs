//! Writes the agent's prompt.

use coord_db::{Checkpoint, CheckpointType, KNOWLEDGE_CONTEXT_BYTES, Test};

use crate::context::{Attempt, Context};
use crate::{Error, Result};

/// Maximum number of owned resources listed in the prompt.
const MAX_OWNED: usize = 20;

/// The resources that other loops own.
fn owned_by_others(context: &Context<'_>) -> Result<String> {
    let resources = context.db.read(|tx| tx.resources())?;
    let others: Vec<String> = resources
        .into_iter()
        .filter(|resource| resource.owner_loop != context.loop_id)
        .take(MAX_OWNED)
        .map(|resource| format!("- {} ({})\n", resource.path, resource.owner_loop))
        .collect();
    Ok(others.concat())
}

/// The specification as a file's text.
fn specification(test: &Test) -> String {
    let text = test.spec_content.as_deref().or(test.notes.as_deref()).unwrap_or("(no specification was given)");
    format!("{text}\n")
}

/// The commit in which the newest work of an earlier attempt at the same test is saved.
fn saved_before(context: &Context<'_>, attempt: &Attempt) -> Result<Option<String>> {
    let rows = context.db.read(|tx| tx.checkpoints(Some(&context.loop_id), false))?;
    let is_saved =
        |row: &Checkpoint| row.checkpoint_type == CheckpointType::Stash && row.test_id.as_ref() == Some(&attempt.test.id);
    let newest = rows.into_iter().filter(is_saved).max_by_key(|row| row.created_at);
    // It may have been lost together with a store.
    let Some(commit) = newest.and_then(|row| row.commit_hash) else { return Ok(None) };
    Ok(context.history().resolve(&commit)?.map(|commit| commit.short().to_owned()))
}

/// Writes the specification and the knowledge of other loops to files beside the logs, and returns the prompt.
pub(crate) fn write(context: &Context<'_>, attempt: &Attempt) -> Result<String> {
    let test = &attempt.test;
    let known = context.db.read(|tx| tx.knowledge_context(test, KNOWLEDGE_CONTEXT_BYTES))?.text;
    let specification = specification(test);
    std::fs::create_dir_all(context.logs()).map_err(|error| Error::io("cannot create the folder for logs", error))?;
    for (file, text) in [(context.spec_file(test), &specification), (context.knowledge_file(test), &known)] {
        std::fs::write(&file, text).map_err(|error| Error::io(format!("cannot write {}", file.display()), error))?;
    }
    let mut prompt = format!(
        "Your task is test {} (attempt {} of {}), in this clone of the repository.\n\n{specification}",
        test.id, test.attempts, test.max_attempts
    );
    if !test.scope.0.is_empty() {
        prompt.push_str(&format!("\nIt is about these files: {}\n", test.scope.0.join(", ")));
    }
    if let Some(error) = &test.last_error {
        prompt.push_str(&format!("\nError of the previous attempt:\n{error}\n"));
    }
    if let Some(commit) = saved_before(context, attempt)? {
        prompt.push_str(&format!(
            "\nThe work of an earlier attempt is saved as a commit in this clone: git diff {} {commit} shows it.\n",
            attempt.base.short()
        ));
    }
    if !known.is_empty() {
        prompt.push_str(&format!("\nKnowledge from other loops:\n{known}"));
    }
    let owned = owned_by_others(context)?;
    if !owned.is_empty() {
        prompt.push_str(&format!(
            "\nOwned by other loops; a change lands only with permission (loopctl request create PATH --loop {}):\n{owned}",
            context.loop_id
        ));
    }
    prompt.push_str(&format!(
        "\nOther agents work on the same repository in their own clones. Before you change a file that they may change too, lease it: \
         loopctl lock PATH --loop {} --wait 60 (this also updates it to the landed version). Only the files in this folder count when you are done: do not push, and do not leave work on another \
         branch or stashed; committing is not needed.\n\
         When it is done, exit with 0. Your claim is then verified by: {}. If it cannot be done as it is specified, say why in your last \
         words and exit with 3.\n",
        context.loop_id,
        match context.config.gate.check.iter().map(|check| check.name.as_str()).collect::<Vec<_>>() {
            names if names.is_empty() => "nothing yet, because no checks are configured".to_owned(),
            names => names.join(", "),
        }
    ));
    Ok(prompt)
}
