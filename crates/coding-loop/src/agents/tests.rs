//! What the real programs print, and hostile output.

use std::collections::BTreeMap;

use coord_db::ModelUse;
use coord_db::config::AgentKind;

use super::*;

const EDIT: [(AgentKind, &str); 5] = [
    (AgentKind::Claude, include_str!("../../tests/streams/claude/edit.jsonl")),
    (AgentKind::Codex, include_str!("../../tests/streams/codex/edit.jsonl")),
    (AgentKind::Opencode, include_str!("../../tests/streams/opencode/edit.jsonl")),
    (AgentKind::Gemini, include_str!("../../tests/streams/gemini/edit.jsonl")),
    (AgentKind::Aider, include_str!("../../tests/streams/aider/edit.txt")),
];

fn sum(report: &Report, before: &BTreeMap<String, ModelUse>) -> ModelUse {
    report.stated(before).iter().fold(ModelUse::default(), |mut sum, used| {
        sum.add(used);
        sum
    })
}

fn kinds(used: &ModelUse) -> [i64; 4] {
    [used.input, used.output, used.cache_read, used.cache_write]
}

fn used(output: &str) -> [i64; 5] {
    let used = sum(&read(AgentKind::Generic, output), &BTreeMap::new());
    [used.tokens, used.input, used.output, used.cache_read, used.cache_write]
}

#[test]
fn the_real_programs_state_what_the_model_served() {
    // The index says what the model served. Aider rounds, and does not show the cache of this model.
    let served: BTreeMap<&str, [i64; 4]> = include_str!("../../tests/streams/index.tsv")
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let number = |at: usize| fields[at].parse::<i64>().ok();
            (fields[1] == "edit").then(|| Some((fields[0], [number(3)?, number(6)?, number(4)?, number(5)?])))?
        })
        .collect();
    for (kind, output) in &EDIT[..4] {
        for kind in [*kind, AgentKind::Generic] {
            let report = read(kind, output);
            let name = EDIT.iter().find(|edit| edit.1 == *output).unwrap().0.as_str();
            assert_eq!(kinds(&sum(&report, &BTreeMap::new())), served[name], "{name} as {kind:?}");
            assert_eq!((&report.error, &report.called_off), (&None, &None), "{name}");
            assert!(report.session.is_some(), "{name}");
            assert_eq!(report.reason(), "The sum is right now.", "{name} as {kind:?}");
        }
    }
}

#[test]
fn activity_is_described_in_a_few_words() {
    for (kind, output) in &EDIT {
        let mut stream = Stream::new(*kind);
        let mut doing = Vec::new();
        for line in output.split_inclusive('\n') {
            stream.feed(line.as_bytes());
            doing.extend(stream.report.progress.clone());
        }
        assert!(doing.iter().any(|doing| doing.starts_with("editing ") && doing.ends_with("calc.py")), "{kind:?}: {doing:?}");
    }
}

#[test]
fn a_continued_session_has_what_it_used_itself() {
    let resumed = [
        (AgentKind::Claude, EDIT[0].1, include_str!("../../tests/streams/claude/resume.jsonl"), [2463, 309, 18099, 6117]),
        (AgentKind::Codex, EDIT[1].1, include_str!("../../tests/streams/codex/resume.jsonl"), [2463, 309, 18099, 0]),
        (AgentKind::Gemini, EDIT[3].1, include_str!("../../tests/streams/gemini/resume.jsonl"), [2463, 309, 18099, 0]),
    ];
    for (kind, first, then, own) in resumed {
        let before = read(kind, first);
        let report = read(kind, then);
        assert_eq!(kinds(&sum(&report, &before.used)), own, "{kind:?}");
        assert_eq!(report.session, before.session, "{kind:?}");
    }
    // A version that states only sums of the whole session.
    let older = include_str!("../../tests/streams/claude/resume.jsonl").replace("model_usage_since_last_result", "other");
    let before = read(AgentKind::Claude, EDIT[0].1).used;
    let report = read(AgentKind::Claude, &older);
    let used = sum(&report, &before);
    assert_eq!(kinds(&used), [2463, 309, 18099, 6117]);
    assert_eq!(used.cost_microusd, Some(40_393));
}

