//! The input of a hook, by agent: when it runs, and which files an edit changes. Pure.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::cli::HookAgent;

/// What a hook is asked.
#[derive(Debug, PartialEq)]
pub(super) struct Hook {
    pub(super) when: When,
    /// The folder that relative paths are relative to.
    pub(super) folder: Option<PathBuf>,
    pub(super) session: String,
    /// The agent goes on because a hook has sent it back.
    pub(super) is_sent_back: bool,
}

/// When a hook runs.
#[derive(Debug, PartialEq)]
pub(super) enum When {
    /// Before these files are changed.
    BeforeEdit(Vec<PathBuf>),
    /// When the agent wants to end its work.
    AtEnd,
    /// When there is nothing to decide.
    Other,
}

#[derive(Deserialize)]
struct Given {
    hook_event_name: String,
    session_id: Option<String>,
    cwd: Option<PathBuf>,
    tool_name: Option<String>,
    #[serde(default)]
    tool_input: Value,
    #[serde(default)]
    stop_hook_active: bool,
}

/// Events at which there is nothing to decide.
const OTHER_EVENTS: [&str; 19] = [
    "PostToolUse",
    "PostToolUseFailure",
    "PermissionRequest",
    "Notification",
    "SessionStart",
    "SessionEnd",
    "UserPromptSubmit",
    "SubagentStart",
    "SubagentStop",
    "StopFailure",
    "PreCompact",
    "PostCompact",
    "AfterTool",
    "BeforeAgent",
    "BeforeModel",
    "AfterModel",
    "BeforeToolSelection",
    "PreCompress",
    "Setup",
];

/// The line of a patch before the first file.
const PATCH: &str = "*** Begin Patch";

/// Reads the input.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(agent: HookAgent, bytes: &[u8]) -> Result<Hook, String> {
    let given: Given = serde_json::from_slice(bytes)
        .map_err(|error| format!("its input on standard input is not the JSON of a hook: {error}"))?;
    let when = match given.hook_event_name.as_str() {
        "PreToolUse" | "BeforeTool" => {
            let tool = given.tool_name.as_deref().ok_or("its input does not name the tool")?;
            files(agent, tool, &given.tool_input)?.map_or(When::Other, When::BeforeEdit)
        }
        "Stop" | "AfterAgent" => When::AtEnd,
        other if OTHER_EVENTS.contains(&other) => When::Other,
        other => return Err(format!("the event {other:?} is unknown; configure the hook for edits and for the end only")),
    };
    let is_sent_back = when == When::AtEnd && given.stop_hook_active;
    Ok(Hook { when, folder: given.cwd, session: given.session_id.unwrap_or_default(), is_sent_back })
}

/// The files that a call of a tool changes; none for a tool that does not edit files.
fn files(agent: HookAgent, tool: &str, input: &Value) -> Result<Option<Vec<PathBuf>>, String> {
    let named = |field: &str| match input.get(field).and_then(Value::as_str) {
        Some(path) if !path.is_empty() => Ok(Some(vec![PathBuf::from(path)])),
        _ => Err(format!("the input of the tool {tool} has no {field}")),
    };
    match (agent, tool) {
        (HookAgent::Claude, "Edit" | "Write" | "MultiEdit") => named("file_path"),
        (HookAgent::Claude, "NotebookEdit") => named("notebook_path"),
        (HookAgent::Gemini, "write_file" | "replace" | "edit") => named("file_path"),
        (HookAgent::Codex, _) => {
            let command = input.get("command").map(text_of).unwrap_or_default();
            if tool != "apply_patch" && !command.contains(PATCH) {
                return Ok(None);
            }
            match files_of_patch(&command) {
                files if files.is_empty() => Err(format!("the patch of the tool {tool} names no file")),
                files => Ok(Some(files)),
            }
        }
        _ => Ok(None),
    }
}

