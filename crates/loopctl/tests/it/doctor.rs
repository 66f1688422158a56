//! What `loopctl doctor` finds before an attempt costs anything, and what of it keeps work from starting.

use std::os::unix::fs::PermissionsExt;

use git::{CommitHash, Layout, RefExpectation, Repository, Store};

use crate::common::{Place, Ran, ran};

/// What a key is called that no machine has set.
const KEY: &str = "CODEX_API_KEY";
const CHECK: &str = "[[gate.check]]\nname = 'tests'\ncommand = ['true']\n";

/// A program in a folder of its own, which `doctor` has on its PATH.
fn program(place: &Place, name: &str, script: &str) {
    let bin = place.outside().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn settings(place: &Place, text: &str) {
    std::fs::write(place.home().join("config.toml"), format!("{text}\n{CHECK}")).unwrap();
}

fn doctor(place: &Place, variables: &[(&str, &str)]) -> Ran {
    let path = format!("{}:{}", place.outside().join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = place.command(&["doctor"]);
    command.env("PATH", path).env("HOME", "/nonexistent");
    for name in
        ["CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", KEY]
    {
        command.env_remove(name);
    }
    ran(command.envs(variables.iter().copied()).output().unwrap())
}

/// The lines of a report that are of this grade and about this.
fn lines<'a>(report: &'a Ran, grade: &str, about: &str) -> Vec<&'a str> {
    let found = report.stdout.lines().filter(|line| line.starts_with(grade));
    found.filter_map(|line| line[8..].strip_prefix(about)).map(str::trim).collect()
}

/// The preset of an agent, as `init` has written it, in place of the lines of the same name.
fn put_preset_into_force(place: &Place, program: &str) {
    let file = place.home().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let begin = format!("# command = [\"{program}\"");
    let preset: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with(&begin))
        .map_while(|line| line.strip_prefix("# ").filter(|line| line.contains(" = [")))
        .collect();
    let name = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
    let text: String = text
        .split_once("\n[gate]\n")
        .map(|(agent, rest)| {
            let agent = agent.lines().map(|line| preset.iter().find(|new| name(new) == name(line)).copied().unwrap_or(line));
            format!("{}\n[gate]\n{rest}{CHECK}", agent.collect::<Vec<_>>().join("\n"))
        })
        .unwrap();
    std::fs::write(&file, text).unwrap();
}

#[test]
fn a_preset_gets_its_key_and_knows_its_flags() {
    let place = Place::with_loops();
    program(&place, "codex", "[ \"$*\" = 'exec --help' ] && echo 'Usage: codex exec\n  -s, --sandbox <MODE>\n  --json'");
    put_preset_into_force(&place, "codex");
    let report = doctor(&place, &[(KEY, "secret")]).ok();
    let codex = place.outside().join("bin/codex");
    let line = format!("codex, of [agent]: {}; adapter codex, with MCP tools and hooks", codex.display());
    assert_eq!(lines(&report, "ok", "agent"), [line], "{}", report.stdout);
    assert_eq!(lines(&report, "ok", "login"), [format!("codex of [agent] gets {KEY}")]);
    assert!(lines(&report, "warning", "agent").is_empty(), "{}", report.stdout);
    assert!(!report.stdout.contains("secret"));
}

#[test]
fn a_key_that_is_set_and_not_passed_on_is_named() {
    let place = Place::with_loops();
    program(&place, "codex", "echo --json");
    let warned = |config: &str, variables: &[(&str, &str)]| {
        settings(&place, config);
        lines(&doctor(&place, variables).ok(), "warning", "agent").join("\n")
    };
    let plain = "[agent]\ncommand = ['codex', 'exec', '--json']\n";
    let kept = format!("{KEY} is set here, but not passed on to codex of [agent]");
    assert_eq!(warned(plain, &[(KEY, "x")]), kept);
    assert_eq!(warned("[agent]\ncommand = ['sh', '-c', 'exec codex exec --json <in']\n", &[(KEY, "x")]), kept);
    assert_eq!(warned(plain, &[(KEY, "")]), "");
    assert_eq!(warned(plain, &[("ANTHROPIC_API_KEY", "x")]), "", "it is another agent's");
    assert_eq!(warned(&format!("{plain}environment = ['PATH', '{KEY}']\n"), &[(KEY, "x")]), "");
    // One loop passes it on, the other does not.
    let own = format!("[agent]\ncommand = ['true']\nenvironment = ['PATH', '{KEY}']\n[loop.b.agent]\ncommand = ['codex']\n");
    assert_eq!(warned(&own, &[(KEY, "x")]), "");
    let own = format!("{own}environment = ['PATH']\n");
    assert_eq!(warned(&own, &[(KEY, "x")]), format!("{KEY} is set here, but not passed on to codex of [loop.b.agent]"));
}

