//! What kind of project a repository holds, as its build files say, and what follows from it: checks, set-up, what is kept
//! between runs. Nothing of the project is run.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::known_agents::{KNOWN_AGENTS, KnownAgent};
use crate::programs::program_at;
use coord_db::Config;

/// More of a file than this says nothing more about its kind.
const MAX_BYTES: u64 = 1 << 20;

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

/// A kind of project that is known and has no check proposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hint {
    /// The file that it is known by.
    pub file: String,
    /// What it is, and how such work is mostly verified.
    pub text: String,
}

/// What the build files of a repository say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Project {
    /// One for each language.
    pub checks: Vec<Proposal>,
    /// What a fresh clone needs before the checks.
    pub setup: Vec<Vec<String>>,
    /// The files that decide whether that runs again.
    pub setup_inputs: Vec<String>,
    /// What is worth keeping between runs.
    pub cache: Vec<String>,
    /// What was found and is not known well enough.
    pub hints: Vec<Hint>,
}

impl Project {
    fn hint(&mut self, file: &str, text: impl Into<String>) {
        self.hints.push(Hint { file: file.to_owned(), text: text.into() });
    }

    fn needs(&mut self, setup: &str, inputs: &[&str], files: &dyn Files) {
        self.setup.push(setup.split(' ').map(str::to_owned).collect());
        self.setup_inputs.extend(inputs.iter().filter(|input| files.has(input)).map(|input| (*input).to_owned()));
    }

    fn keeps(&mut self, folder: &str) {
        self.cache.push(folder.to_owned());
    }
}