/// A command as a text or as its arguments.
fn text_of(command: &Value) -> String {
    match command {
        Value::String(text) => text.clone(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn files_of_patch(patch: &str) -> Vec<PathBuf> {
    const HEADS: [&str; 4] = ["*** Add File: ", "*** Update File: ", "*** Delete File: ", "*** Move to: "];
    let name =
        |line: &str| HEADS.iter().find_map(|head| line.trim_start().strip_prefix(head)).map(|name| name.trim().to_owned());
    patch.lines().filter_map(name).filter(|name| !name.is_empty()).map(|name| Path::new(&name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn when(agent: HookAgent, tool: &str, input: Value) -> Result<When, String> {
        let event = if agent == HookAgent::Gemini { "BeforeTool" } else { "PreToolUse" };
        let given = json!({ "hook_event_name": event, "tool_name": tool, "tool_input": input, "cwd": "/w" });
        read(agent, given.to_string().as_bytes()).map(|hook| hook.when)
    }

    #[test]
    fn each_agent_names_the_files_of_an_edit_its_own_way() {
        use HookAgent::{Claude, Codex, Gemini};
        let edit = |names: &[&str]| Ok(When::BeforeEdit(names.iter().map(PathBuf::from).collect()));
        for tool in ["Edit", "Write", "MultiEdit"] {
            assert_eq!(when(Claude, tool, json!({ "file_path": "/w/a" })), edit(&["/w/a"]), "{tool}");
        }
        assert_eq!(when(Claude, "NotebookEdit", json!({ "notebook_path": "/w/n" })), edit(&["/w/n"]));
        assert_eq!(when(Claude, "Bash", json!({ "command": "rm a" })), Ok(When::Other));
        assert_eq!(when(Gemini, "replace", json!({ "file_path": "a" })), edit(&["a"]));
        assert_eq!(when(Gemini, "run_shell_command", json!({ "command": "x" })), Ok(When::Other));
        let patch = "*** Begin Patch\n*** Add File: a b.py\n+*** not\n*** Update File: c\n*** Move to: d\n@@\n-x\n*** Delete File: e\n*** End Patch\n";
        let all = edit(&["a b.py", "c", "d", "e"]);
        assert_eq!(when(Codex, "apply_patch", json!({ "command": patch })), all);
        let shell = json!({ "command": ["bash", "-lc", format!("apply_patch <<'EOF'\n{patch}EOF\n")] });
        assert_eq!(when(Codex, "Bash", shell), all);
        assert_eq!(when(Codex, "Bash", json!({ "command": "cat '*** Add File: x'" })), Ok(When::Other));
    }

    #[test]
    fn what_cannot_be_understood_is_never_a_yes() {
        use HookAgent::{Claude, Codex, Gemini};
        assert!(when(Claude, "Edit", json!({})).unwrap_err().contains("has no file_path"));
        assert!(when(Claude, "Write", json!({ "file_path": 7 })).unwrap_err().contains("has no file_path"));
        assert!(when(Gemini, "write_file", json!({ "file_path": "" })).unwrap_err().contains("has no file_path"));
        assert!(when(Codex, "apply_patch", json!({ "command": "*** Begin Patch" })).unwrap_err().contains("names no file"));
        assert!(when(Codex, "apply_patch", json!(null)).unwrap_err().contains("names no file"));
        for (bytes, says) in [
            (&b""[..], "is not the JSON"),
            (b"{", "is not the JSON"),
            (b"[]", "is not the JSON"),
            (b"{}", "is not the JSON"),
            (b"\xff", "is not the JSON"),
            (br#"{"hook_event_name": "PreToolUse"}"#, "does not name the tool"),
            (br#"{"hook_event_name": "BeforeEverything"}"#, "is unknown"),
        ] {
            assert!(read(Claude, bytes).unwrap_err().contains(says), "{bytes:?}");
        }
        let end = read(Claude, br#"{"hook_event_name": "Stop", "session_id": "s", "stop_hook_active": true}"#).unwrap();
        assert_eq!((end.when, end.session.as_str(), end.is_sent_back), (When::AtEnd, "s", true));
    }
}
