//! Text for a terminal: without control characters, on one line, or no longer than its place.

use std::fmt::Write as _;

/// True for what a terminal could take as more than text: controls, line and paragraph separators, and the marks that
/// turn the direction of writing.
#[must_use]
pub fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// One line of text without anything that a terminal could act on: `\n`, `\t`, `\x1b`, `\u{202e}`.
#[must_use]
pub fn safe(text: &str) -> String {
    escape(text, |_| false)
}

/// As [`safe`], but line breaks and tabs stay.
#[must_use]
pub fn safe_block(text: &str) -> String {
    escape(&text.replace("\r\n", "\n"), |character| matches!(character, '\n' | '\t'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            kept if keep(kept) => out.push(kept),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            hostile if is_hostile(hostile) => {
                let code = u32::from(hostile);
                let _ = if code < 0x100 { write!(out, "\\x{code:02x}") } else { write!(out, "\\u{{{code:x}}}") };
            }
            harmless => out.push(harmless),
        }
    }
    out
}

/// Text of several lines as one line: `a; b`.
#[must_use]
pub fn one_line(text: &str) -> String {
    let is_between = |character: char| character.is_whitespace() || character == ';';
    let lines: Vec<&str> = text.lines().map(|line| line.trim_matches(is_between)).filter(|line| !line.is_empty()).collect();
    safe(&lines.join("; "))
}

/// The maximum length of what a row says, where it stands among others, in characters.
const BRIEF: usize = 600;

/// Text of several lines as one line of a bearable length.
#[must_use]
pub fn brief(text: &str) -> String {
    shortened(&one_line(text), BRIEF)
}

/// At most `max` characters: the beginning and the end, with an ellipsis for what is between. Causes stand at the end.
#[must_use]
pub fn shortened(text: &str, max: usize) -> String {
    let count = text.chars().count();
    if count <= max {
        return text.to_owned();
    }
    let end = max / 2;
    let beginning: String = text.chars().take(max.saturating_sub(end + 3)).collect();
    let end: String = text.chars().skip(count - end).collect();
    format!("{} … {}", beginning.trim_end(), end.trim_start())
}

/// The beginning of a long text, in at most `max` bytes, with the size of the rest.
#[must_use]
pub fn beginning(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let cut = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let cut = text[..cut].rfind('\n').map_or(cut, |line| line + 1);
    format!("{}[{} bytes more]", &text[..cut], text.len() - cut)
}

/// The end of a long text, as [`beginning`].
#[must_use]
pub fn end(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let cut = (text.len() - max..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let cut = text[cut..].find('\n').map_or(cut, |line| cut + line + 1);
    format!("[{cut} bytes before this]\n{}", &text[cut..])
}

/// A number with a narrow space between its thousands: `1 234 567`.
#[must_use]
pub fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = if value < 0 { String::from("-") } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Lines of at most `width` characters, broken at spaces where there are any.
#[must_use]
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let space = rest[..=width].iter().rposition(|character| *character == ' ').filter(|at| *at > 0);
        let line: String = rest.drain(..space.unwrap_or(width)).collect();
        lines.push(line.trim_end().to_owned());
        let spaces = rest.iter().take_while(|character| **character == ' ').count();
        rest.drain(..spaces);
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through() {
        assert_eq!(safe("a\x1b[2Jb\u{9b}c\u{7f}\r\n\t\u{202e}ä"), "a\\x1b[2Jb\\x9bc\\x7f\\r\\n\\t\\u{202e}ä");
        assert_eq!(safe_block("a\r\nb\tc\x07"), "a\nb\tc\\x07");
        assert_eq!(one_line("a\r\n\n  b\x07\n"), "a; b\\x07");
        assert_eq!(one_line("failed: a;\nb\n; it is retried"), "failed: a; b; it is retried");
    }

    #[test]
    fn long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("it began well and then the disk was full", 25), "it began w … isk was full");
        assert_eq!((brief("a\nb"), brief(&"x".repeat(1 << 20)).chars().count()), ("a; b".to_owned(), 600));
        assert_eq!(wrapped("a bb ccc dddddddd e", 4), ["a bb", "ccc", "dddd", "dddd", "e"]);
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!((beginning("a\nb", 3), end("a\nb", 3)), ("a\nb".to_owned(), "a\nb".to_owned()));
        assert_eq!(beginning("a\nä\nb", 3), "a\n[4 bytes more]");
        assert_eq!(beginning("ää", 3), "ä[2 bytes more]");
        assert_eq!(end("a\nä\nb", 3), "[5 bytes before this]\nb");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([12, -1000, 1_234_567].map(grouped), ["12", "-1\u{202f}000", "1\u{202f}234\u{202f}567"]);
    }
}