#[test]
fn use_is_read_from_every_form() {
    let claude = "{\"type\":\"assistant\",\"message\":{}}\n{\"type\":\"result\",\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":100,\"cache_read_input_tokens\":9000,\"output_tokens\":5}}";
    let turns = "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":50,\"cached_input_tokens\":40,\"output_tokens\":3}}\n{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":57,\"cached_input_tokens\":40,\"output_tokens\":4}}";
    let cases = [
        ("done\nall is well", [0; 5]),
        (claude, [115, 10, 5, 9000, 100]),
        (turns, [21, 17, 4, 40, 0]),
        ("{\"usage\":{\"total_tokens\":12}}", [12, 0, 0, 0, 0]),
        ("{\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5}}", [5, 2, 3, 0, 0]),
        ("tokens used: 12,345", [12_345, 0, 0, 0, 0]),
        ("Tokens used\n1,234\n", [1_234, 0, 0, 0, 0]),
        ("Tokens: 2.1k sent, 350 received. Cost: $0.01\nok\nTokens: 1k sent, 50 received.", [3_500, 3_100, 400, 0, 0]),
        ("Tokens: 1k sent, 2k cache write, 9k cache hit, 50 received.", [3_050, 1_000, 50, 9_000, 2_000]),
        ("tokens used: many", [0; 5]),
        ("{\"usage\":\"much\"}", [0; 5]),
        ("{\"usage\":{\"input_tokens\":-5,\"output_tokens\":7}}", [7, 0, 7, 0, 0]),
        // No run uses this many tokens; counting them would exhaust every budget.
        ("{\"usage\":{\"input_tokens\":7,\"output_tokens\":9223372036854775807}}", [7, 7, 0, 0, 0]),
        ("{\"usage\":{\"input_tokens\":7,\"output_tokens\":1e300}}", [7, 7, 0, 0, 0]),
        ("tokens used: 99999999999999", [0; 5]),
    ];
    for (output, expected) in cases {
        assert_eq!(used(output), expected, "{output}");
    }
    let sent = "{\"event\":\"message_send\",\"properties\":{\"main_model\":\"m\",\"prompt_tokens\":10200,\"completion_tokens\":150,\"cost\":0.01575}}";
    let exact = read(AgentKind::Aider, &format!("{sent}\nTokens: 10k sent, 150 received.\n{sent}\n"));
    let used = sum(&exact, &BTreeMap::new());
    assert_eq!((kinds(&used), used.cost_microusd), ([20_400, 300, 0, 0], Some(31_500)));
    let report = read(AgentKind::Aider, EDIT[4].1);
    assert_eq!(report.stated(&BTreeMap::new())[0].cost_microusd, Some(6_700));
}

#[test]
fn the_last_words_of_aider_stand_before_what_it_applied() {
    let said = "The specification contradicts itself.\n\nTokens: 10k sent, 150 received.\nApplied edit to calc.py\n";
    assert_eq!(read(AgentKind::Aider, said).reason(), "The specification contradicts itself.");
}

#[test]
fn no_run_costs_what_nobody_can_pay() {
    let claude = |cost: &str| {
        let line = r#"{"type":"result","modelUsage":{"m":{"inputTokens":1,"costUSD":COST}}}"#.replace("COST", cost);
        read(AgentKind::Claude, &line).stated(&BTreeMap::new())[0].cost_microusd
    };
    let aider = |cost: &str| {
        let line = format!("Tokens: 5 sent, 6 received. Cost: ${cost} message, $1 session.");
        read(AgentKind::Aider, &line).stated(&BTreeMap::new())[0].cost_microusd
    };
    for (cost, expected) in [("0.5", Some(500_000)), ("1e300", None), ("-3", None)] {
        assert_eq!((claude(cost), aider(cost)), (expected, expected), "{cost}");
    }
    assert_eq!((aider("NaN"), aider("inf")), (None, None));
}

