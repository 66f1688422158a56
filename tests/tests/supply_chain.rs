//! What the build is made of, against `deny.toml`, offline: bans, licences, sources, and no crate twice without a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;
use system_tests::project;

#[derive(Deserialize)]
struct Deny {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Named>,
    deny: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
    /// The crates that may depend on it all the same.
    #[serde(default)]
    wrappers: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

fn deny() -> Deny {
    toml::from_str(&std::fs::read_to_string(project().join("deny.toml")).unwrap()).unwrap()
}

/// What is really in the build for the first target: platforms that are not built are not downloaded either. With the names of
/// the crates that depend on each directly.
fn packages(deny: &Deny) -> Vec<(Package, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform", &deny.graph.targets[0]])
        .current_dir(project())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    let names: BTreeMap<String, String> =
        metadata.packages.iter().map(|package| (package.id.clone(), package.name.clone())).collect();
    let mut used: BTreeMap<String, BTreeSet<String>> =
        metadata.resolve.nodes.iter().map(|node| (node.id.clone(), BTreeSet::new())).collect();
    for node in &metadata.resolve.nodes {
        for dependency in &node.dependencies {
            used.entry(dependency.clone()).or_default().insert(names[&node.id].clone());
        }
    }
    metadata
        .packages
        .into_iter()
        .filter_map(|package| Some((used.remove(&package.id)?, package)))
        .map(|(by, package)| (package, by))
        .collect()
}

/// True if an SPDX expression can be met with what is allowed. `/` is an old way to write OR.
fn can_be_met(expression: &str, allow: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = alternatives(&words, &mut at, allow);
    met && at == words.len()
}

fn alternatives(words: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allow);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allow);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allow);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allow);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = alternatives(words, at, allow);
        *at += 1;
        return met;
    }
    // An exception gives more leave than the licence alone.
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    allow.contains(word)
}

#[test]
fn expressions_of_licences_are_understood() {
    let allow = BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "Unicode-3.0".to_owned()]);
    for met in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(can_be_met(met, &allow), "{met}");
    }
    for not in ["GPL-3.0", "MIT AND GPL-3.0", "", "(MIT OR Apache-2.0) AND GPL-2.0"] {
        assert!(!can_be_met(not, &allow), "{not}");
    }
}

#[test]
fn licences_and_sources_are_allowed_and_nothing_banned_comes_in() {
    let deny = deny();
    for (package, used_by) in packages(&deny) {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.unwrap_or_default();
        assert!(
            can_be_met(&licence, &deny.licenses.allow),
            "{name} is under {licence:?}; allow that in deny.toml or do without it"
        );
        if let Some(source) = package.source {
            let registry = source.strip_prefix("registry+").unwrap_or(&source);
            assert!(deny.sources.allow_registry.iter().any(|allowed| allowed == registry), "{name} comes from {source}");
        }
        if let Some(ban) = deny.bans.deny.iter().find(|ban| ban.name == package.name) {
            let others: BTreeSet<_> = used_by.difference(&ban.wrappers).collect();
            assert!(!ban.wrappers.is_empty() && others.is_empty(), "{name} is banned, used by {used_by:?}: {}", ban.reason);
        }
    }
}

#[test]
fn no_crate_comes_twice_without_a_reason() {
    let deny = deny();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (package, _) in packages(&deny) {
        versions.entry(package.name).or_default().insert(package.version);
    }
    let skipped = |name: &str, version: &str| {
        deny.bans.skip.iter().any(|skip| {
            let (skip, prefix) = skip.name.split_once('@').unwrap_or((&skip.name, ""));
            skip == name && (version == prefix || version.starts_with(&format!("{prefix}.")))
        })
    };
    for (name, all) in &versions {
        let counted: Vec<&String> = all.iter().filter(|version| !skipped(name, version)).collect();
        assert!(counted.len() <= 1, "{name} comes as {counted:?}: bring them together, or give the reason in deny.toml");
    }
    for skip in &deny.bans.skip {
        let name = skip.name.split('@').next().unwrap();
        assert!(versions.get(name).is_some_and(|all| all.len() > 1), "{name} comes once; deny.toml need not excuse it");
        assert!(!skip.reason.is_empty());
    }
}
