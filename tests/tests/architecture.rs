//! The architecture as a test: which crate may depend on which, no cycle between the files of a crate, no file too long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 700;

/// The crates of this workspace that each may depend on. For tests each may also use those in `IN_TESTS`.
const MAY_DEPEND_ON: [(&str, &[&str]); 16] = [
    ("coord-db", &[]),
    ("crash-point", &[]),
    ("command-runner", &["crash-point"]),
    ("git", &["command-runner", "crash-point"]),
    ("process-host", &["coord-db"]),
    ("supervisor", &["coord-db", "crash-point", "process-host"]),
    ("deadlock-detector", &["coord-db", "supervisor"]),
    ("heartbeat", &["command-runner", "coord-db", "supervisor"]),
    ("pm-agent", &["command-runner", "coord-db", "supervisor"]),
    ("monitor", &["coord-db", "git", "supervisor"]),
    ("regression-checker", &["command-runner", "coord-db", "crash-point", "git", "supervisor"]),
    ("coding-loop", &["command-runner", "coord-db", "crash-point", "git", "process-host"]),
    ("views", &["coding-loop", "coord-db", "git", "process-host"]),
    ("dashboard", &["coord-db", "git", "process-host", "views"]),
    (
        "loopctl",
        &[
            "coding-loop",
            "command-runner",
            "coord-db",
            "dashboard",
            "deadlock-detector",
            "git",
            "process-host",
            "supervisor",
            "views",
        ],
    ),
    ("test-support", &["coord-db"]),
];

const IN_TESTS: [&str; 2] = ["coord-db", "test-support"];

fn crates() -> PathBuf {
    system_tests::project().join("crates")
}

fn manifest(name: &str) -> toml::Table {
    fs::read_to_string(crates().join(name).join("Cargo.toml")).unwrap().parse().unwrap()
}

