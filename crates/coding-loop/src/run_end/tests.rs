use std::time::Duration;

use super::*;
use crate::agents::read;

fn outcome(end: Ended) -> Outcome {
    Outcome {
        end,
        duration: Duration::from_secs(1),
        output_sha256: String::new(),
        output_bytes: 0,
        tail: String::new(),
        log_cut: false,
        log_error: None,
        survivors: 0,
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_795_694_400_000)
}

/// `claimed`, the kind of a hold, or the category of a failure.
fn judged(end: Ended, text: &str, changed: bool) -> String {
    match judge(&outcome(end), &read(AgentKind::Generic, text), changed, 60, now()) {
        None => "claimed".to_owned(),
        Some(End::Trouble(trouble)) => format!("{}{}", trouble.kind, if trouble.until.is_some() { " until" } else { "" }),
        Some(End::Failed(failed)) => failed.category.to_string(),
        Some(other) => format!("{other:?}"),
    }
}

#[test]
fn what_agents_print_when_they_cannot_work() {
    let cases = [
        // Claude Code.
        (1, "You have hit your limit · resets 9:20pm (UTC)", "limit until"),
        (1, "Claude AI usage limit reached|1795698000", "limit until"),
        (
            0,
            "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"result\":\"You've hit your limit · resets 3pm (UTC)\"}",
            "limit until",
        ),
        (
            1,
            "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"rejected\",\"resetsAt\":1795698000}}\n{\"type\":\"result\",\"is_error\":true,\"result\":\"limit reached\"}",
            "limit until",
        ),
        // A time that no limit has.
        (
            1,
            "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"rejected\",\"resetsAt\":99999999999999999}}\n{\"type\":\"result\",\"is_error\":true,\"result\":\"limit reached\"}",
            "limit",
        ),
        (
            1,
            "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"rejected\",\"resetsAt\":4102444800}}\n{\"type\":\"result\",\"is_error\":true,\"result\":\"x\"}",
            "limit",
        ),
        // What a program printed beside the stated result.
        (
            0,
            "usage limit reached in code src/a.rs:1\n{\"type\":\"result\",\"is_error\":false,\"result\":\"done\",\"terminal_reason\":\"completed\"}\nrate limit exceeded",
            "claimed",
        ),
        (
            1,
            "API Error: 529 {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
            "outage",
        ),
        (1, "API Error (Connection error.)", "outage"),
        (1, "Invalid API key · Please run /login", "human"),
        (1, "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons", "human"),
        (1, "error: unknown option '--full-auto'", "human"),
        (1, "{\"type\":\"result\",\"is_error\":true,\"result\":\"Prompt is too long\"}", "code"),
        // Codex.
        (
            2,
            "error: unexpected argument '--full-auto' found\n\nUsage: codex exec [OPTIONS]\n\nFor more information, try '--help'.",
            "human",
        ),
        (
            1,
            "{\"type\":\"turn.failed\",\"error\":{\"message\":\"exceeded retry limit, last status: 429 Too Many Requests\"}}",
            "limit",
        ),
        (1, "{\"type\":\"turn.failed\",\"error\":{\"message\":\"stream disconnected before completion\"}}", "outage"),
        (1, "{\"type\":\"error\",\"message\":\"unexpected status 401 Unauthorized: Missing bearer\"}", "human"),
        // Aider, which exits with 0.
        (
            0,
            "litellm.RateLimitError: AnthropicException - rate_limit_error\nThe API provider has rate limited you. Try again later or check your quotas.",
            "limit",
        ),
        (
            0,
            "litellm.AuthenticationError: AnthropicException - invalid x-api-key\nThe API provider is not able to authenticate you. Check your API key.",
            "human",
        ),
        // Gemini.
        (
            1,
            "{\"type\":\"result\",\"status\":\"error\",\"error\":{\"type\":\"Error\",\"message\":\"[API Error: RESOURCE_EXHAUSTED]\"}}",
            "limit",
        ),
        // A shell.
        (127, "sh: 1: claude: not found", "human"),
        // Its own words.
        (3, "the specification contradicts docs/api.md", "spec"),
        (1, "compile error", "code"),
        (0, "{\"type\":\"result\",\"is_error\":false,\"result\":\"x\",\"terminal_reason\":\"aborted_tools\"}", "code"),
        (0, "done", "claimed"),
        (0, "", "claimed"),
    ];
    for (code, text, expected) in cases {
        assert_eq!(judged(Ended::Exited(code), text, false), expected, "{text}");
    }
}

/// The exit status of a recorded run; none if it was killed.
fn recorded_exit(agent: &str, case: &str) -> Option<i32> {
    let index = include_str!("../../tests/streams/index.tsv");
    let line = index.lines().find(|line| line.starts_with(&format!("{agent}\t{case}\t"))).unwrap();
    line.split('\t').nth(2)?.parse().ok()
}