#[test]
fn variables_that_the_machine_needs_are_proposed_and_missed() {
    let place = Place::with_loops();
    let warned = || {
        let report = doctor(&place, &[("HTTPS_PROXY", "http://user:word@proxy:1")]).ok();
        assert!(!report.stdout.contains("word@"), "values are nobody's business: {}", report.stdout);
        lines(&report, "warning", "environment").concat()
    };
    settings(&place, "[agent]\nenvironment = ['PATH']\n");
    assert!(warned().contains("HTTPS_PROXY"), "{}", warned());
    std::fs::remove_file(place.database().with_file_name("config.toml")).unwrap();
    let init = place.command(&["init"]).env("HTTPS_PROXY", "http://user:word@proxy:1").output().unwrap();
    let said = String::from_utf8(init.stdout).unwrap();
    assert!(said.contains("passed on to agents and checks from your shell: HTTPS_PROXY") && !said.contains("word@"), "{said}");
    assert!(!warned().contains("HTTPS_PROXY"), "{}", warned());
}

#[test]
fn flags_that_the_installed_version_does_not_list_are_named() {
    let place = Place::with_loops();
    let warned = |help: &str, command: &str| {
        program(&place, "codex", help);
        settings(&place, &format!("[agent]\ncommand = {command}\n"));
        lines(&doctor(&place, &[]).ok(), "warning", "agent").join("\n")
    };
    let help = "echo '  --json  -s, --sandbox'";
    assert_eq!(warned(help, "['codex', 'exec', '--json', '--sandbox', 'read-only', '-']"), "");
    let unlisted = "codex exec --help does not list --full-auto, which [agent] uses";
    assert_eq!(warned(help, "['codex', 'exec', '--full-auto', '-']"), unlisted);
    assert_eq!(warned(help, "['sh', '-c', 'codex exec --full-auto \"$(cat)\"']"), unlisted);
    assert!(warned("exit 3", "['codex', 'exec', '--json']").starts_with("cannot check the flags of [agent]"));
    assert!(warned("echo hello", "['codex', 'exec', '--json']").ends_with("codex exec --help lists no flags"));
    // It sees the variables of the agent and no others.
    assert_eq!(warned("[ -z \"$LOGNAME$CODEX_HOME\" ] && echo --json", "['codex', 'exec', '--json']"), "");
}

#[test]
fn each_agent_is_named_with_its_version_its_place_and_what_it_is_handed() {
    let place = Place::with_loops();
    for (name, version) in [("claude", "9.8.7 (Claude Code)"), ("codex", "codex-cli 0.1.2"), ("aider", "aider 0.86.2")] {
        program(&place, name, &format!("[ \"$*\" = --version ] && echo '{version}' && exit; echo --json -p --message"));
    }
    program(&place, "opencode", "[ \"$1\" = --version ] && exit 1; echo --format --title");
    let bin = place.outside().join("bin");
    let said = |agent: &str, more: &str| {
        settings(&place, &format!("[agent]\ncommand = {agent}\n{more}"));
        let at = format!("{}/", bin.display());
        lines(&doctor(&place, &[]), "ok", "agent").concat().replace(&at, "BIN/")
    };
    let both = "with MCP tools and hooks";
    assert_eq!(said("['claude', '-p']", ""), format!("claude, of [agent]: version 9.8.7, BIN/claude; adapter claude, {both}"));
    assert_eq!(
        said("['codex', 'exec', '--json', '-']", "hooks = false\n"),
        "codex, of [agent]: version 0.1.2, BIN/codex; adapter codex, with MCP tools, without hooks"
    );
    assert_eq!(
        said("['opencode', 'run', '--format', 'json']", ""),
        "opencode, of [agent]: BIN/opencode; adapter opencode, with MCP tools, without hooks",
        "it does not say its version"
    );
    assert_eq!(
        said("['aider', '--message']", ""),
        "aider, of [agent]: version 0.86.2, BIN/aider; adapter aider, without MCP tools and hooks"
    );
    // A script is not called as the adapter calls its agent.
    assert_eq!(
        said("['sh', '-c', 'exec claude -p <in']", ""),
        "claude, of [agent]: version 9.8.7, BIN/claude; adapter generic, without MCP tools and hooks"
    );
    assert!(said("['true']", "").starts_with("true, of [agent]: /"), "{}", said("['true']", ""));
    // The version that the adapter was tested with is for programs.
    settings(&place, "[agent]\ncommand = ['claude', '-p']\n");
    let document =
        ran(place.command(&["--json", "doctor"]).env("PATH", format!("{}:/usr/bin:/bin", bin.display())).output().unwrap());
    let findings = document.ok().json();
    let facts = findings.as_array().unwrap().iter().find_map(|finding| finding.get("agent")).unwrap();
    assert_eq!((&facts["version"], &facts["adapter"], &facts["mcp"]), (&"9.8.7".into(), &"claude".into(), &true.into()));
    assert!(facts["tested_version"].as_str().unwrap().starts_with(char::is_numeric));
}