fn names(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    manifest.get(section).and_then(toml::Value::as_table).into_iter().flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn crates_depend_only_on_what_is_below_them() {
    let own: BTreeSet<String> = fs::read_dir(crates())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<String> = MAY_DEPEND_ON.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(own, listed, "add a new crate to the list, with what it may depend on");
    let mut wrong = Vec::new();
    for (name, allowed) in MAY_DEPEND_ON {
        let manifest = manifest(name);
        let (used, tests) = (names(&manifest, "dependencies"), names(&manifest, "dev-dependencies"));
        wrong.extend(
            used.intersection(&own).filter(|used| !allowed.contains(&used.as_str())).map(|used| format!("{name} → {used}")),
        );
        let in_tests = |used: &&String| !allowed.contains(&used.as_str()) && !IN_TESTS.contains(&used.as_str());
        wrong.extend(tests.intersection(&own).filter(in_tests).map(|used| format!("{name} → {used} in tests")));
        for engine in ["rusqlite", "tokio-postgres"] {
            if used.contains(engine) != (name == "coord-db") {
                wrong.push(format!("{name}: {engine} is for coord-db alone"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is no Rust has lists of its own.
#[test]
fn every_list_of_the_supervisors_has_all_of_them() {
    let lists = [
        "README.md",
        "crates/README.md",
        "schema/postgres/schema.sql",
        "schema/schema.sql",
        "scripts/install.sh",
        "scripts/launch.sh",
        "systemd/README.md",
        "systemd/coding-loops@.target",
        "tests/python/bad_rows.py",
        "tests/real_project/run.py",
    ];
    let mut missing = Vec::new();
    for each in coord_db::SUPERVISORS {
        let unit = format!("systemd/coding-loops-{}@.service", each.program);
        for list in lists.into_iter().chain([unit.as_str()]) {
            let text = fs::read_to_string(system_tests::project().join(list)).unwrap_or_default();
            if !text.contains(each.program) || (list.starts_with("schema") && !text.contains(&format!("'{}'", each.id))) {
                missing.push(format!("{} in {list}", each.program));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The modules of a crate with their code, without comments and unit tests.
fn modules(source: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in rust_files(source) {
        let path = file.strip_prefix(source).unwrap().with_extension("");
        let mut parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        if parts.contains(&"tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        // What only tests call is no part of the structure.
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let mut code = String::new();
        let mut skip = false;
        for line in lines {
            if !std::mem::replace(&mut skip, line.trim() == "#[cfg(test)]") {
                code.push_str(line);
                code.push('\n');
            }
        }
        found.insert(parts.join("::"), code);
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                found.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// What `use` trees after `prefix` name, each as a path: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn named_after(code: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        expand(&code[at + prefix.len()..], "", &mut found);
    }
    found
}

/// Expands one tree and gives how long it is.
fn expand(code: &str, before: &str, found: &mut Vec<String>) -> usize {
    let mut at = code.find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':')).unwrap_or(code.len());
    let path = format!("{before}{}", &code[..at]);
    if !code[at..].starts_with('{') {
        found.push(path.trim_end_matches(':').to_owned());
        return at;
    }
    at += 1;
    while !code[at..].is_empty() && !code[at..].starts_with('}') {
        let skipped = code[at..].find(|letter: char| letter.is_alphanumeric() || letter == '_' || letter == '}');
        at += skipped.unwrap_or(code.len() - at);
        if !code[at..].starts_with('}') {
            at += expand(&code[at..], &path, found);
        }
    }
    (at + 1).min(code.len())
}

/// What a crate's root gives other names to, by name.
fn exported(root: &str) -> BTreeMap<String, String> {
    let mut found = Vec::new();
    for line in root.split(';') {
        if let Some((_, tree)) = line.split_once("pub use ").or_else(|| line.split_once("pub(crate) use ")) {
            expand(tree, "", &mut found);
        }
    }
    found.into_iter().map(|path| (path.rsplit("::").next().unwrap_or_default().to_owned(), path)).collect()
}

/// The module that a path lies in; none outside of the crate.
fn module_of(path: &str, modules: &BTreeMap<String, String>, exported: &BTreeMap<String, String>) -> Option<String> {
    let parts: Vec<&str> = path.split("::").collect();
    let known = (1..=parts.len()).rev().map(|count| parts[..count].join("::")).find(|name| modules.contains_key(name));
    known.or_else(|| {
        let path = exported.get(parts[0])?;
        (path != parts[0]).then(|| module_of(path, modules, exported))?
    })
}

/// The modules that lie in a cycle, each with those of the cycle that it uses.
fn cycles(source: &Path) -> Vec<String> {
    let mut modules = modules(source);
    let exported = exported(modules.get("lib").map_or("", String::as_str));
    modules.retain(|name, _| name != "lib" && name != "main");
    let mut uses: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, code) in &modules {
        let mut paths = named_after(code, "crate::");
        if let Some((parent, _)) = name.rsplit_once("::") {
            paths.extend(named_after(code, "super::").into_iter().map(|path| format!("{parent}::{path}")));
        }
        let found = paths.iter().filter_map(|path| module_of(path, &modules, &exported));
        uses.insert(name, found.filter(|used| used != name).collect());
    }
    // A parent lists its children; that a child uses its parent is no cycle of its own.
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(at) = next.pop() {
            for used in uses.get(at.as_str()).into_iter().flatten() {
                if used == to {
                    return true;
                }
                if seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        false
    };
    let pairs = uses.iter().flat_map(|(name, used)| used.iter().map(move |used| (*name, used.as_str())));
    pairs.filter(|(name, used)| reaches(used, name)).map(|(name, used)| format!("{name} → {used}")).collect()
}

#[test]
fn files_of_a_crate_form_no_cycle() {
    let mut wrong = Vec::new();
    for (name, _) in MAY_DEPEND_ON {
        let source = crates().join(name).join("src");
        assert!(!modules(&source).is_empty(), "{name} has files");
        wrong.extend(cycles(&source).into_iter().map(|pair| format!("{name}: {pair}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_cycle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, code: &str| fs::write(folder.path().join(name), code).unwrap();
    file("lib.rs", "mod a;\nmod b;\nmod c;\npub use b::{Thing, Other as Renamed};\n");
    file("a.rs", "use std::fs;\nuse crate::{Thing, c};\n");
    file("b.rs", "use crate::c::{self, Deep};\n");
    file("c.rs", "// crate::b\npub struct Deep;\n#[cfg(test)]\nmod tests { use crate::b; }\n");
    assert_eq!(cycles(folder.path()), Vec::<String>::new());
    file("c.rs", "fn f() { crate::a::g() }\n");
    assert_eq!(cycles(folder.path()), ["a → b", "a → c", "b → c", "c → a"]);
}

#[test]
fn no_file_is_too_long() {
    let project = system_tests::project();
    let files = rust_files(&project.join("crates")).into_iter().chain(rust_files(&project.join("tests")));
    let lines = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<String> = files
        .map(|file| (lines(&file), file))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines; divide it", file.display()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}
