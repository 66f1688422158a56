//! Writes the prompts of the agent. All of their text is here.

use std::path::Path;

use coord_db::config::CheckConfig;
use coord_db::{KNOWLEDGE_CONTEXT_BYTES, Regression, Test, Timestamp};

use crate::context::{Attempt, Context};
use crate::{Error, Result};

/// Maximum number of owned resources, of files and of checks that are listed.
const MAX_LISTED: usize = 10;
/// Our tools that the text names, in this order.
const TOOLS: [&str; 6] = ["lock", "check", "learn", "ask", "request", "give_up"];
/// Maximum length of a listed line.
const MAX_CHARS: usize = 120;

/// The facts of a prompt.
#[derive(Debug, Default, Clone, Copy)]
struct Facts<'a> {
    test: &'a str,
    loop_id: &'a str,
    attempt: (i64, i64),
    specification: &'a str,
    scope: &'a [String],
    /// The error of the attempt before.
    failed: Option<&'a str>,
    /// What fails on the integration branch, of this test or by its work.
    regressed: &'a [String],
    /// Commits to compare, to see the work of an earlier attempt.
    saved: Option<(&'a str, &'a str)>,
    knowledge: &'a str,
    /// What other loops own, with the owner.
    owned: &'a [(String, String)],
    checks: &'a [CheckConfig],
    loopctl: Option<&'a Path>,
    /// The agent's names for our tools; none without them.
    tools: Option<&'a [String]>,
}

fn cut(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MAX_CHARS { text } else { text.chars().take(MAX_CHARS - 1).collect::<String>() + "…" }
}

/// A list of lines that begin with a dash.
fn listed(lines: impl ExactSizeIterator<Item = String>) -> String {
    let more = lines.len().saturating_sub(MAX_LISTED);
    let mut text: String = lines.take(MAX_LISTED).map(|line| format!("- {}\n", cut(&line))).collect();
    if more > 0 {
        text.push_str(&format!("- and {more} more\n"));
    }
    text
}

fn program(facts: &Facts<'_>) -> String {
    facts.loopctl.map_or_else(|| "loopctl".to_owned(), |path| path.display().to_string())
}

/// How the agent talks to the system.
fn ways(facts: &Facts<'_>) -> String {
    if let Some([lock, check, learn, ask, request, give_up]) = facts.tools {
        return format!(
            "Use these tools (search for them if they are not listed): {lock} before you change a file that others may change too (it \
             waits, and brings the file up to date), {check} to run the checks, {learn} for what the others should know, {ask} for a \
             decision of the human, {request} for leave to change what another loop owns, {give_up} if the task cannot be done as it \
             is specified. "
        );
    }
    let (loopctl, own) = (program(facts), facts.loop_id);
    format!(
        "Before you change a file that others may change too: {loopctl} lock PATH --loop {own} --wait 60 (it also brings the file up \
         to date). {loopctl} knowledge add --help says how to tell the others what you learned, {loopctl} ask --help how to ask the \
         human. "
    )
}

fn rules(facts: &Facts<'_>) -> String {
    let checks = facts.checks.iter().map(|check| format!("{}: {}", check.name, check.command.join(" ")));
    let judged = match facts.checks.len() {
        0 => "No check is configured yet, so nothing can be verified.\n".to_owned(),
        _ => format!("Your claim is verified by these commands:\n{}", listed(checks)),
    };
    let give_up = match facts.tools {
        Some([.., give_up]) => format!("call {give_up} with the reason, then stop"),
        _ => "say why in your last words and exit with 3".to_owned(),
    };
    format!(
        "\nOther agents work on the same repository in clones of their own. {}Only the files in this folder count when you are done: do \
         not push, and leave no work on another branch or stashed; committing is not needed. Do not leave processes behind.\n{judged}If \
         the task cannot be done as it is specified, {give_up}.\n",
        ways(facts)
    )
}

