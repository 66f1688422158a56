//! The commands and settings that the documents show, so that tests can run them.

use crate::project;

/// The documents whose fenced blocks are run.
pub const DOCUMENTS: [&str; 4] = ["README.md", "systemd/README.md", "crates/coding-loop/README.md", "CONTRIBUTING.md"];

/// A fenced block of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The heading above it, without its signs.
    pub heading: String,
    /// What follows the fence: `bash`, `toml`.
    pub kind: String,
    /// What is in it.
    pub text: String,
}

/// The text of a document, by its path in the project.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn text(document: &str) -> String {
    std::fs::read_to_string(project().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The fenced blocks of a document that have a kind, in order.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn blocks(document: &str) -> Vec<Block> {
    let (mut blocks, mut heading) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for line in text(document).lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(kind), None) => {
                open = Some(Block { heading: heading.clone(), kind: kind.to_owned(), text: String::new() });
            }
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) if line.starts_with('#') => line.trim_start_matches('#').trim().clone_into(&mut heading),
            (None, None) => {}
        }
    }
    blocks.retain(|block| !block.kind.is_empty());
    blocks
}

/// The only block of a kind below a heading.
///
/// # Panics
/// If there is none, or more than one.
#[must_use]
pub fn block(document: &str, heading: &str, kind: &str) -> String {
    let found: Vec<Block> =
        blocks(document).into_iter().filter(|block| block.heading == heading && block.kind == kind).collect();
    let [block] = &found[..] else { panic!("{} blocks of {kind} below {heading:?} in {document}", found.len()) };
    block.text.clone()
}

/// The commands of a block, without their comments.
pub fn lines(block: &str) -> impl Iterator<Item = &str> {
    block.lines().map(|line| line.split("  #").next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}