#[test]
fn a_killed_run_has_the_use_of_its_messages() {
    let cut: String = EDIT[0].1.lines().take_while(|line| !line.contains("\"type\":\"result\"")).collect::<Vec<_>>().join("\n");
    let report = read(AgentKind::Claude, &cut);
    let used = sum(&report, &BTreeMap::new());
    assert_eq!((used.input, used.cache_read, used.cache_write), (4842, 36066, 12078));
    assert_eq!(report.stated(&BTreeMap::new())[0].model.as_deref(), Some("claude-sonnet-4-5"));
}

#[test]
fn a_result_behind_a_long_log_is_found() {
    let mut stream = Stream::new(AgentKind::Claude);
    let noise = format!("{}\n", "x".repeat(64 << 10));
    for _ in 0..800 {
        stream.feed(noise.as_bytes());
    }
    // Longer than any line that is parsed, and cut in the middle of a letter.
    stream.feed(b"{\"type\":\"result\",\"result\":\"");
    let long = "é".repeat(1 << 20);
    for _ in 0..10 {
        stream.feed(&long.as_bytes()[1..]);
    }
    stream.feed(b"\"}\n");
    for line in EDIT[0].1.split_inclusive('\n') {
        for part in line.as_bytes().chunks(7) {
            stream.feed(part);
        }
    }
    stream.feed(b"after it\n");
    let report = stream.finish();
    assert_eq!(kinds(&sum(&report, &BTreeMap::new())), [4842, 606, 36066, 12078]);
    assert_eq!(report.lines.len(), 40);
    assert!(report.lines.iter().all(|line| line.len() <= 4_000));
}

#[test]
fn hostile_output_is_read_without_harm() {
    let result = EDIT[0].1.lines().last().unwrap();
    let wrong = [
        "{\"type\":\"result\",\"is_error\":\"yes\",\"result\":7,\"modelUsage\":[],\"usage\":3,\"permission_denials\":{}}",
        "{\"type\":\"result\",\"modelUsage\":{\"m\":7,\"n\":{\"inputTokens\":\"many\",\"costUSD\":-1}},\"session_id\":{}}",
        "{\"type\":\"assistant\",\"message\":{\"content\":\"text\",\"id\":[],\"usage\":[]}}",
        "{\"type\":\"step_finish\",\"part\":{\"tokens\":{\"input\":-1,\"cache\":4},\"cost\":\"much\"}}",
        "{\"type\":\"result\",\"stats\":{\"models\":{\"m\":null}},\"status\":5}",
        "{\"type\":\"thread.started\",\"thread_id\":\"--model\"}",
        "{\"type\":\"thread.started\",\"thread_id\":9}\n{\"type\":\"item.completed\",\"item\":[]}",
        "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":1e300}}",
        "{\"type\":{}}",
        "{",
        "\u{1b}[",
        "\u{1b}",
        "[1,2]",
        "null",
        "",
    ];
    let deep = format!("{{\"type\":{}", "[".repeat(100_000));
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for kind in AgentKind::KNOWN.into_iter().chain([AgentKind::Generic]) {
        for text in wrong.into_iter().chain([deep.as_str(), &closed, &result[..result.len() / 2]]) {
            let report = read(kind, text);
            let _ = (report.reason(), report.stated(&BTreeMap::new()));
            assert!(report.session.is_none_or(|id| !id.starts_with('-')), "{text}");
        }
    }
    // Two results: each says what was used since the one before.
    let report = read(AgentKind::Claude, &format!("{result}\n{result}\n"));
    assert_eq!(kinds(&sum(&report, &BTreeMap::new())), [9684, 1212, 72132, 24156]);
}