fn text(facts: &Facts<'_>) -> String {
    let Facts { test, attempt: (attempt, most), specification, .. } = facts;
    let mut text =
        format!("Your task is test {test} (attempt {attempt} of {most}), in this clone of the repository.\n\n{specification}");
    if !facts.scope.is_empty() {
        text.push_str(&format!(
            "\nIt is about these files; work outside of them is reported to the human:\n{}",
            listed(facts.scope.iter().cloned())
        ));
    }
    if let Some(error) = facts.failed {
        text.push_str(&format!("\nError of the previous attempt:\n{error}\n"));
    }
    if !facts.regressed.is_empty() {
        text.push_str(&format!("\nRegressions to mend, in what has landed:\n{}", listed(facts.regressed.iter().cloned())));
    }
    if let Some((base, commit)) = facts.saved {
        text.push_str(&format!(
            "\nThe work of an earlier attempt is saved as a commit in this clone: git diff {base} {commit} shows it.\n"
        ));
    }
    if !facts.knowledge.is_empty() {
        text.push_str(&format!("\nKnowledge from other loops:\n{}", facts.knowledge));
    }
    if !facts.owned.is_empty() {
        let ask = match facts.tools {
            Some([.., request, _]) => request.clone(),
            _ => format!("{} request create PATH --loop {}", program(facts), facts.loop_id),
        };
        text.push_str(&format!(
            "\nOwned by other loops; a change lands only with permission ({ask}):\n{}",
            listed(facts.owned.iter().map(|(path, owner)| format!("{path} ({owner})")))
        ));
    }
    text + &rules(facts)
}

/// The prompt of a session that goes on after an interruption.
fn text_again(facts: &Facts<'_>, landed: &[String]) -> String {
    let mut text = format!(
        "Go on with test {}. Your run was interrupted{}; the files are as you left them",
        facts.test,
        facts.failed.map(|why| format!(" ({})", cut(why))).unwrap_or_default()
    );
    match landed {
        [] => text.push_str(".\n"),
        files => text.push_str(&format!(
            ", on top of what others have landed meanwhile. They changed these files, so read them again:\n{}",
            listed(files.iter().cloned())
        )),
    }
    text + &rules(facts)
}

/// The prompt of a session whose work is not good enough.
fn text_mend(facts: &Facts<'_>, error: &str) -> String {
    format!(
        "Your work on test {} was verified and is not accepted:\n\n{error}\n\nMend it in this folder. It is verified again when you are \
         done.\n{}",
        facts.test,
        rules(facts)
    )
}

/// The specification as a file's text.
fn specification(test: &Test) -> String {
    let text = test.spec_content.as_deref().or(test.notes.as_deref()).unwrap_or("(no specification was given)");
    format!("{text}\n")
}

/// Writes the specification and the knowledge of other loops to files beside the logs, and returns the prompt.
pub(crate) fn write(
    context: &Context<'_>,
    attempt: &Attempt,
    loopctl: Option<&Path>,
    tool: &dyn Fn(&str) -> Option<String>,
) -> Result<String> {
    let tools: Option<Vec<String>> = TOOLS.iter().map(|name| tool(name)).collect();
    let test = &attempt.test;
    let known = context.db.read(|tx| tx.knowledge_context(test, KNOWLEDGE_CONTEXT_BYTES))?.text;
    let specification = specification(test);
    std::fs::create_dir_all(context.logs()).map_err(|error| Error::io("cannot create the folder for logs", error))?;
    for (file, text) in [(context.spec_file(test), &specification), (context.knowledge_file(test), &known)] {
        std::fs::write(&file, text).map_err(|error| Error::io(format!("cannot write {}", file.display()), error))?;
    }
    let resources = context.db.read(|tx| tx.resources())?;
    let others = resources.into_iter().filter(|resource| resource.owner_loop != context.loop_id);
    let owned: Vec<_> = others.map(|resource| (resource.path.to_string(), resource.owner_loop.to_string())).collect();
    let saved = context.saved_work(test, Timestamp::from_millis(0))?;
    let failed = attempt.mend.as_deref().or(test.last_error.as_deref());
    let regressed = regressed(context, test, failed)?;
    let facts = Facts {
        test: test.id.as_str(),
        loop_id: context.loop_id.as_str(),
        attempt: (test.attempts, test.max_attempts),
        specification: &specification,
        scope: &test.scope.0,
        failed,
        regressed: &regressed,
        saved: saved.as_ref().map(|commit| (attempt.base.short(), commit.short())),
        knowledge: &known,
        owned: &owned,
        checks: &context.config.gate.check,
        loopctl,
        tools: tools.as_deref(),
    };
    Ok(match (&attempt.session, &attempt.mend) {
        (None, _) => text(&facts),
        (Some(_), Some(error)) => text_mend(&facts, error),
        (Some(session), None) => text_again(&facts, &session.landed),
    })
}