#[test]
fn an_agent_behind_other_programs_is_the_agent_that_runs() {
    let place = Place::with_loops();
    program(&place, "codex", "[ \"$X\" = 1 ] || exit 1; [ \"$1\" = --version ] && echo codex-cli 0.1.2 && exit; echo --json");
    let report = |command: &str| {
        settings(&place, &format!("[agent]\ncommand = {command}\n"));
        doctor(&place, &[(KEY, "x")])
    };
    for command in
        ["['env', 'X=1', 'codex', 'exec', '--full', '-']", "['timeout', '60', 'env', 'X=1', 'codex', 'exec', '--full', '-']"]
    {
        let said = report(command).ok();
        let line = lines(&said, "ok", "agent").concat();
        assert!(line.starts_with("codex, of [agent]: version 0.1.2, "), "{line}");
        assert!(line.ends_with("; adapter codex, with MCP tools and hooks"), "{line}");
        let warned = lines(&said, "warning", "agent").join("\n");
        assert!(warned.starts_with(&format!("{KEY} is set here, but not passed on to codex of [agent]")), "{warned}");
        assert!(warned.ends_with("codex exec --help does not list --full, which [agent] uses"), "{warned}");
    }
    let said = report("['timeout', '60', 'gemini', '--yolo']").fails(1);
    assert_eq!(lines(&said, "problem", "agent"), ["gemini is not on the PATH, which [agent] needs"]);
    let said = report("['timeout', '60', 'sleep', 'codex']").ok();
    assert!(
        lines(&said, "ok", "agent").concat().ends_with("; adapter generic, without MCP tools and hooks"),
        "{}",
        said.stdout
    );
}

