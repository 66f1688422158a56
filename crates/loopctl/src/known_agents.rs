//! The agents that `config.toml` has a preset for: where their keys live, and what the installed version says of its flags.

use std::collections::BTreeSet;

use coord_db::config::AgentKind;

/// An agent's program and what is known of it.
#[derive(Debug)]
pub struct KnownAgent {
    /// Which.
    pub kind: AgentKind,
    /// What people call it.
    pub name: &'static str,
    /// The version that its adapter was tested with.
    pub tested: &'static str,
    /// Subcommands whose flags are listed by their own `--help`.
    subcommands: &'static [&'static str],
}

/// All of them, in the order of the config.
pub const KNOWN_AGENTS: [KnownAgent; 5] = [
    KnownAgent { kind: AgentKind::Claude, name: "Claude Code", tested: "2.1.332", subcommands: &[] },
    KnownAgent { kind: AgentKind::Codex, name: "Codex", tested: "0.171.0", subcommands: &["exec", "e"] },
    KnownAgent { kind: AgentKind::Opencode, name: "OpenCode", tested: "1.18.33", subcommands: &["run"] },
    KnownAgent { kind: AgentKind::Gemini, name: "Gemini CLI", tested: "0.61.0", subcommands: &[] },
    KnownAgent { kind: AgentKind::Aider, name: "Aider", tested: "0.86.2", subcommands: &[] },
];

impl KnownAgent {
    /// The known agent that a command runs.
    #[must_use]
    pub fn of(command: &[String]) -> Option<&'static Self> {
        let kind = AgentKind::of(command);
        KNOWN_AGENTS.iter().find(|known| known.kind == kind)
    }

    /// The known agent with this name of its program.
    #[must_use]
    pub fn named(program: &str) -> Option<&'static Self> {
        KNOWN_AGENTS.iter().find(|known| known.program() == program)
    }

    /// The name of its program.
    #[must_use]
    pub fn program(&self) -> &'static str {
        self.kind.as_str()
    }

    /// The variables that a key, a login or the address of its service comes from.
    #[must_use]
    pub fn keys(&self) -> &'static [&'static str] {
        self.kind.key_variables()
    }

    /// The arguments that make it list its flags, and those of its own arguments that they apply to.
    #[must_use]
    pub fn help<'a>(&self, arguments: &'a [String]) -> (Vec<String>, &'a [String]) {
        match arguments.iter().position(|word| self.subcommands.contains(&word.as_str())) {
            Some(at) => (vec![arguments[at].clone(), "--help".to_owned()], &arguments[at + 1..]),
            None => (vec!["--help".to_owned()], arguments),
        }
    }

    /// Whether a call with these arguments is refused because the superuser makes it.
    #[must_use]
    pub fn refuses_root(&self, arguments: &[String]) -> bool {
        self.kind == AgentKind::Claude && arguments.iter().any(|word| word == "--dangerously-skip-permissions")
    }
}

/// The version in what a program prints of itself.
#[must_use]
pub fn version_in(text: &str) -> Option<&str> {
    let words = text.split_whitespace().map(|word| word.trim_start_matches('v').trim_end_matches([',', ';']));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.') && word.len() < 40;
    words.filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c))).find(is_version)
}

/// The flags among these words that a help text does not list.
#[must_use]
pub fn unlisted_flags<'a>(words: &'a [String], help: &str) -> Vec<&'a str> {
    let listed: BTreeSet<&str> = help
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
        .filter(|word| word.starts_with('-'))
        .collect();
    let is_listed = |flag: &str| {
        // A switch that is listed as it is can mostly be turned off as well.
        let positive = flag.strip_prefix("--no-").map(|rest| format!("--{rest}"));
        // -pv is -p -v, and -ofile is -o file.
        let first = (!flag.starts_with("--")).then(|| flag.chars().take(2).collect::<String>());
        listed.contains(flag)
            || positive.is_some_and(|flag| listed.contains(flag.as_str()))
            || first.is_some_and(|flag| listed.contains(flag.as_str()))
    };
    let mut flags = Vec::new();
    for word in words.iter().take_while(|word| *word != "--") {
        let flag = word.split('=').next().unwrap_or_default();
        let is_flag = flag.strip_prefix('-').map(|rest| rest.trim_start_matches('-')).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_alphabetic())
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        });
        if is_flag && !is_listed(flag) && !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    /// The lines of a preset without their comment signs.
    fn preset(program: &str) -> String {
        let begin = format!("# command = [\"{program}\"");
        let lines = coord_db::config::DEFAULT_TEXT.lines().skip_while(|line| !line.starts_with(&begin));
        let lines = lines.map_while(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")));
        lines.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn each_kind_of_agent_is_known() {
        assert_eq!(KNOWN_AGENTS.each_ref().map(|known| known.kind), AgentKind::KNOWN);
    }

    #[test]
    fn each_preset_is_a_whole_agent_that_gets_its_keys() {
        for known in &KNOWN_AGENTS {
            let text = preset(known.program());
            let config = coord_db::Config::parse(&format!("[agent]\n{text}"), Path::new("x")).unwrap();
            assert_eq!(config.agent.command[0], known.program(), "{text}");
            let default = coord_db::Config::default().agent.environment;
            for name in known.keys().iter().copied().chain(default.iter().map(String::as_str)) {
                assert!(config.agent.environment.iter().any(|passed| passed == name), "{}: {name}", known.program());
            }
            let prompt = if known.kind == AgentKind::Aider { "Argument" } else { "Stdin" };
            assert_eq!(format!("{:?}", config.agent.prompt), prompt);
        }
    }

    #[test]
    fn flags_that_the_help_does_not_list_are_found() {
        let help =
            "  -p, --print   Print\n --output-format <format>\n --[no-]color\n  -o, --out [x]\n --yolo, -y, --auto-commits";
        let unlisted = |text: &str| unlisted_flags(&words(text), help).join(" ");
        assert_eq!(unlisted("-p --print --output-format json --yolo -po -ofile --out=x --no-auto-commits -"), "");
        assert_eq!(
            unlisted("--prin --full-auto -x --output-formats=json -- --never"),
            "--prin --full-auto -x --output-formats"
        );
        assert_eq!(unlisted("-1 --  --x"), "", "numbers and what follows -- are no flags");
    }

    #[test]
    fn a_subcommand_lists_its_own_flags() {
        let codex = KnownAgent::of(&words("/opt/bin/codex")).unwrap();
        let arguments = words("-c x=1 exec --json -");
        assert_eq!(codex.help(&arguments), (words("exec --help"), &arguments[3..]));
        let claude = KnownAgent::of(&words("claude")).unwrap();
        let arguments = words("-p --dangerously-skip-permissions");
        assert_eq!(claude.help(&arguments), (words("--help"), &arguments[..]));
        assert!(claude.refuses_root(&arguments) && !claude.refuses_root(&arguments[..1]));
        assert!(KnownAgent::of(&words("claude-wrapper")).is_none());
    }

    #[test]
    fn a_version_is_found_in_what_each_agent_prints() {
        for (text, version) in [
            ("2.1.332 (Claude Code)\n", Some("2.1.332")),
            ("codex-cli 0.171.0\n", Some("0.171.0")),
            ("warning: slow\nv1.18.33-beta.1\n", Some("1.18.33-beta.1")),
            ("usage: x 1", None),
            ("", None),
        ] {
            assert_eq!(version_in(text), version, "{text}");
        }
    }
}