#[test]
fn what_the_real_programs_print_when_they_cannot_work() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams");
    let (mut judged_cases, mut wrong) = (0, Vec::new());
    for kind in AgentKind::KNOWN {
        let agent = kind.as_str();
        for file in std::fs::read_dir(folder.join(agent)).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(case) = name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".txt")) else { continue };
            if case.ends_with(".stderr") {
                continue;
            }
            let read_file = |name: String| std::fs::read_to_string(folder.join(agent).join(name)).unwrap_or_default();
            let text = read_file(format!("{case}.stderr.txt")) + &read_file(name.to_owned());
            let report = read(kind, &text);
            let Some(exit) = recorded_exit(agent, case) else {
                // It was still trying, in vain.
                assert_eq!(report.key_refused.is_some(), case == "error_401", "{agent} {case}");
                continue;
            };
            judged_cases += 1;
            let ended = if exit < 0 { Ended::Signaled(-exit) } else { Ended::Exited(exit) };
            let end = judge(&outcome(ended), &report, exit == 0 && case != "permission_denied", 60, now());
            let found = match &end {
                None => "claimed".to_owned(),
                Some(End::Trouble(trouble)) if trouble.until.is_some() => format!("{} until", trouble.kind),
                Some(End::Trouble(trouble)) => trouble.kind.to_string(),
                Some(End::Failed(failed)) => failed.category.to_string(),
                Some(other) => format!("{other:?}"),
            };
            let expected: &[&str] = match case {
                "edit" | "resume" | "error_429_short" | "error_529_short" | "hook_and_mcp" | "mcp" | "hooks_untrusted"
                | "partial_messages" | "analytics_log" | "no_stream" => &["claimed"],
                "context_too_long" | "resume_unknown" | "turns" => &["code"],
                "error_401" | "error_401_end" | "no_key" | "unknown_flag" => &["human"],
                "error_429_quota" => &["human", "limit"],
                "error_429_lasting" | "error_429_end" | "error_429_day" | "error_429_reset" | "error_429_plan" => {
                    &["limit", "limit until"]
                }
                "error_529_lasting" | "error_529_end" | "error_connection" => &["outage"],
                "budget" => &["resource"],
                "terminated" => &["transient"],
                // Codex says nothing of it but on standard error; the empty claim is asked about.
                "permission_denied" => &["claimed", "code"],
                other => panic!("unexpected case {other} of {agent}"),
            };
            if !expected.contains(&found.as_str()) {
                wrong.push(format!("{agent} {case}: {found}: {end:?}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(judged_cases > 60, "{judged_cases}");
}

#[test]
fn work_about_limits_and_errors_is_no_limit_and_no_error() {
    let claims = [
        "Added a rate limit of 10 requests a second; 429 is answered beyond it.",
        "The handler now answers 503 service unavailable while the database is down.",
        "{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"API Error: 529 overloaded\"}]}}\n{\"type\":\"result\",\"is_error\":false,\"result\":\"handled: API Error: 529\"}",
        "API Error: 529 Overloaded\nretried\nthen edited a\nedited b\ndone",
        "API error handling is done: 429 retries with back-off",
        "You asked for a rate limit that resets hourly: done",
        "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"allowed_warning\",\"resetsAt\":1795698000}}\n{\"type\":\"result\",\"is_error\":false,\"result\":\"ok\"}",
    ];
    for text in claims {
        assert_eq!(judged(Ended::Exited(0), text, true), "claimed", "{text}");
    }
    let failures = [
        "FAILED tests/test_limits.py::test_rate_limit - AssertionError",
        "error: src/limit.rs:12: expected 429, found 500",
        "1 test failed: the rate limit is not kept",
        "error: could not compile `quota` (lib) due to 1 previous error",
        "error: test rejects_unauthorized ... FAILED",
        "error: unknown option --foo in my new CLI parser",
        "500 tests ran, 3 failed",
        "Connection pool: 3 of 500 cases fail",
        "Error: Command failed: curl http://localhost:3000 (503)",
        "You have reached the end of the quota module: two checks are red",
        "error: expected 401 but got 200 in login",
    ];
    for text in failures {
        assert_eq!(judged(Ended::Exited(1), text, true), "code", "{text}");
    }
    let gave_up = "Error: the spec demands a rate limit of 429 and of 10";
    assert_eq!(judged(Ended::Exited(3), gave_up, false), "spec");
    // What only an agent's own error handling prints counts whatever was done before.
    for (text, expected) in [("HTTP 429", "limit"), ("ratelimit exceeded", "limit"), ("API Error: 529 Overloaded", "outage")] {
        assert_eq!(judged(Ended::Exited(1), text, true), expected, "{text}");
    }
}

#[test]
fn ends_without_words() {
    let missing = Ended::NotStarted { kind: NotStartedKind::Missing, message: "no such program".to_owned() };
    let folder = Ended::NotStarted { kind: NotStartedKind::Other, message: "no such folder".to_owned() };
    for (end, expected) in [
        (missing, "human"),
        (folder, "system"),
        (Ended::Signaled(9), "transient"),
        (Ended::Lost, "transient"),
        (Ended::TimedOut, "code"),
    ] {
        assert_eq!(judged(end, "", false), expected);
    }
}

#[test]
fn loops_with_one_agent_share_its_name() {
    let agent =
        |words: &[&str]| AgentConfig { command: words.iter().map(|word| (*word).to_owned()).collect(), ..Default::default() };
    let name = |words: &[&str]| agent_name(&agent(words));
    assert_eq!(name(&["claude", "-p"]), "claude");
    assert_eq!(name(&["/usr/bin/codex", "exec"]), "codex");
    assert_eq!(name(&["sh", "-c", "one"]), name(&["sh", "-c", "one"]));
    assert_ne!(name(&["sh", "-c", "one"]), name(&["sh", "-c", "two"]));
    assert!(name(&["sh", "a.sh"]).starts_with("sh-"));
    assert_eq!(name(&["env", "A=b", "claude", "-p"]), "claude");
    assert_eq!(agent_name(&AgentConfig { kind: Some(AgentKind::Claude), ..agent(&["./wrapper"]) }), "claude");
    // Another key is another account.
    let account = |name: &str| {
        let set = [(name.to_owned(), "x".to_owned())].into();
        agent_name(&AgentConfig { set, ..agent(&["claude"]) })
    };
    assert_ne!(account("CLAUDE_CONFIG_DIR"), "claude");
    assert_eq!(account("PORT"), "claude");
}