#[test]
fn an_agent_without_a_key_and_without_a_login_is_a_warning() {
    let place = Place::with_loops();
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let said = |grade: &str, config: &str, variables: &[(&str, &str)]| {
        settings(&place, &format!("[agent]\n{config}"));
        let variables = [&[("HOME", home.path().to_str().unwrap())], variables].concat();
        lines(&doctor(&place, &variables).ok(), grade, "login").concat().replace(home.path().to_str().unwrap(), "HOME")
    };
    for (agent, arguments, login) in [
        ("claude", "", ".claude/.credentials.json"),
        ("codex", ", 'exec'", ".codex/auth.json"),
        ("opencode", ", 'run'", ".local/share/opencode/auth.json"),
        ("gemini", "", ".gemini/oauth_creds.json"),
        ("aider", "", ".aider/oauth-keys.env"),
    ] {
        program(&place, agent, "echo --help");
        let config = format!("command = ['{agent}'{arguments}]\n");
        let missing = said("warning", &config, &[]);
        assert!(missing.starts_with(&format!("{agent} of [agent] has no key: none of ")), "{agent}: {missing}");
        assert_eq!(missing.contains(&format!(" and HOME/{login} does not exist")), agent != "aider", "{missing}");
        let key = if agent == "codex" {
            KEY
        } else if agent == "gemini" {
            "GEMINI_API_KEY"
        } else {
            "ANTHROPIC_API_KEY"
        };
        assert!(missing.contains(key), "{missing}");
        // It is set here, given in the settings, or set in the command.
        let gets = format!("{agent} of [agent] gets {key}");
        let passed = format!("{config}environment = ['PATH', 'HOME', '{key}']\n");
        assert_eq!(said("ok", &passed, &[(key, "secret")]), gets);
        assert!(said("warning", &passed, &[(key, "")]).contains("has no key"));
        assert_eq!(said("ok", &format!("{config}set = {{ {key} = 'secret' }}\n"), &[]), gets);
        assert_eq!(said("ok", &format!("command = ['env', '{key}=secret', '{agent}'{arguments}]\n"), &[]), gets);
        assert_eq!(said("ok", &format!("command = ['sh', '-c', '{key}=secret {agent} --help']\n"), &[]), gets);
        // A file of a login.
        let file = home.path().join(login);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(said("ok", &config, &[]), format!("{agent} of [agent]: HOME/{login}"));
        std::fs::remove_file(&file).unwrap();
    }
    // Where a variable names the folder of the login.
    let folder = home.path().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("auth.json"), "{}").unwrap();
    let codex = format!("command = ['codex', 'exec']\nset = {{ CODEX_HOME = '{}' }}\n", folder.display());
    assert_eq!(said("ok", &codex, &[]), "codex of [agent]: HOME/elsewhere/auth.json");
    // Codex reads this one only for a provider of its config.
    let codex = "command = ['codex', 'exec']\nenvironment = ['PATH', 'HOME', 'OPENAI_API_KEY']\n";
    assert!(said("warning", codex, &[("OPENAI_API_KEY", "x")]).contains("none of CODEX_API_KEY reaches it"));
    std::fs::create_dir_all(home.path().join(".codex")).unwrap();
    std::fs::write(home.path().join(".codex/config.toml"), "model_provider = 'own'\n").unwrap();
    assert_eq!(said("ok", codex, &[("OPENAI_API_KEY", "x")]), "codex of [agent]: HOME/.codex/config.toml");
}

#[test]
fn a_home_of_codex_for_temporary_files_breaks_its_sandbox() {
    let place = Place::with_loops();
    program(&place, "codex", "echo --sandbox --json --dangerously-bypass-approvals-and-sandbox");
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let problems = |command: &str, set: &str, home: &str| {
        settings(&place, &format!("[agent]\ncommand = {command}\nset = {{ {set} }}\n"));
        let report = doctor(&place, &[("HOME", home), (KEY, "x")]);
        let problems = lines(&report, "problem", "agent").concat();
        assert_eq!(report.code, i32::from(!problems.is_empty()), "{}", report.stdout);
        problems
    };
    let (codex, good) = ("['codex', 'exec', '--json', '-']", home.path().to_str().unwrap());
    assert_eq!(problems(codex, "", good), "");
    let below = "HOME of codex in [agent] is /tmp/me: below /tmp its sandbox does not work, and all its commands fail";
    assert_eq!(problems(codex, "", "/tmp/me"), below);
    assert_eq!(problems(codex, &format!("CODEX_HOME = '{good}/.codex'"), "/tmp/me"), "");
    assert!(problems(codex, "CODEX_HOME = '/tmp/codex'", good).starts_with("CODEX_HOME of codex in [agent] is /tmp/codex: "));
    assert!(problems(codex, &format!("TMPDIR = '{good}'"), good).contains(&format!("below {good} its sandbox")));
    assert_eq!(problems("['codex', 'exec', '--dangerously-bypass-approvals-and-sandbox', '-']", "", "/tmp/me"), "");
}

#[test]
fn an_agent_that_refuses_root_cannot_work_for_it() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::with_loops();
    program(&place, "claude", "echo '-p --dangerously-skip-permissions'");
    let agent = "[agent]\ncommand = ['claude', '-p', '--dangerously-skip-permissions']\n";
    settings(&place, agent);
    let is_root = std::fs::metadata(place.home()).unwrap().uid() == 0;
    assert_eq!(doctor(&place, &[("IS_SANDBOX", "1")]).code, i32::from(is_root));
    settings(&place, &format!("{agent}environment = ['PATH', 'IS_SANDBOX']\n"));
    doctor(&place, &[("IS_SANDBOX", "1")]).ok();
    settings(&place, &format!("{agent}set = {{ IS_SANDBOX = '1' }}\n"));
    doctor(&place, &[]).ok();
    // Somebody else runs it.
    settings(&place, &agent.replace("['claude'", "['unshare', '--user', '--map-user=1000', 'claude'"));
    let report = doctor(&place, &[]);
    assert!(lines(&report, "problem", "agent").is_empty(), "{}", report.stdout);
}

