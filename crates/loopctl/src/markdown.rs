//! Text from the database inside Markdown.

use views::text::{one_line, safe_block};

/// Text without markup.
#[must_use]
pub fn literal(text: &str) -> String {
    let mut literal = String::new();
    for character in one_line(text).chars() {
        if "\\`*_{}[]<>#|!".contains(character) {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal
}

/// Text between backticks.
#[must_use]
pub fn code(text: &str) -> String {
    one_line(text).replace('`', "'")
}

/// A block of text, in a fence that nothing in it can close.
#[must_use]
pub fn block(text: &str) -> String {
    let text = safe_block(text);
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_write_is_no_markup() {
        assert_eq!(literal("a [link](x) <b>`c`\n# d"), "a \\[link\\](x) \\<b\\>\\`c\\`; \\# d");
        assert_eq!(code("a`b"), "a'b");
        assert_eq!(block("a ``` b"), "````text\na ``` b\n````\n");
    }
}
