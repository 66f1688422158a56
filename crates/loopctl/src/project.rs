//! What kind of project a repository holds, as its build files say, and the checks that follow from it. Nothing of the
//! project is run.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::known_agents::{KNOWN_AGENTS, KnownAgent};
use crate::programs::program_at;

/// More of a file than this says nothing more about its kind.
const MOST_BYTES: u64 = 1 << 20;

/// A check for the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// Its name in the config.
    pub name: &'static str,
    /// What is run.
    pub command: Vec<String>,
    /// The file that it follows from.
    pub from: &'static str,
}

/// The files of a folder that say what it is. Only this is read.
trait Files {
    /// The text of a plain file, if it is one and readable.
    fn text(&self, name: &str) -> Option<String>;
    /// Whether there is a file or folder of that name.
    fn has(&self, name: &str) -> bool;
    /// The whole path of a file.
    fn path(&self, name: &str) -> String;
}

struct Folder<'a>(&'a Path);

impl Files for Folder<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let path = self.0.join(name);
        // A pipe would never end, and a folder cannot be read.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

/// The checks that fit the project in a folder: one for each language, and `make` where there is no other.
#[must_use]
pub fn look(folder: &Path) -> Vec<Proposal> {
    checks(&Folder(folder))
}

fn checks(files: &dyn Files) -> Vec<Proposal> {
    let mut found: Vec<Proposal> = [cargo(files), node(files), python(files), go(files)].into_iter().flatten().collect();
    if found.is_empty() {
        // Beside a language's own tool it mostly calls that tool.
        found.extend(make(files));
    }
    if let [only] = &mut found[..] {
        only.name = "tests";
    }
    found
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn cargo(files: &dyn Files) -> Option<Proposal> {
    let text = files.text("Cargo.toml")?;
    let table = text.parse::<toml::Table>().ok();
    let has = |key: &str| table.as_ref().is_some_and(|table| table.contains_key(key));
    let command = if has("workspace") { words(&["cargo", "test", "--workspace"]) } else { words(&["cargo", "test"]) };
    Some(Proposal { name: "rust-tests", command, from: "Cargo.toml" })
}

fn node(files: &dyn Files) -> Option<Proposal> {
    let package: Value = serde_json::from_str(&files.text("package.json")?).ok()?;
    let script = package["scripts"]["test"].as_str()?;
    // What npm init writes.
    if script.trim().is_empty() || script.contains("no test specified") {
        return None;
    }
    let needs = ["dependencies", "devDependencies", "optionalDependencies"];
    let needs = needs.iter().any(|key| package[*key].as_object().is_some_and(|map| !map.is_empty()));
    // A clean check-out has no node_modules.
    let (test, install) = if files.has("pnpm-lock.yaml") {
        ("pnpm test", "pnpm install --frozen-lockfile --prefer-offline")
    } else if files.has("yarn.lock") {
        ("yarn test", "yarn install --frozen-lockfile --prefer-offline")
    } else if files.has("bun.lock") || files.has("bun.lockb") {
        ("bun run test", "bun install --frozen-lockfile")
    } else if files.has("package-lock.json") {
        ("npm test", "npm ci --prefer-offline --no-audit --no-fund")
    } else {
        ("npm test", "npm install --no-package-lock --prefer-offline --no-audit --no-fund")
    };
    let command = if needs {
        words(&["sh", "-c", &format!("{install} && {test}")])
    } else {
        test.split(' ').map(str::to_owned).collect()
    };
    Some(Proposal { name: "node-tests", command, from: "package.json" })
}

fn python(files: &dyn Files) -> Option<Proposal> {
    let manifests =
        ["pyproject.toml", "setup.py", "setup.cfg", "tox.ini", "pytest.ini", "requirements.txt", "requirements-dev.txt"];
    let from = manifests.into_iter().find(|name| files.text(name).is_some());
    let named = |name: &&str| files.text(name).is_some_and(|text| text.contains("pytest"));
    let pytest = manifests.iter().any(named) || files.has("conftest.py") || files.has("tests/conftest.py");
    let folder = ["tests", "test"].into_iter().find(|name| files.has(name));
    // Without a manifest a folder of tests may be anybody's.
    let from = from.or_else(|| files.has("tests/__init__.py").then_some("tests/__init__.py"))?;
    // A clean check-out has no environment: uv and poetry make one for it, any other is the user's own.
    let own = [".venv/bin/python", "venv/bin/python"].into_iter().find(|name| files.has(name));
    let own = own.map_or_else(|| "python3".to_owned(), |name| files.path(name));
    // What is installed there from the user's own folder, to be edited, would be judged in place of the check-out.
    let own: &[&str] = if files.has("src") { &["env", "PYTHONPATH=src", &own] } else { &[&own] };
    let with = |more: &[&str]| words(&[own, &["-m"], more].concat());
    let command = match (pytest, folder) {
        (true, _) if files.has("uv.lock") => words(&["uv", "run", "pytest"]),
        (true, _) if files.has("poetry.lock") => {
            words(&["sh", "-c", "poetry install --quiet --no-interaction && poetry run pytest"])
        }
        (true, _) => with(&["pytest"]),
        (false, Some(folder)) if !files.has(&format!("{folder}/__init__.py")) => with(&["unittest", "discover", "-s", folder]),
        (false, _) => with(&["unittest", "discover"]),
    };
    Some(Proposal { name: "python-tests", command, from })
}

fn go(files: &dyn Files) -> Option<Proposal> {
    files.text("go.mod")?;
    Some(Proposal { name: "go-tests", command: words(&["go", "test", "./..."]), from: "go.mod" })
}

fn make(files: &dyn Files) -> Option<Proposal> {
    // In the order in which make looks.
    let (from, text) = ["GNUmakefile", "makefile", "Makefile"].into_iter().find_map(|name| Some((name, files.text(name)?)))?;
    let target = ["test", "check", "tests"].into_iter().find(|target| {
        text.lines().any(|line| {
            let rest = line.strip_prefix(target).map(str::trim_start);
            rest.is_some_and(|rest| rest.starts_with(':') && !rest.starts_with(":=") && !rest.starts_with("::="))
        })
    })?;
    Some(Proposal { name: "make-tests", command: words(&["make", target]), from })
}

/// Which agents that the config has a preset for are on the PATH.
#[must_use]
pub fn agents() -> Vec<&'static KnownAgent> {
    KNOWN_AGENTS.iter().filter(|known| program_at(known.program, Path::new("")).is_some()).collect()
}