fn words(call: &Call) -> Vec<String> {
    call.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn call(text: &str) -> Call {
    Call::of(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
}

#[test]
fn a_session_is_continued_as_each_program_wants_it() {
    let cases = [
        (AgentKind::Claude, "claude -p --verbose", "claude -p --verbose --resume S"),
        (
            AgentKind::Codex,
            "codex exec --json --sandbox workspace-write -",
            "codex exec resume --json -c sandbox_mode=\"workspace-write\" S -",
        ),
        (AgentKind::Opencode, "opencode run --format json", "opencode run --session S --format json"),
        (AgentKind::Gemini, "gemini --yolo -o stream-json", "gemini --yolo -o stream-json --resume S"),
    ];
    for (kind, fresh, resumed) in cases {
        let mut resumes = call(fresh);
        assert!(adapter(kind).resume(&mut resumes, "S"));
        assert_eq!(words(&resumes).join(" "), resumed);
        assert!(!adapter(kind).resume(&mut resumes.clone(), "S"), "it continues a session already: {resumed}");
    }
    for kind in [AgentKind::Aider, AgentKind::Generic] {
        assert!(!adapter(kind).resume(&mut call("agent -p"), "S"));
    }
}

#[test]
fn tools_are_handed_over_without_a_file_in_the_repository() {
    let tools = Tools {
        mcp: Some(["/opt/my dir/loopctl", "mcp", "--loop", "one"].map(str::to_owned).to_vec()),
        hooks: Some(["/opt/my dir/loopctl", "hook", AGENT, "--loop", "one"].map(str::to_owned).to_vec()),
        folder: "/logs".into(),
        home: Some("/home/me".into()),
        title: "login".to_owned(),
    };
    let equipped = |kind: AgentKind, text: &str| {
        let mut call = call(text);
        adapter(kind).equip(&mut call, &tools);
        call
    };
    let claude = equipped(AgentKind::Claude, "claude -p");
    let argument = |name: &str| serde_json::from_str::<Value>(claude.value(&[name]).unwrap()).unwrap();
    assert_eq!(argument("--mcp-config")["mcpServers"]["coding-loops"]["args"][2], "one");
    let hook = &argument("--settings")["hooks"]["PreToolUse"][0]["hooks"][0]["command"];
    assert_eq!(hook, "'/opt/my dir/loopctl' hook claude --loop one");
    let codex = words(&equipped(AgentKind::Codex, "codex exec --json -")).join(" ");
    assert!(codex.starts_with("codex exec --dangerously-bypass-hook-trust -c hooks.PreToolUse="), "{codex}");
    assert!(codex.contains("-c mcp_servers.coding_loops.args=[\"mcp\",\"--loop\",\"one\"]"), "{codex}");
    assert!(codex.ends_with("--json -"), "{codex}");
    for part in codex.split(" -c ").skip(1) {
        let setting = part.split(" --json").next().unwrap();
        assert!(setting.parse::<toml::Table>().is_ok(), "{setting}");
    }
    let gemini = equipped(AgentKind::Gemini, "gemini");
    let settings: Value = serde_json::from_str(&gemini.files[0].1).unwrap();
    assert_eq!(settings["mcpServers"]["coding-loops"]["command"], "/opt/my dir/loopctl");
    assert!(settings["hooks"]["BeforeTool"][0]["hooks"][0]["command"].as_str().unwrap().contains("hook gemini"));
    assert_eq!(gemini.links, [("/logs/gemini/.gemini".into(), "/home/me/.gemini".into())]);
    let opencode = equipped(AgentKind::Opencode, "opencode run --format json");
    assert_eq!(words(&opencode).join(" "), "opencode run --title login --format json");
    let aider = words(&equipped(AgentKind::Aider, "aider --message"));
    assert_eq!(aider.join(" "), "aider --no-stream --no-analytics --analytics-log /dev/stdout --message");
    let aider = words(&equipped(AgentKind::Aider, "env X=1 nice -n 5 aider --message"));
    assert!(aider.join(" ").starts_with("env X=1 nice -n 5 aider --no-stream "), "{aider:?}");
    let wrapper = words(&equipped(AgentKind::Aider, "my-aider --message"));
    assert!(wrapper.join(" ").starts_with("my-aider --no-stream "), "{wrapper:?}");
    // Its options are the script's to give.
    assert_eq!(words(&equipped(AgentKind::Aider, "sh aider.sh")).join(" "), "sh aider.sh");
    // What the user has set stays.
    let own = equipped(AgentKind::Claude, "claude -p --settings mine.json --mcp-config=mine.json");
    assert_eq!(words(&own), ["claude", "-p", "--settings", "mine.json", "--mcp-config=mine.json"]);
}