/// Why a test that had passed is done again, unless the error says so: an interruption since then has another reason.
fn regressed(context: &Context<'_>, test: &Test, failed: Option<&str>) -> Result<Vec<String>> {
    if failed.is_some_and(|why| why.starts_with("regression:")) {
        return Ok(Vec::new());
    }
    let sentence = |row: Regression| {
        let since = row.first_bad_commit.map(|commit| format!(" since commit {commit}")).unwrap_or_default();
        format!("test {} fails {}{since}: {}", row.test_id, row.check_name, row.output_tail)
    };
    Ok(context.regressions_of(&test.id)?.into_iter().map(sentence).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, command: &[&str]) -> CheckConfig {
        let words: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
        let text = format!("[[gate.check]]\nname = {name:?}\ncommand = [{}]\n", words.join(", "));
        coord_db::Config::parse(&text, Path::new("x")).unwrap().gate.check.remove(0)
    }

    #[test]
    fn the_whole_text() {
        let checks = [check("tests", &["cargo", "test"]), check("lint", &["cargo", "clippy"])];
        let owned = [("migrations/".to_owned(), "database".to_owned())];
        let facts = Facts {
            test: "login",
            loop_id: "backend",
            attempt: (2, 3),
            specification: "Make the login work.\n",
            scope: &["src/login.rs".to_owned()],
            failed: Some("check tests failed with exit code 1"),
            regressed: &[],
            saved: Some(("aaaa", "bbbb")),
            knowledge: "- run the server with PORT=0\n",
            owned: &owned,
            checks: &checks,
            loopctl: Some(Path::new("/opt/loopctl")),
            tools: None,
        };
        assert_eq!(
            text(&facts),
            "Your task is test login (attempt 2 of 3), in this clone of the repository.\n\n\
             Make the login work.\n\n\
             It is about these files; work outside of them is reported to the human:\n- src/login.rs\n\n\
             Error of the previous attempt:\ncheck tests failed with exit code 1\n\n\
             The work of an earlier attempt is saved as a commit in this clone: git diff aaaa bbbb shows it.\n\n\
             Knowledge from other loops:\n- run the server with PORT=0\n\n\
             Owned by other loops; a change lands only with permission (/opt/loopctl request create PATH --loop backend):\n\
             - migrations/ (database)\n\n\
             Other agents work on the same repository in clones of their own. Before you change a file that others may change too: \
             /opt/loopctl lock PATH --loop backend --wait 60 (it also brings the file up to date). /opt/loopctl knowledge add --help says \
             how to tell the others what you learned, /opt/loopctl ask --help how to ask the human. Only the files in this folder count \
             when you are done: do not push, and leave no work on another branch or stashed; committing is not needed. Do not leave \
             processes behind.\n\
             Your claim is verified by these commands:\n- tests: cargo test\n- lint: cargo clippy\n\
             If the task cannot be done as it is specified, say why in your last words and exit with 3.\n"
        );
        let tools = TOOLS.map(|tool| format!("mcp__coding-loops__{tool}"));
        let with_tools = text(&Facts { tools: Some(&tools), ..facts });
        for part in ["mcp__coding-loops__lock before", "call mcp__coding-loops__give_up", "(mcp__coding-loops__request)"] {
            assert!(with_tools.contains(part), "{with_tools}");
        }
        assert!(!with_tools.contains("loopctl"));
    }

    #[test]
    fn a_session_hears_what_happened() {
        let facts = Facts { test: "login", loop_id: "backend", failed: Some("paused\nby the human"), ..Facts::default() };
        let again = text_again(&facts, &["src/a.rs".to_owned()]);
        assert!(again.starts_with(
            "Go on with test login. Your run was interrupted (paused by the human); the files are as you left them, on top of what \
             others have landed meanwhile. They changed these files, so read them again:\n- src/a.rs\n\nOther agents"
        ));
        let mend = text_mend(&facts, "check tests failed: 3 != 4");
        assert!(
            mend.starts_with("Your work on test login was verified and is not accepted:\n\ncheck tests failed: 3 != 4\n\nMend")
        );
    }

    #[test]
    fn it_is_short_beside_specification_and_knowledge() {
        let long = "long ".repeat(100);
        let checks = vec![check("tests", &[long.as_str(); 20]); 30];
        let owned = vec![(long.clone(), "database".to_owned()); 500];
        let scope = vec![long.clone(); 500];
        let facts = Facts { scope: &scope, owned: &owned, checks: &checks, ..Facts::default() };
        let size = text(&facts).len();
        assert!(size < 6_000, "with every list full: {size}");
        let usual = Facts { checks: &checks[..1], loop_id: "backend", ..Facts::default() };
        let names = TOOLS.map(|tool| format!("mcp__coding-loops__{tool}"));
        for tools in [None, Some(names.as_slice())] {
            let size = text(&Facts { tools, loopctl: Some(Path::new("/home/somebody/.local/bin/loopctl")), ..usual }).len();
            assert!(size < 2_000, "{size}");
        }
    }
}
