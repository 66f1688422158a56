//! What the README shows a newcomer, typed: from the installation by their own repository to verified work, and then every
//! command for looking and steering. (`demo.rs` runs the demo as it is installed.)

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use system_tests::docs::{block, lines};
use system_tests::installation::Installation;
use system_tests::query;
use test_support::wait_for;

const README: &str = "README.md";

/// The process that runs this test may ignore Ctrl-C, as a background job of a script does; a terminal's programs do not.
const AT_A_TERMINAL: &str = "env --default-signal=INT";

/// A small project with a test suite, in any language that every machine has.
const FILES: [(&str, &str); 3] = [
    ("pyproject.toml", "[project]\nname = \"shop\"\nversion = \"0.1\"\n"),
    ("shop.py", "OPEN = True\n"),
    (
        "tests/test_shop.py",
        "import unittest\nimport shop\n\n\nclass Shop(unittest.TestCase):\n    def test_open(self):\n        self.assertTrue(shop.OPEN)\n",
    ),
];

/// A Claude Code that does what its prompt says, in the scope of its test.
const AGENT: &str = r#"#!/bin/sh
case "$1" in
  --version) echo '9.9.9 (Claude Code)'; exit ;;
  --help) echo '-p --output-format --verbose --dangerously-skip-permissions'; exit ;;
esac
cat > prompt; grep -q "$TEST_ID" prompt && rm prompt && mkdir -p src/api && echo done > "src/api/$TEST_ID" || exit 1
echo '{"type":"result","subtype":"success","is_error":false,"terminal_reason":"completed","result":"done","session_id":"s"}'
"#;

/// Somebody at their shell.
struct Newcomer(Installation);

impl Newcomer {
    fn repository(&self) -> PathBuf {
        self.0.home().join("your-repository")
    }

    fn typed(&self, line: &str) -> Command {
        let mut command = self.0.command("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        let [agents, own] = ["agents", ".local/bin"].map(|folder| self.0.home().join(folder).display().to_string());
        let path = format!("{own}:{agents}:{path}");
        command.args(["-c", line]).current_dir(self.repository());
        command.env("PATH", path).env("ANTHROPIC_API_KEY", "key");
        command
    }

    fn says(&self, line: &str) -> String {
        let output = self.typed(line).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    fn asks(&self, sql: &str) -> String {
        query(&self.repository().join("coding-loops/coordination.db"), sql).unwrap_or_default().trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.repository().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

/// `loopctl up` in its terminal; ended, whatever happens.
struct Launched(Child);

impl Launched {
    /// Sends a signal and gives the exit code.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        kill(pid, signal).unwrap();
        wait_for("loopctl up to end", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

fn install_agent(home: &Path) {
    let program = home.join("agents/claude");
    std::fs::create_dir(home.join("agents")).unwrap();
    std::fs::write(&program, AGENT).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_newcomers_commands_do_what_the_readme_says() {
    let newcomer = Newcomer(Installation::new());
    install_agent(&newcomer.0.home());
    for (name, text) in FILES {
        newcomer.write(name, text);
    }
    newcomer.says("git init -q . && git add . && git -c user.name=n -c user.email=e@e commit -qm first");
    newcomer.write("goals.toml", &block(README, "Your own repository", "toml"));

    let first = block(README, "coding-loops", "bash");
    assert_eq!(lines(&first).collect::<Vec<_>>(), ["scripts/install.sh", "coding-loops-launch --demo"]);
    newcomer.0.installs(&[]);
    let own = block(README, "Your own repository", "bash");
    let own: Vec<&str> = lines(&own).collect();
    let [cd, init, typed @ .., "loopctl up"] = &own[..] else { panic!("{own:?}") };
    assert_eq!((*cd, *init), ("cd your-repository", "loopctl init --agent claude"));
    newcomer.says(init);
    if Uid::effective().is_root() {
        // Claude Code refuses to work for root, unless it is in a sandbox.
        let config = newcomer.repository().join("coding-loops/config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replacen("set = {}", "set = { IS_SANDBOX = \"1\" }", 1)).unwrap();
    }
    for line in typed {
        newcomer.says(line);
    }
    let launched = newcomer
        .typed(&format!("exec {AT_A_TERMINAL} loopctl up"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut launched = Launched(launched);
    wait_for("all goals to be verified", || {
        (newcomer.asks("SELECT count(*) = 2 AND min(status = 'passed') FROM tests") == "1").then_some(())
    });

    let of_login = |column: &str| newcomer.asks(&format!("SELECT {column} FROM tests WHERE id = 'api-01-login'"));
    let passed = newcomer.asks("SELECT id FROM events WHERE event_type = 'test_passed' ORDER BY rowid DESC LIMIT 1");
    let steering = block(README, "Looking and steering", "bash");
    let steering: Vec<&str> = lines(&steering).collect();
    assert!(steering.len() > 12 && steering.iter().all(|line| line.starts_with("loopctl ")), "{steering:?}");
    for line in steering {
        let line = line.replace("EVENT_ID", &passed).replace("COMMIT", &of_login("commit_hash"));
        let line = line.replace("LOOP", "frontend").replace("TEST", "api-01-login");
        if line == "loopctl web" {
            // It goes on until Ctrl-C.
            assert!(newcomer.says("timeout --signal=INT 3 loopctl web --url | head -n 1").contains("http://127.0.0.1:"));
            continue;
        }
        assert!(!newcomer.says(&line).trim().is_empty(), "{line} says nothing");
        newcomer.says(&format!("{line} --json"));
    }
    wait_for("the pause to hold", || {
        (newcomer.asks("SELECT status FROM loops WHERE id = 'frontend'") == "paused").then_some(())
    });
    newcomer.says("loopctl resume frontend");
    newcomer.says("loopctl own src/api/ --loop backend");
    newcomer.says("loopctl lock src/api/ --loop backend --wait 60");
    assert_eq!(launched.end(Signal::SIGINT), Some(130), "it ended by Ctrl-C");
    assert_eq!(newcomer.asks("SELECT count(*) FROM component_health WHERE status = 'healthy'"), "0");
    newcomer.says("loopctl restore \"$(ls -t coding-loops/backups/*.db | head -n 1)\" && loopctl check");

    let landed = newcomer.says("git log --format=%s HEAD..coding-loops/integration");
    assert!(landed.contains("db-01-users") && landed.contains("api-01-login"), "{landed}");
    assert_eq!(newcomer.says("git status --porcelain"), "?? goals.toml\n", "their own files are as they were");
}
