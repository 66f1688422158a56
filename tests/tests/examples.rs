//! Every example that the help of a program shows, run as it is printed: each help page in a prepared repository of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use system_tests::binaries;
use test_support::{Postgres, wait_for};

/// What the examples speak of: loops, tests, one of which has landed, and rows whose ids end as the examples say.
const PREPARED: &str = r#"
set -eu
git init --quiet && mkdir -p src/api src/ui docs && echo 'def login(): pass' > src/api/login.py && echo '# API' > docs/api.md
git add . && git -c user.name=n -c user.email=e@e commit --quiet -m first
loopctl --quiet init
printf '\n[[gate.check]]\nname = "suite"\ncommand = ["true"]\n' >> coding-loops/config.toml
loopctl --quiet loop add backend && loopctl --quiet loop add frontend
printf '[[test]]\nid = "ui-03-menu"\nloop = "frontend"\n' > goals.toml
loopctl --quiet test add api-01-login --loop backend --allow-no-change --scope 'src/api/**'
loopctl --quiet test add api-02-logout --loop backend --depends-on api-01-login
loopctl --quiet test add ui-00-page --loop frontend --allow-no-change
loopctl --quiet next --loop frontend >&2 && echo page > ../shop-loops/loops/frontend/page.html
loopctl --quiet submit ui-00-page >&2
loopctl --quiet test add ui-01-form --loop frontend
loopctl --quiet next --loop backend >&2
loopctl --quiet give-back api-01-login --category human && loopctl --quiet reset api-01-login
loopctl --quiet subscribe watcher --types test_started
loopctl --quiet own src/api/ --loop backend
loopctl --quiet migration allocate first --loop backend >&2
sqlite3 coding-loops/coordination.db "
  INSERT INTO events (id, source, event_type, payload) VALUES
    ('01a20887-a7a2-779d-8fa1-f77fa81f0c3d', 'frontend', 'test_started',
     '{\"test_id\": \"ui-01-form\", \"loop_id\": \"frontend\", \"attempt\": 1, \"scope\": []}'),
    ('01a20887-a7a2-779d-8fa1-f77fa81f0c3e', 'frontend', 'test_passed',
     '{\"test_id\": \"ui-01-form\", \"loop_id\": \"frontend\", \"attempt\": 1, \"duration_seconds\": 1, \"files_modified\": [],
       \"verified\": true, \"verification_checks\": {}, \"commit\": \"3caaa8c3caaa8c3caaa8c3caaa8c3caaa8c3caaa\"}');
  INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, exit_code, duration_ms, output_sha256)
    VALUES ('01a20887-a7a2-779d-8fa1-f77f3caaa8c0-1', 'ui-01-form', 1, '3caaa8c3caaa8c3caaa8c3caaa8c3caaa8c3caaa', 't', 'suite',
            'pass', 0, 10, 's');
  INSERT INTO decisions (id, decision_type, summary, options) VALUES ('01a20887-a7a2-779d-8fa1-f77f5d0c41aa', 'question',
    'Try again?', '[{\"id\": \"retry\", \"description\": \"yes\"}, {\"id\": \"skip\", \"description\": \"no\"}]'),
    ('01a20887-a7a2-779d-8fa1-f77f1e55b2d7', 'question', 'And this?', '[{\"id\": \"retry\", \"description\": \"yes\"}]');
  INSERT INTO alerts (id, severity, alert_type, message)
    VALUES ('01a20887-a7a2-779d-8fa1-f77f7be2901f', 'warning', 'stuck', 'frontend is stuck');
  INSERT INTO knowledge (id, item_type, topic, content) VALUES
    ('01a20887-a7a2-779d-8fa1-f77fe07f12c8', 'fact', 'auth', 'a session lasts a day'),
    ('01a20887-a7a2-779d-8fa1-f77f4b1d88f3', 'fact', 'auth', 'a session lasts an hour');
  INSERT INTO change_requests (id, resource_path, requestor_loop, owner_loop)
    VALUES ('01a20887-a7a2-779d-8fa1-f77f93d6b5e4', 'src/api/', 'frontend', 'backend');
  INSERT INTO transaction_log (id, operation) VALUES ('01a20887-a7a2-779d-8fa1-f77f61ac3fd9', 'tidy');
  UPDATE checkpoints SET id = '01a20887-a7a2-779d-8fa1-f77f2c9e77b0' WHERE id = (SELECT max(id) FROM checkpoints WHERE loop_id = 'backend')"
"#;

/// The server of the examples, in whose place there is one of the tests'.
const ADDRESS: &str = "postgres://loops@db.example/loops";

/// An agent for the loop that coding-loop drives.
const AGENT: &str =
    "\n[loop.backend.agent]\ncommand = [\"sh\", \"-c\", 'cat > /dev/null; echo done > \"src/api/$TEST_ID.py\"']\n";