/// The files of a folder that say what it is. Only this is read.
trait Files {
    /// The text of a plain file, if it is one and readable.
    fn text(&self, name: &str) -> Option<String>;
    /// Whether there is a file or folder of that name.
    fn has(&self, name: &str) -> bool;
    /// The folders in it, by name.
    fn folders(&self) -> Vec<String>;
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
        std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

/// What fits the project in a folder: a check for each language, and that of `make` or `cmake` where there is no other.
#[must_use]
pub fn look(folder: &Path) -> Project {
    examine(&Folder(folder))
}

fn examine(files: &dyn Files) -> Project {
    let mut project = Project::default();
    for language in [cargo, node, python, go] {
        let found = language(files, &mut project);
        project.checks.extend(found);
    }
    // Beside a language's own tool these mostly call that tool.
    for builder in [make, cmake] {
        if project.checks.is_empty() {
            let found = builder(files, &mut project);
            project.checks.extend(found);
        }
    }
    others(files, &mut project);
    if let [only] = &mut project.checks[..] {
        only.name = "tests";
    }
    project
}

/// Files of builds that are named and not known better: what they are of, and a command that mostly verifies.
const OTHERS: &[(&str, &str, &str)] = &[
    ("pom.xml", "Maven", "mvn -q test"),
    ("gradlew", "Gradle", "./gradlew test"),
    ("build.gradle", "Gradle", "gradle test"),
    ("build.gradle.kts", "Gradle", "gradle test"),
    ("build.sbt", "sbt", "sbt test"),
    ("Gemfile", "Bundler", "bundle exec rake test"),
    ("Rakefile", "Rake", "rake test"),
    ("configure.ac", "autotools", "sh -c 'autoreconf -i && ./configure && make check'"),
    ("configure", "autotools", "sh -c './configure && make check'"),
    ("meson.build", "Meson", "sh -c 'meson setup build && meson test -C build'"),
    ("MODULE.bazel", "Bazel", "bazel test //..."),
    ("WORKSPACE", "Bazel", "bazel test //..."),
    ("composer.json", "Composer", "composer test"),
    ("mix.exs", "Mix", "mix test"),
    ("Package.swift", "Swift", "swift test"),
    ("deno.json", "Deno", "deno test"),
    ("build.zig", "Zig", "zig build test"),
    ("stack.yaml", "Stack", "stack test"),
    ("cabal.project", "Cabal", "cabal test all"),
    ("rebar.config", "Rebar", "rebar3 eunit"),
    ("pubspec.yaml", "Dart", "dart test"),
    ("SConstruct", "SCons", "scons test"),
    ("global.json", ".NET", "dotnet test"),
    ("justfile", "just", "just test"),
    ("Taskfile.yml", "Task", "task test"),
];

/// What else there is: named, so that the human can say more.
fn others(files: &dyn Files, project: &mut Project) {
    let mut named: Vec<&str> = Vec::new();
    for (file, tool, command) in OTHERS {
        if files.text(file).is_some() && !named.contains(tool) {
            named.push(tool);
            project.hint(file, format!("a {tool} build, usually verified by {command}"));
        }
    }
    if project.checks.is_empty() && project.hints.is_empty() {
        const KNOWN: [&str; 7] =
            ["Cargo.toml", "package.json", "pyproject.toml", "go.mod", "Makefile", "CMakeLists.txt", "setup.py"];
        let known = || KNOWN.iter().copied().chain(OTHERS.iter().map(|(file, ..)| *file));
        for folder in files.folders().into_iter().filter(|folder| !folder.starts_with('.')) {
            if let Some(file) = known().find(|file| files.text(&format!("{folder}/{file}")).is_some()) {
                let text = format!("a build in a subfolder, verified by sh -c 'cd {folder} && …'");
                project.hint(&format!("{folder}/{file}"), text);
            }
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn cargo(files: &dyn Files, project: &mut Project) -> Option<Proposal> {
    let text = files.text("Cargo.toml")?;
    let table = text.parse::<toml::Table>().ok();
    let has = |key: &str| table.as_ref().is_some_and(|table| table.contains_key(key));
    let command = if has("workspace") { words(&["cargo", "test", "--workspace"]) } else { words(&["cargo", "test"]) };
    project.keeps("target/");
    Some(Proposal { name: "rust-tests", command, from: "Cargo.toml" })
}

fn node(files: &dyn Files, project: &mut Project) -> Option<Proposal> {
    let package: Value = serde_json::from_str(&files.text("package.json")?).ok()?;
    let script = package["scripts"]["test"].as_str().unwrap_or_default();
    // What npm init writes.
    if script.trim().is_empty() || script.contains("no test specified") {
        project.hint("package.json", "no script \"test\"");
        return None;
    }
    // A clean check-out has no node_modules.
    let (test, install, lock) = if files.has("pnpm-lock.yaml") {
        ("pnpm test", "pnpm install --frozen-lockfile --prefer-offline", "pnpm-lock.yaml")
    } else if files.has("yarn.lock") && files.has(".yarnrc.yml") {
        ("yarn test", "yarn install --immutable", "yarn.lock")
    } else if files.has("yarn.lock") {
        ("yarn test", "yarn install --frozen-lockfile --prefer-offline", "yarn.lock")
    } else if files.has("bun.lock") || files.has("bun.lockb") {
        ("bun run test", "bun install --frozen-lockfile", "bun.lock")
    } else if files.has("package-lock.json") {
        ("npm test", "npm ci --prefer-offline --no-audit --no-fund", "package-lock.json")
    } else {
        ("npm test", "npm install --no-package-lock --prefer-offline --no-audit --no-fund", "package.json")
    };
    let needs = ["dependencies", "devDependencies", "optionalDependencies"];
    let is_workspace = !package["workspaces"].is_null() || files.has("pnpm-workspace.yaml");
    if is_workspace || needs.iter().any(|key| package[*key].as_object().is_some_and(|map| !map.is_empty())) {
        let mut inputs = vec!["package.json", "pnpm-workspace.yaml", ".npmrc", ".yarnrc.yml", "bun.lockb"];
        inputs.extend((lock != "package.json").then_some(lock));
        project.needs(install, &inputs, files);
        project.keeps("node_modules/");
    }
    Some(Proposal { name: "node-tests", command: test.split(' ').map(str::to_owned).collect(), from: "package.json" })
}

fn python(files: &dyn Files, project: &mut Project) -> Option<Proposal> {
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
        (true, _) if files.has("uv.lock") => {
            project.needs("uv sync --frozen", &["pyproject.toml", "uv.lock"], files);
            project.keeps(".venv/");
            words(&["uv", "run", "--frozen", "pytest"])
        }
        (true, _) if files.has("poetry.lock") => {
            project.needs("poetry install --quiet --no-interaction", &["pyproject.toml", "poetry.lock"], files);
            project.keeps(".venv/");
            words(&["poetry", "run", "pytest"])
        }
        (true, _) => with(&["pytest"]),
        (false, Some(folder)) if !files.has(&format!("{folder}/__init__.py")) => with(&["unittest", "discover", "-s", folder]),
        (false, Some(_)) => with(&["unittest", "discover"]),
        (false, None) => {
            project.hint(from, "a Python project without pytest and without a tests folder");
            return None;
        }
    };
    Some(Proposal { name: "python-tests", command, from })
}

fn go(files: &dyn Files, _: &mut Project) -> Option<Proposal> {
    files.text("go.mod")?;
    Some(Proposal { name: "go-tests", command: words(&["go", "test", "./..."]), from: "go.mod" })
}

fn make(files: &dyn Files, project: &mut Project) -> Option<Proposal> {
    // In the order in which make looks.
    let (from, text) = ["GNUmakefile", "makefile", "Makefile"].into_iter().find_map(|name| Some((name, files.text(name)?)))?;
    let target = ["test", "check", "tests"].into_iter().find(|target| {
        text.lines().any(|line| {
            let rest = line.strip_prefix(target).map(str::trim_start);
            rest.is_some_and(|rest| rest.starts_with(':') && !rest.starts_with(":=") && !rest.starts_with("::="))
        })
    });
    let Some(target) = target else {
        if !files.has("CMakeLists.txt") {
            project.hint(from, "no target test or check");
        }
        return None;
    };
    Some(Proposal { name: "make-tests", command: words(&["make", target]), from })
}

fn cmake(files: &dyn Files, project: &mut Project) -> Option<Proposal> {
    let text = files.text("CMakeLists.txt")?.to_lowercase();
    if !["enable_testing", "include(ctest)", "include (ctest)", "add_test"].iter().any(|word| text.contains(word)) {
        project.hint("CMakeLists.txt", "a CMake build without tests: enable_testing() is missing");
        return None;
    }
    project.keeps("build/");
    let script = "cmake -S . -B build && cmake --build build && ctest --test-dir build --output-on-failure --no-tests=error";
    Some(Proposal { name: "cmake-tests", command: words(&["sh", "-c", script]), from: "CMakeLists.txt" })
}

/// Which agents that the config has a preset for are on the PATH.
#[must_use]
pub fn agents() -> Vec<&'static KnownAgent> {
    KNOWN_AGENTS.iter().filter(|known| program_at(known.program(), Path::new("")).is_some()).collect()
}

/// The text of a new config: the defaults with what was found in place of the examples, and a mark at the presets of the
/// agents.
#[must_use]
pub fn config_text(default: &str, project: &Project, agents: &[&KnownAgent], variables: &[&str]) -> String {
    let mut text = String::new();
    let array = |list: &[String]| toml::Value::Array(list.iter().cloned().map(toml::Value::String).collect()).to_string();
    let setup: Vec<String> = project.setup.iter().map(|argv| array(argv)).collect();
    let found = [
        ("setup", format!("[{}]", setup.join(", "))),
        ("setup_inputs", array(&project.setup_inputs)),
        ("cache", array(&project.cache)),
    ];
    let mut environment = Config::default().agent.environment;
    environment.extend(variables.iter().map(|name| (*name).to_owned()));
    let mut lines = default.lines().peekable();
    while let Some(line) = lines.next() {
        let set = found.iter().filter(|(_, value)| value != "[]").find_map(|(name, value)| {
            let comment = line.strip_prefix(&format!("{name} = []"))?.trim_start();
            Some(format!("{:<36} {comment}", format!("{name} = {value}")))
        });
        match line.strip_prefix("environment = ").and_then(|line| line.split_once('#')) {
            Some((_, comment)) => text.push_str(&format!("environment = {}   #{comment}", array(&environment))),
            None => text.push_str(set.as_deref().unwrap_or(line)),
        }
        let is_preset = |known: &&KnownAgent| {
            lines.peek().is_some_and(|next| next.starts_with(&format!("# command = [\"{}\"", known.program())))
        };
        if agents.iter().any(is_preset) {
            text.push_str("; found here");
        }
        text.push('\n');
        // The end of the example.
        if line.starts_with("# baseline = ") {
            for check in &project.checks {
                text.push_str(&format!(
                    "[[gate.check]]                       # because of {}\nname = \"{}\"\ncommand = {}\n",
                    check.from,
                    check.name,
                    array(&check.command)
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

        fn folders(&self) -> Vec<String> {
            let mut names: Vec<String> = self.0.keys().filter_map(|file| Some(file.split_once('/')?.0.to_owned())).collect();
            names.dedup();
            names
        }

        fn path(&self, name: &str) -> String {
            format!("/there/{name}")
        }
    }

    fn project(files: &[(&'static str, &'static str)]) -> Project {
        examine(&Listed(files.iter().copied().collect()))
    }

    fn proposed(files: &[(&'static str, &'static str)]) -> Vec<String> {
        project(files)
            .checks
            .iter()
            .map(|check| format!("{} {}: {}", check.name, check.from, check.command.join(" ")))
            .collect()
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
            (&[("pyproject.toml", "pytest"), ("uv.lock", "")], "tests pyproject.toml: uv run --frozen pytest"),
            (&[("pyproject.toml", "pytest"), ("poetry.lock", "")], "tests pyproject.toml: poetry run pytest"),
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
            ["tests package.json: npm test"]
        );
        let cmake = project(&[("CMakeLists.txt", "enable_testing()\nadd_test(NAME a COMMAND a)"), ("Makefile", "all:\n")]);
        assert!(cmake.checks[0].command[2].ends_with("ctest --test-dir build --output-on-failure --no-tests=error"));
        assert_eq!((&cmake.cache[..], &cmake.hints[..]), (&["build/".to_owned()][..], &[][..]));
    }

    #[test]
    fn what_a_fresh_clone_needs_is_set_up_once() {
        let needs = |files: &[(&'static str, &'static str)]| {
            let found = project(files);
            let setup: Vec<String> = found.setup.iter().map(|argv| argv.join(" ")).collect();
            format!("{} | {} | {}", setup.join("; "), found.setup_inputs.join(" "), found.cache.join(" "))
        };
        let package = ("package.json", r#"{"scripts": {"test": "jest"}, "devDependencies": {"jest": "29"}}"#);
        let cases: &[(&[(&'static str, &'static str)], &str)] = &[
            (&[("Cargo.toml", "[package]")], " |  | target/"),
            (&[("go.mod", "")], " |  | "),
            (&[("package.json", r#"{"scripts": {"test": "node --test"}}"#)], " |  | "),
            (&[package], "npm install --no-package-lock --prefer-offline --no-audit --no-fund | package.json | node_modules/"),
            (
                &[package, ("package-lock.json", ""), (".npmrc", "")],
                "npm ci --prefer-offline --no-audit --no-fund | package.json .npmrc package-lock.json | node_modules/",
            ),
            (
                &[package, ("pnpm-lock.yaml", ""), ("pnpm-workspace.yaml", "")],
                "pnpm install --frozen-lockfile --prefer-offline | package.json pnpm-workspace.yaml pnpm-lock.yaml | node_modules/",
            ),
            (
                &[package, ("yarn.lock", "")],
                "yarn install --frozen-lockfile --prefer-offline | package.json yarn.lock | node_modules/",
            ),
            (
                &[package, ("yarn.lock", ""), (".yarnrc.yml", "")],
                "yarn install --immutable | package.json .yarnrc.yml yarn.lock | node_modules/",
            ),
            (&[("pyproject.toml", "pytest"), ("uv.lock", "")], "uv sync --frozen | pyproject.toml uv.lock | .venv/"),
            (
                &[("pyproject.toml", "pytest"), ("poetry.lock", "")],
                "poetry install --quiet --no-interaction | pyproject.toml poetry.lock | .venv/",
            ),
        ];
        for (files, expected) in cases {
            assert_eq!(needs(files), *expected, "{files:?}");
        }
    }

    #[test]
    fn what_is_not_known_well_enough_is_named() {
        let named = |files: &[(&'static str, &'static str)]| {
            let found = project(files);
            assert!(found.checks.is_empty(), "{files:?}");
            found.hints.iter().map(|hint| format!("{}: {}", hint.file, hint.text)).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(named(&[("pom.xml", "")]), "pom.xml: a Maven build, usually verified by mvn -q test");
        assert_eq!(
            named(&[("gradlew", ""), ("build.gradle", "")]),
            "gradlew: a Gradle build, usually verified by ./gradlew test"
        );
        assert!(named(&[("Gemfile", ""), ("Rakefile", "")]).starts_with("Gemfile: a Bundler build"));
        assert!(named(&[("configure.ac", ""), ("Makefile", "all:\n")]).ends_with("make check'"));
        assert_eq!(named(&[("Makefile", "all:\n")]), "Makefile: no target test or check");
        assert_eq!(named(&[("package.json", "{}")]), "package.json: no script \"test\"");
        assert!(named(&[("CMakeLists.txt", "project(x)")]).contains("without tests"));
        assert!(named(&[("setup.py", "")]).contains("without a tests folder"));
        assert_eq!(
            named(&[("web/package.json", ""), ("README.md", "")]),
            "web/package.json: a build in a subfolder, verified by sh -c 'cd web && …'"
        );
        assert_eq!(named(&[("README.md", "")]), "");
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
        let project = Project {
            checks: vec![check.clone()],
            setup: vec![words(&["npm", "ci"]), words(&["true"])],
            setup_inputs: words(&["a \"b\""]),
            cache: words(&["node_modules/"]),
            hints: Vec::new(),
        };
        let text = config_text(coord_db::config::DEFAULT_TEXT, &project, &[&KNOWN_AGENTS[1]], &["HTTPS_PROXY"]);
        let config = Config::parse(&text, Path::new("config.toml")).unwrap();
        let [read] = &config.gate.check[..] else { panic!("{text}") };
        assert_eq!((read.name.as_str(), &read.command), (check.name, &check.command));
        let mut passed = Config::default().agent.environment;
        passed.push("HTTPS_PROXY".to_owned());
        assert_eq!(config.agent.environment, passed);
        let workspace = &config.workspace;
        assert_eq!(
            (&workspace.setup, &workspace.setup_inputs, &workspace.cache),
            (&project.setup, &project.setup_inputs, &project.cache)
        );
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("; found here")).collect();
        assert!(matches!(marked[..], [header] if header.starts_with("# Codex")), "{marked:?}");
        assert_eq!(config_text(coord_db::config::DEFAULT_TEXT, &Project::default(), &[], &[]), coord_db::config::DEFAULT_TEXT);
    }
}
