//! From `loopctl init` in somebody's own repository to the first verified test, by the commands that it prints, for projects
//! of several kinds. A kind whose tool this machine lacks is skipped, and said so.

use std::path::Path;
use std::process::{Command, Stdio};

use system_tests::{binaries, query};
use test_support::wait_for;

/// A cold `cargo test` on a busy machine.
struct Kind {
    tool: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// What the agent changes: a file and its new text.
    change: (&'static str, &'static str),
    check: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        tool: "cargo",
        files: &[
            ("Cargo.toml", "[package]\nname = \"sum\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n"),
            (
                "src/lib.rs",
                "pub fn sum(a: i32, b: i32) -> i32 {\n    a - -b\n}\n\n#[test]\nfn adds() {\n    assert_eq!(sum(2, 3), 5);\n}\n",
            ),
            (".gitignore", "/target\nCargo.lock\n"),
        ],
        change: (
            "src/lib.rs",
            "pub fn sum(a: i32, b: i32) -> i32 {\n    a + b\n}\n\n#[test]\nfn adds() {\n    assert_eq!(sum(2, 3), 5);\n}\n",
        ),
        check: "cargo test --workspace",
    },
    Kind {
        tool: "python3",
        files: &[
            ("pyproject.toml", "[project]\nname = \"sum\"\nversion = \"0.1\"\n"),
            ("sums.py", "def add(a, b):\n    return a - -b\n"),
            (
                "tests/test_sums.py",
                "import unittest\nfrom sums import add\n\n\nclass Sums(unittest.TestCase):\n    def test_adds(self):\n        self.assertEqual(add(2, 3), 5)\n",
            ),
        ],
        change: ("sums.py", "def add(a, b):\n    return a + b\n"),
        check: "python3 -m unittest discover -s tests",
    },
    Kind {
        tool: "make",
        files: &[
            ("Makefile", "test: sum\n\ttest \"$$(./sum)\" = 5\n\nsum: sum.c\n\tcc -o sum sum.c\n"),
            ("sum.c", "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 2 - -3); }\n"),
            (".gitignore", "sum\n"),
        ],
        change: ("sum.c", "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 2 + 3); }\n"),
        check: "make test",
    },
    Kind {
        tool: "npm",
        files: &[
            ("package.json", "{\"name\": \"sum\", \"version\": \"0.1.0\", \"scripts\": {\"test\": \"node --test\"}}\n"),
            ("sum.js", "module.exports = (a, b) => a - -b;\n"),
            (
                "sum.test.js",
                "const test = require('node:test');\nconst assert = require('node:assert');\nconst sum = require('./sum.js');\n\ntest('adds', () => assert.strictEqual(sum(2, 3), 5));\n",
            ),
        ],
        change: ("sum.js", "module.exports = (a, b) => a + b;\n"),
        check: "npm test",
    },
];

/// Types a line into a shell, as a newcomer would.
fn typed(folder: &Path, line: &str) -> Command {
    let mut command = Command::new("bash");
    let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap_or_default());
    command.args(["-c", line]).current_dir(folder).env("PATH", path).stdin(Stdio::null());
    command.env_remove("CODING_LOOPS_DB").env_remove("CARGO_TARGET_DIR");
    command
}

fn says(folder: &Path, line: &str) -> String {
    let output = typed(folder, line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

fn first_verified_test(kind: &Kind) {
    if !typed(Path::new("/"), &format!("command -v {}", kind.tool)).output().unwrap().status.success() {
        println!("SKIPPED: {} is not installed", kind.tool);
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("project");
    write(&folder, kind.files);
    says(&folder, "git init -q . && git add . && git -c user.name=n -c user.email=e@e commit -qm first");
    let said = says(&folder, "loopctl init");
    assert!(said.contains(&format!("work is verified by {:?}", kind.check)), "{said}");
    // The one thing that is the newcomer's to say: who the agent is.
    let prepared = place.path().join("agent");
    write(&prepared, &[kind.change]);
    let config = folder.join("coding-loops/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let agent = format!("command = [\"cp\", '{}', '{}']", prepared.join(kind.change.0).display(), kind.change.0);
    std::fs::write(&config, text.replacen("command = []", &agent, 1)).unwrap();
    says(&folder, "loopctl doctor");
    // What is in brackets is a remark.
    let next = said.split("next:\n").nth(1).unwrap().lines().map(|line| line.split('(').next().unwrap().trim().to_owned());
    let [add, test, drive] = &next.collect::<Vec<_>>()[..] else { panic!("{said}") };
    says(&folder, add);
    says(&folder, test);
    let mut driver = typed(&folder, &format!("exec {drive}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let database = folder.join("coding-loops/coordination.db");
    let ended = wait_for("the first test to end", || {
        let status = query(&database, "SELECT status FROM tests")?;
        ["passed", "blocked"].contains(&status.trim()).then_some(status)
    });
    says(&folder, &format!("kill -TERM {}", driver.id()));
    driver.wait().unwrap();
    assert_eq!(ended.trim(), "passed", "{}", says(&folder, "loopctl timeline"));
    let status = says(&folder, "loopctl status T-001");
    assert!(status.contains("pass  tests at"), "{status}");
    let landed = says(&folder, &format!("git show coding-loops/integration:{}", kind.change.0));
    assert_eq!(landed, kind.change.1);
    assert_eq!(says(&folder, "git status --porcelain"), "", "the newcomer's own files are as they were");
}

#[test]
fn a_rust_project() {
    first_verified_test(&KINDS[0]);
}

#[test]
fn a_python_project() {
    first_verified_test(&KINDS[1]);
}

#[test]
fn a_project_with_a_makefile() {
    first_verified_test(&KINDS[2]);
}

#[test]
fn a_node_project() {
    first_verified_test(&KINDS[3]);
}