/// The text of a new config: the defaults with the proposed checks in place of the example, and a mark at the presets of the
/// agents.
#[must_use]
pub fn config_text(default: &str, checks: &[Proposal], agents: &[&KnownAgent]) -> String {
    let mut text = String::new();
    let mut lines = default.lines().peekable();
    while let Some(line) = lines.next() {
        text.push_str(line);
        let is_preset = |known: &&KnownAgent| {
            lines.peek().is_some_and(|next| next.starts_with(&format!("# command = [\"{}\"", known.program)))
        };
        if agents.iter().any(is_preset) {
            text.push_str("; found here");
        }
        text.push('\n');
        // The end of the example.
        if line.starts_with("# baseline = ") {
            for check in checks {
                let command = toml::Value::Array(check.command.iter().cloned().map(toml::Value::String).collect());
                text.push_str(&format!(
                    "[[gate.check]]                       # because of {}\nname = \"{}\"\ncommand = {command}\n",
                    check.from, check.name
                ));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Listed(BTreeMap<&'static str, &'static str>);

    impl Files for Listed {
        fn text(&self, name: &str) -> Option<String> {
            self.0.get(name).map(|text| (*text).to_owned())
        }

        fn has(&self, name: &str) -> bool {
            let below = format!("{name}/");
            self.0.keys().any(|file| *file == name || file.starts_with(&below))
        }

        fn path(&self, name: &str) -> String {
            format!("/there/{name}")
        }
    }

    fn proposed(files: &[(&'static str, &'static str)]) -> Vec<String> {
        let found = checks(&Listed(files.iter().copied().collect()));
        found.iter().map(|check| format!("{} {}: {}", check.name, check.from, check.command.join(" "))).collect()
    }

    #[test]
    fn each_kind_of_project_is_known_by_its_files() {
        let node = |package| proposed(&[("package.json", package)]);
        let cases: &[(&[(&'static str, &'static str)], &str)] = &[
            (&[("Cargo.toml", "[package]\nname = 'x'")], "tests Cargo.toml: cargo test"),
            (&[("Cargo.toml", "[workspace]\nmembers = []")], "tests Cargo.toml: cargo test --workspace"),
            (&[("Cargo.toml", "[[[not toml")], "tests Cargo.toml: cargo test"),
            (&[("go.mod", "module x")], "tests go.mod: go test ./..."),
            (&[("pyproject.toml", "[tool.pytest.ini_options]")], "tests pyproject.toml: python3 -m pytest"),
            (&[("pyproject.toml", "pytest"), ("uv.lock", "")], "tests pyproject.toml: uv run pytest"),
            (
                &[("pyproject.toml", "pytest"), ("poetry.lock", "")],
                "tests pyproject.toml: sh -c poetry install --quiet --no-interaction && poetry run pytest",
            ),
            (
                &[("pyproject.toml", "pytest"), (".venv/bin/python", "")],
                "tests pyproject.toml: /there/.venv/bin/python -m pytest",
            ),
            (
                &[("pyproject.toml", "pytest"), ("venv/bin/python", ""), ("src/x.py", "")],
                "tests pyproject.toml: env PYTHONPATH=src /there/venv/bin/python -m pytest",
            ),
            (&[("setup.py", ""), ("tests/conftest.py", "")], "tests setup.py: python3 -m pytest"),
            (&[("setup.py", ""), ("tests/test_x.py", "")], "tests setup.py: python3 -m unittest discover -s tests"),
            (&[("setup.py", ""), ("tests/__init__.py", "")], "tests setup.py: python3 -m unittest discover"),
            (&[("tests/__init__.py", "")], "tests tests/__init__.py: python3 -m unittest discover"),
            (&[("Makefile", "all:\n\ncheck: all\n\t./run\n")], "tests Makefile: make check"),
            (&[("makefile", "test : all\n")], "tests makefile: make test"),
        ];
        for (files, expected) in cases {
            assert_eq!(proposed(files), [*expected], "{files:?}");
        }
        assert_eq!(node(r#"{"scripts": {"test": "node --test"}}"#), ["tests package.json: npm test"]);
        assert_eq!(
            node(r#"{"scripts": {"test": "jest"}, "devDependencies": {"jest": "29"}}"#),
            ["tests package.json: sh -c npm install --no-package-lock --prefer-offline --no-audit --no-fund && npm test"]
        );
    }

    #[test]
    fn what_has_no_tests_gets_no_check() {
        for files in [
            &[][..],
            &[("README.md", "cargo")],
            &[("package.json", "{}")],
            &[("package.json", "no json")],
            &[("package.json", r#"{"scripts": {"test": "echo \"Error: no test specified\" && exit 1"}}"#)],
            &[("package.json", r#"{"scripts": {"test": 7}}"#)],
            &[("Makefile", "test := yes\ntesting: all\n\ttest: no\n.PHONY: test\n")],
            &[("tests/sample.txt", "")],
        ] {
            assert_eq!(proposed(files), Vec::<String>::new(), "{files:?}");
        }
    }

    #[test]
    fn several_languages_give_several_checks_and_make_is_left_to_them() {
        let both = proposed(&[
            ("Cargo.toml", "[package]"),
            ("package.json", r#"{"scripts": {"test": "x"}}"#),
            ("yarn.lock", ""),
            ("Makefile", "test:\n"),
        ]);
        assert_eq!(both, ["rust-tests Cargo.toml: cargo test", "node-tests package.json: yarn test"]);
    }

    #[test]
    fn the_written_config_says_what_was_proposed() {
        let check = Proposal { name: "tests", command: words(&["sh", "-c", "a \"b\" \\ 'c'\n"]), from: "Cargo.toml" };
        let text = config_text(coord_db::config::DEFAULT_TEXT, std::slice::from_ref(&check), &[&KNOWN_AGENTS[1]]);
        let config = coord_db::Config::parse(&text, Path::new("config.toml")).unwrap();
        let [read] = &config.gate.check[..] else { panic!("{text}") };
        assert_eq!((read.name.as_str(), &read.command), (check.name, &check.command));
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("; found here")).collect();
        assert!(matches!(marked[..], [header] if header.starts_with("# Codex")), "{marked:?}");
        assert_eq!(config_text(coord_db::config::DEFAULT_TEXT, &[], &[]), coord_db::config::DEFAULT_TEXT);
    }
}