#[test]
fn what_a_loops_own_agent_and_the_scripts_of_checks_lack_stops_the_work() {
    let place = Place::with_loops();
    settings(&place, "[agent]\ncommand = ['true']\n[loop.b.agent]\ncommand = ['no-such-agent']\n");
    let report = doctor(&place, &[]).fails(1).says("work cannot start: 1 problem;");
    assert_eq!(lines(&report, "problem", "agent"), ["no-such-agent is not on the PATH, which [loop.b.agent] needs"]);
    // What nobody uses is missed by nobody.
    settings(&place, "[agent]\ncommand = ['gone']\n[loop.a.agent]\ncommand = ['true']\n[loop.b.agent]\ncommand = ['true']\n");
    doctor(&place, &[]).ok();
    settings(&place, "[loop.c.agent]\ncommand = ['gone']\n");
    let report = doctor(&place, &[]).ok();
    assert_eq!(lines(&report, "warning", "agent"), ["[loop.c.agent] is for an unknown loop"]);

    let script = "[[gate.check]]\nname = 'script'\ncommand = ['sh', '-c', 'set -e; true && gone --all; lost || true']\n";
    settings(&place, &format!("[agent]\ncommand = ['sh', '-c', 'cat >prompt; vanished <prompt']\n{script}"));
    let report = doctor(&place, &[]).fails(1).says("work cannot start: 2 problems;");
    assert_eq!(lines(&report, "problem", "gate"), ["check script cannot pass: gone is not on the PATH"]);
    assert_eq!(lines(&report, "problem", "agent"), ["vanished is not on the PATH, which [agent] needs"]);
}

#[test]
fn without_a_check_an_agent_works_in_vain() {
    let place = Place::with_loops();
    let config = |text: &str| std::fs::write(place.home().join("config.toml"), text).unwrap();
    config("[loop.a.agent]\ncommand = ['true']\n");
    let report = doctor(&place, &[]).fails(1);
    assert_eq!(lines(&report, "problem", "gate"), ["no check is configured; work cannot be verified"]);
    config("");
    assert_eq!(lines(&doctor(&place, &[]).ok(), "warning", "gate").len(), 1);
}

#[test]
fn an_integration_branch_that_is_the_users_own_stops_the_work() {
    let place = Place::with_loops();
    place.git(&["checkout", "--quiet", "-b", "mine"]);
    let branch = |name: &str| {
        settings(&place, &format!("[repository]\nintegration_branch = '{name}'\n"));
        let report = doctor(&place, &[]);
        assert_eq!(report.code, i32::from(!lines(&report, "problem", "branch").is_empty()), "{}", report.stdout);
        ["ok", "warning", "problem"].map(|grade| lines(&report, grade, "branch").join("\n")).join("|")
    };
    let commit = |message: &str| {
        place.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
    };
    assert_eq!(branch("coding-loops/integration"), "coding-loops/integration; the first loop creates it||");
    assert!(branch("mine").starts_with("||the integration branch mine is your own, checked out at "));
    assert!(branch("main").ends_with("is your own main branch"));
    assert!(branch("a..b").starts_with("||\"a..b\" is not a valid"));
    assert!(branch("mine/agents").starts_with("||git does not allow the branch mine/agents beside your branch mine"));
    place.git(&["branch", "feature/x"]);
    assert!(branch("feature").starts_with("||git does not allow the branch feature beside your branch feature/x"));
    place.git(&["update-ref", "refs/remotes/origin/stable", "HEAD"]);
    place.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/stable"]);
    assert!(branch("stable").ends_with("is your own main branch"));
    // One that was there before, with nothing on it, may be meant.
    place.git(&["branch", "develop"]);
    let older = branch("develop");
    assert!(older.starts_with("|the branch develop existed before the loops"), "{older}");
    place.git(&["checkout", "--quiet", "develop"]);
    commit("my work");
    place.git(&["checkout", "--quiet", "mine"]);
    assert!(branch("develop").contains("||the integration branch develop is your own: its 1 commits are not of the loops"));
    // What has landed there is ours, and what a hand has put beside it is said.
    place.git(&["checkout", "--quiet", "-b", "coding-loops/integration"]);
    commit("T-1: done\n\nLoop: a\nTest: T-1\nProof: 1");
    place.git(&["branch", "coding-loops/a"]);
    place.git(&["checkout", "--quiet", "mine"]);
    assert_eq!(branch("coding-loops/integration"), "coding-loops/integration, 1 commit ahead of your branches||");
    place.git(&["checkout", "--quiet", "coding-loops/integration"]);
    commit("by hand");
    place.git(&["checkout", "--quiet", "mine"]);
    let warned = branch("coding-loops/integration");
    assert!(
        warned.starts_with("|1 commits on the integration branch coding-loops/integration are not of the loops"),
        "{warned}"
    );
    // Brought over to a branch of the user's it is theirs.
    place.git(&["merge", "--quiet", "--ff-only", "coding-loops/integration"]);
    assert_eq!(branch("coding-loops/integration"), "coding-loops/integration, 0 commits ahead of your branches||");
}