/// A repository, its loops' folder and the settings, which can be put back as they were prepared.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(scene.repository()).unwrap();
        std::fs::create_dir(scene.folder.path().join("bin")).unwrap();
        // No test starts a service of the machine that it runs on.
        let systemctl = scene.folder.path().join("bin/systemctl");
        std::fs::write(&systemctl, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&systemctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let prepared = scene.bash(PREPARED).output().unwrap();
        assert!(prepared.status.success(), "{}", shown(&prepared));
        std::fs::write(scene.repository().join("agent.toml"), AGENT).unwrap();
        assert_eq!(scene.run("mkdir ../kept && cp -a ../shop ../shop-loops ../kept"), None);
        scene
    }

    fn put_back(&self) {
        let folder = self.folder.path();
        let line = "rm -rf shop shop-loops settings && cp -a kept/* .";
        let put_back = Command::new("sh").args(["-ec", line]).current_dir(folder).output().unwrap();
        assert!(put_back.status.success(), "{}", shown(&put_back));
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    fn bash(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        let (own, path) = (self.folder.path().join("bin"), std::env::var("PATH").unwrap_or_default());
        command.args(["-c", line]).current_dir(self.repository()).stdin(Stdio::null());
        command.env("PATH", format!("{}:{}:{path}", own.display(), binaries().display()));
        command.env("XDG_CONFIG_HOME", self.folder.path().join("settings")).env_remove("CODING_LOOPS_DB");
        // No example opens a browser on the screen of a person.
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        command
    }

    /// Runs an example; what went wrong, if something did.
    fn run(&self, example: &str) -> Option<String> {
        if example.contains(ADDRESS) {
            // Without a server there is nothing to run it with.
            let address = Postgres::get()?.empty_address();
            return self.run(&example.replace(ADDRESS, &address));
        }
        if example == "loopctl after-failover" {
            let address = Postgres::get()?.empty_address();
            return self.run(&format!("loopctl move-database {address} && {example} --quiet"));
        }
        if ["--follow", "--watch", "loopctl web"].iter().any(|endless| example.contains(endless)) {
            self.begin(example, |child| child.kill().unwrap());
            return None;
        }
        if example.starts_with("loopctl up") {
            self.begin(example, |_| assert_eq!(self.run("loopctl down"), None));
            return None;
        }
        let output = self.bash("exec timeout 120 bash -c \"$EXAMPLE\"").env("EXAMPLE", example).output().unwrap();
        (!output.status.success()).then(|| format!("{example}: {}", shown(&output)))
    }

    /// Of a command that goes on until it is interrupted: it prints something, or ends well.
    fn begin(&self, example: &str, end: impl FnOnce(&mut Child)) {
        let file = self.folder.path().join("printed");
        let printed = std::fs::File::create(&file).unwrap();
        let mut child = self.bash(&format!("exec {example} 2>&1")).stdout(printed).spawn().unwrap();
        wait_for(example, || {
            let has_printed = std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
            match child.try_wait().unwrap() {
                Some(status) if !status.success() => panic!("{example}: {status}"),
                Some(_) => Some(()),
                None => has_printed.then_some(()),
            }
        });
        end(&mut child);
        child.wait().unwrap();
    }
}

fn shown(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

/// The examples of each help page, by its command line.
fn pages(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
    let without_remark = |line: &String| line.split("  # ").next().unwrap_or_default().trim().to_owned();
    let examples: Vec<String> = loopctl::cli::examples(command).iter().map(without_remark).collect();
    if !examples.is_empty() {
        found.push((path.to_owned(), examples));
    }
    command.get_subcommands().for_each(|command| pages(command, &format!("{path} {}", command.get_name()), found));
}

#[test]
fn the_examples_of_every_help_page_run() {
    let mut found = Vec::new();
    pages(&loopctl::cli::command(), "loopctl", &mut found);
    pages(&coding_loop::command_line::command(), "coding-loop", &mut found);
    for each in &coord_db::SUPERVISORS {
        pages(&supervisor::command(each), each.program, &mut found);
    }
    assert!(found.len() > 70, "{}", found.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let scene = Scene::new();
                while let Some((page, examples)) = found.get(next.fetch_add(1, Ordering::Relaxed)) {
                    scene.put_back();
                    if page == "coding-loop" {
                        assert_eq!(scene.run("cat agent.toml >> coding-loops/config.toml"), None);
                    }
                    for example in examples {
                        let program = page.split(' ').next().unwrap_or_default();
                        assert!(example.contains(program), "{page}: {example:?} is about another program");
                        failed.lock().unwrap().extend(scene.run(example));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
