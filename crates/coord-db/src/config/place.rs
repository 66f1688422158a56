//! Where a setting stands in its file, as the parser has it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line of a byte, from 1.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// The line of the last key of a path that is in the text; items of an array are named by their number.
pub(super) fn line_of(text: &str, path: &[String]) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 1 };
    let mut at = 0..0;
    let mut children = children_of_table(document.get_ref());
    for name in path {
        let Some((_, place, value)) = children.into_iter().find(|(key, ..)| key == name) else { break };
        at = place;
        children = children_of(value);
    }
    line_at(text, at.start)
}

/// The key of the plain value that a byte is in, as `lease.ttl_seconds`.
pub(super) fn key_at(text: &str, at: usize) -> Option<String> {
    fn find(children: Vec<Child<'_>>, at: usize) -> Option<String> {
        children.into_iter().find_map(|(key, _, value)| match value.get_ref() {
            DeValue::Table(_) => Some(format!("{key}.{}", find(children_of(value), at)?)),
            DeValue::Array(_) => find(children_of(value), at)
                .map(|inner| format!("{key}.{inner}"))
                .or_else(|| value.span().contains(&at).then_some(key)),
            _ => value.span().contains(&at).then_some(key),
        })
    }
    find(children_of_table(DeTable::parse(text).ok()?.get_ref()), at)
}

/// A key, where it stands, and its value.
type Child<'a> = (String, Range<usize>, &'a Spanned<DeValue<'a>>);

fn children_of_table<'a>(table: &'a DeTable<'a>) -> Vec<Child<'a>> {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), key.span(), value)).collect()
}

fn children_of<'a>(value: &'a Spanned<DeValue<'a>>) -> Vec<Child<'a>> {
    match value.get_ref() {
        DeValue::Table(table) => children_of_table(table),
        DeValue::Array(items) => {
            items.iter().enumerate().map(|(number, item)| (number.to_string(), item.span(), item)).collect()
        }
        _ => Vec::new(),
    }
}