/// A store in which something has landed, published.
fn landed(place: &Place) -> (Store, CommitHash) {
    let (store, commit) = place.land(|store, head| store.repository().tree_of(head).unwrap());
    git::publish(&store, &Repository::open(&place.repository()).unwrap(), "coding-loops/integration").unwrap();
    (store, commit)
}

#[test]
fn a_published_branch_that_waits_or_was_moved_is_a_warning() {
    let place = Place::with_loops();
    let (store, commit) = landed(&place);
    settings(&place, "");
    let said = |grade: &str| lines(&doctor(&place, &[]).ok(), grade, "branch").join("\n");
    let status = || place.run(&["status"]).ok().stdout;
    let name = "coding-loops/integration";
    assert_eq!(said("ok"), format!("{name}, 1 commit ahead of your branches"));
    assert!(!status().contains("problems"));
    place.git(&["checkout", "--quiet", name]);
    assert!(said("warning").starts_with("the integration branch coding-loops/integration is checked out at "));
    let tree = store.repository().tree_of(&commit).unwrap();
    let next = store.commit(&tree, &[&commit], "t2: done", &[]).unwrap();
    store.move_integration(&next, &commit).unwrap();
    let waits = "landed work is not published on the branch coding-loops/integration: it is checked out at ";
    assert!(said("warning").starts_with(waits), "{}", said("warning"));
    assert!(status().contains(waits), "{}", status());
    place.git(&["checkout", "--quiet", "--detach"]);
    assert_eq!(said("ok"), format!("{name}; the next loop publishes {}", next.short()));
    assert!(!status().contains(name), "the next loop does it");
    place.git(&["branch", "--quiet", "--force", name, &format!("{commit}~1")]);
    let moved = "somebody else moved the branch coding-loops/integration to ";
    assert!(said("warning").starts_with(moved), "{}", said("warning"));
    assert!(status().contains(moved), "{}", status());
    assert!(place.json(&["status"])["published"]["problem"].as_str().unwrap().starts_with(moved));
    place.git(&["branch", "--quiet", "--delete", "--force", name]);
    assert!(said("warning").starts_with("somebody else deleted the branch coding-loops/integration"));
}

