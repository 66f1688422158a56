//! `schema/README.md` and the code name the same tables, columns and events.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::payload::CATALOG;

const REFERENCE: &str = include_str!("../../../../schema/README.md");
const SCHEMA: &str = include_str!("../../../../schema/schema.sql");

/// Every word in backticks of a line.
fn ticked(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_event_stands_in_the_reference_with_its_fields() {
    let table = REFERENCE.split("## Events").nth(1).unwrap();
    let mut documented: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let fields = cells[2].split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect::<String>();
        for event in ticked(cells[0]) {
            documented.insert(event, ticked(&fields).into_iter().map(|text| text.to_owned().leak() as &str).collect());
        }
    }
    let known: BTreeMap<&str, BTreeSet<&str>> =
        CATALOG.iter().map(|(name, fields)| (*name, fields.iter().copied().collect())).collect();
    assert_eq!(documented, known);
}

/// What the reference says of a table: the section under its heading, or its columns in brackets behind its name.
fn about(table: &str) -> Option<BTreeSet<&'static str>> {
    let is_heading = |line: &str| ticked(line).contains(&table);
    let section = REFERENCE.split("\n### ").skip(1).find(|section| section.lines().next().is_some_and(is_heading));
    let section = section.and_then(|section| section.split("\n## ").next());
    let columns = || REFERENCE.split(&format!("`{table}` + (")).nth(1)?.split(')').next();
    Some(section.or_else(columns)?.lines().flat_map(ticked).collect())
}

#[test]
fn every_table_column_view_and_trigger_stands_in_the_reference() {
    let words: BTreeSet<&str> = REFERENCE.lines().flat_map(ticked).collect();
    let mut missing = Vec::new();
    let mut table: Option<(&str, BTreeSet<&str>)> = None;
    for line in SCHEMA.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        for kind in ["CREATE TABLE ", "CREATE VIEW ", "CREATE TRIGGER "] {
            if let Some(rest) = line.strip_prefix(kind) {
                let name = rest.split_whitespace().next().unwrap();
                let documented = if kind == "CREATE TABLE " { about(name) } else { words.contains(name).then(BTreeSet::new) };
                match documented {
                    Some(columns) => table = (kind == "CREATE TABLE ").then_some((name, columns)),
                    None => missing.push(name.to_owned()),
                }
            }
        }
        if line.starts_with(')') {
            table = None;
        }
        let is_column =
            line.starts_with("  ") && first.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !first.is_empty();
        if let Some((name, columns)) = table.as_ref().filter(|_| is_column)
            && !columns.contains(first)
        {
            missing.push(format!("{name}.{first}"));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}