#[test]
fn a_store_that_lost_work_or_cannot_be_used_is_named() {
    let place = Place::with_loops();
    settings(&place, "");
    let report = doctor(&place, &[]).ok();
    assert_eq!(lines(&report, "ok", "workspaces").len(), 1);
    assert!(lines(&report, "ok", "store")[0].ends_with("with the commits of 0 passed tests"));
    let (layout, (store, commit)) = (Layout::new(place.workspaces()), landed(&place));
    let said = |grade: &str, about: &str| lines(&doctor(&place, &[]), grade, about).join("\n");
    assert!(said("ok", "store").ends_with("with the commits of 1 passed test"));
    let lost = CommitHash::new("1".repeat(40)).unwrap();
    place.sql(&format!("UPDATE tests SET commit_hash = '{lost}'"));
    assert_eq!(said("warning", "store"), "the commits of 1 passed test are missing, for example of t1");
    place.sql(&format!("UPDATE tests SET commit_hash = '{commit}'"));
    settings(&place, "[repository]\nintegration_branch = 'other'\n");
    assert!(said("warning", "store").starts_with("work has landed on refs/heads/coding-loops/integration, "));
    settings(&place, "");
    store.repository().delete_ref(store.integration_ref(), &RefExpectation::Any).unwrap();
    assert!(said("warning", "store").starts_with("it has no refs/heads/coding-loops/integration, but 1 passed test landed"));
    std::fs::write(layout.store_path().join("config"), "").unwrap();
    assert!(said("problem", "store").ends_with("is not a readable store"));
    // What doctor names, init repairs.
    place.run(&["init"]).ok();
    assert!(said("ok", "store").ends_with("with the commits of 1 passed test"));
    for entry in std::fs::read_dir(layout.store_path().join("objects")).unwrap().map(Result::unwrap) {
        if entry.file_name().len() == 2 {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    assert!(said("problem", "store").contains(" is damaged: "), "{}", said("problem", "store"));
    place.run(&["init"]).ok();
    assert!(said("ok", "store").ends_with("with the commits of 1 passed test"));
    std::fs::remove_dir_all(layout.store_path()).unwrap();
    assert!(said("warning", "store").contains("is missing, but 1 passed test landed"));
    std::fs::remove_dir_all(layout.root()).unwrap();
    std::fs::create_dir_all(layout.root().join("mine")).unwrap();
    assert!(said("problem", "workspaces").ends_with("contains files of other programs"));
    settings(&place, "[workspace]\nroot = 'ws'\n");
    assert!(said("problem", "workspaces").contains("is in the checkout"));
}

#[test]
fn a_name_that_is_set_before_anything_has_landed_counts() {
    let place = Place::new();
    settings(&place, "[repository]\nintegration_branch = 'agents/done'\n");
    place.run(&["init"]).ok();
    let store = Layout::new(place.workspaces()).open_store().unwrap();
    assert_eq!(store.integration_ref(), "refs/heads/agents/done");
}

#[test]
fn before_a_start_nothing_is_said_of_processes() {
    let place = Place::with_loops();
    settings(&place, "");
    let report = place.run(&["doctor", "--before-start"]).ok();
    for part in ["supervisors", "services", "git clean"] {
        assert!(!report.stdout.contains(part), "{}", report.stdout);
    }
}

#[test]
fn what_goes_to_the_phone_is_listed() {
    let place = Place::with_loops();
    let found = |place: &Place| {
        let output = place.run(&["--json", "doctor", "--before-start"]);
        let rows: serde_json::Value = output.json();
        rows.as_array().unwrap().iter().find(|row| row["check"] == "phone").cloned().unwrap_or_default()
    };
    assert!(found(&place).is_null());
    let config = place.home().join("config.toml");
    std::fs::write(&config, "[notify]\npreset = \"ntfy\"\ntopic = \"night\"\n").unwrap();
    let row = found(&place);
    assert_eq!(row["grade"], "ok");
    assert!(
        row["detail"].as_str().unwrap().ends_with("ntfy: kind, loop and test, summary, options; no answers are taken"),
        "{row}"
    );
    std::fs::write(&config, "[notify]\npreset = \"ntfy\"\ntopic = \"night\"\ntoken_file = \"token\"\n").unwrap();
    assert_eq!(found(&place)["grade"], "problem");
    // Who reads the topic sees what the buttons carry.
    for name in ["token", "answer"] {
        let file = place.home().join(name);
        std::fs::write(&file, "tk_1\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let all = |more: &str| {
        std::fs::write(&config, format!("[notify]\npreset = \"ntfy\"\ntopic = \"night\"\ntoken_file = \"token\"\n{more}"))
            .unwrap();
        place.run(&["doctor", "--before-start"]).stdout
    };
    assert!(all("").contains("the buttons carry the access token"));
    assert!(!all("answer_token_file = \"answer\"\n").contains("the buttons carry"));
    assert!(!all("answers = false\n").contains("the buttons carry"));
    let text = all("report_at = \"07:30\"\n");
    assert!(
        text.contains("a report is sent each day at 07:30: titles of tests, questions, alerts, regressions and cost"),
        "{text}"
    );
    for (text, part) in
        [("preset = \"ntfy\"", "notify.topic"), ("preset = \"telegram\"", "notify.chat"), ("preset = \"x\"", "preset")]
    {
        std::fs::write(&config, format!("[notify]\n{text}\n")).unwrap();
        place.run(&["status"]).fails(2).says(part);
    }
}
