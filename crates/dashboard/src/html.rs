//! Pieces that every page is made of. All text from the database passes through [`text`] or [`block`].

use coord_db::{TestId, Timestamp};
use maud::{Markup, html};
use views::ids::Short;
use views::text;
pub use views::text::grouped as number;
use views::when::clock;

/// The maximum length of text on one line, in characters.
const MAX_LINE: usize = 600;
/// The maximum size of a block of text, in bytes.
pub const MAX_BLOCK: usize = 16 * 1024;
/// The maximum size of a difference, in bytes.
pub const MAX_PATCH: usize = 64 * 1024;

/// Text on one line: escaped for people here and for the browser by maud, and not too long.
#[must_use]
pub fn line(given: &str) -> String {
    text::shortened(&text::one_line(&text::beginning(given, 8 * MAX_LINE)), MAX_LINE)
}

/// The end of a block of output, in which causes are found.
#[must_use]
pub fn block_end(given: &str) -> String {
    text::safe_block(text::end(given, MAX_BLOCK).trim_end())
}

/// The beginning of a block of text.
#[must_use]
pub fn block(given: &str) -> String {
    text::safe_block(text::beginning(given, MAX_BLOCK).trim_end())
}

/// A moment, by the clock. The browser shows it in its own time zone.
#[must_use]
pub fn at(time: Timestamp) -> Markup {
    html! { time datetime=(time.to_rfc3339()) title=(clock(time)) data-at=(time.as_millis()) { (clock(time)) } }
}

/// The time since a moment. The browser counts it: a page does not change because time passes.
#[must_use]
pub fn since(time: Timestamp) -> Markup {
    html! { time datetime=(time.to_rfc3339()) title=(clock(time)) data-since=(time.as_millis()) { (clock(time)) } }
}

/// The time until a moment, counted by the browser.
#[must_use]
pub fn until(time: Timestamp) -> Markup {
    html! { time datetime=(time.to_rfc3339()) title=(clock(time)) data-until=(time.as_millis()) { (clock(time)) } }
}

/// A test, as a link to its page.
#[must_use]
pub fn test(id: &TestId) -> Markup {
    html! { a.id href={ "/tests/" (id) } { (id) } }
}

/// A test that a text column names; a link if it can be one.
#[must_use]
pub fn named_test(id: &str) -> Markup {
    id.parse::<TestId>().map_or_else(|_| html! { (line(id)) }, |id| test(&id))
}

/// The short form of an id; what is enough of it to type is in bold.
#[must_use]
pub fn short_id(short: &Short, id: &str) -> Markup {
    let shown = line(short.get(id));
    let at = shown.char_indices().rev().take(short.enough(id)).last().map_or(shown.len(), |(at, _)| at);
    html! { span.id { (shown[..at]) b { (shown[at..]) } } }
}

/// A word with a mark beside it, so that it reads without colour. `kind` is a class of the style sheet.
#[must_use]
pub fn badge(kind: &str, word: &str) -> Markup {
    html! { span class={ "badge " (kind) } { (word) } }
}

/// A share of a limit as a bar with its number, louder near the limit.
#[must_use]
pub fn meter(percent: i64) -> Markup {
    let kind = match percent {
        ..80 => "low",
        80..95 => "high",
        _ => "full",
    };
    bar(percent, kind)
}

/// A share of a whole as a bar with its number.
#[must_use]
pub fn share(percent: i64) -> Markup {
    bar(percent, "low")
}

fn bar(percent: i64, kind: &str) -> Markup {
    html! {
        span.meter title={ (percent) " %" } {
            svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
                rect.rest width="100" height="8" {}
                rect class={ "used " (kind) } width=(percent.clamp(0, 100)) height="8" {}
            }
            span { (percent) " %" }
        }
    }
}

/// Parts of a whole, side by side: the share of each, with its class.
#[must_use]
pub fn shares(parts: &[(&str, i64)]) -> Markup {
    let total = parts.iter().map(|(_, number)| number.max(&0)).sum::<i64>().max(1);
    let mut from = 0;
    html! {
        svg.shares viewBox={ "0 0 " (total) " 8" } preserveAspectRatio="none" aria-hidden="true" {
            @for (class, number) in parts.iter().filter(|(_, number)| *number > 0) {
                rect class=(class) x=({ let x = from; from += number; x }) width=(number) height="8" {}
            }
        }
    }
}

/// Money in millionths of a dollar; nothing if none is known.
#[must_use]
pub fn money(microusd: i64) -> String {
    if microusd == 0 { "–".to_owned() } else { coord_db::dollars(microusd) }
}

/// What there is where nothing is.
#[must_use]
pub fn nothing(what: &str) -> Markup {
    html! { p.nothing { (what) } }
}

/// A difference as git writes it, with its lines marked; if it is longer than [`MAX_PATCH`], its beginning, and the command that
/// shows all of it.
#[must_use]
pub fn patch(given: &str, whole: &str) -> Markup {
    let is_cut = given.len() > MAX_PATCH;
    let end = (0..=given.len().min(MAX_PATCH)).rev().find(|at| given.is_char_boundary(*at)).unwrap_or(0);
    let shown = text::safe_block(given[..end].trim_end());
    let class = |line: &str| match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => "file",
        [b'd', b'i', b'f', b'f', ..] => "head",
        [b'@', b'@', ..] => "place",
        [b'+', ..] => "added",
        [b'-', ..] => "removed",
        _ => "",
    };
    html! {
        @if shown.is_empty() {
            (nothing("no difference"))
        } @else {
            pre.patch tabindex="0" {
                @for line in shown.lines() {
                    span class=(class(line)) { (line) "\n" }
                }
            }
            @if is_cut { p.quiet { "It is longer. All of it: " code { (text::safe(whole)) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let shown = html! { (line("<script>alert(1)</script>\u{202e}\n\x1b[2J")) }.into_string();
        assert_eq!(shown, "&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}; \\x1b[2J");
        let megabyte = "<b>".repeat(400_000);
        assert!(line(&megabyte).len() < 1_000 && block(&megabyte).len() < 20_000 && block_end(&megabyte).len() < 20_000);
        let short = patch("+<img src=x onerror=alert(1)>\n-\u{2066}a\n", "git diff").into_string();
        assert!(!short.contains("<img") && short.contains("\\u{2066}") && !short.contains("git diff"), "{short}");
        let long = patch(&"+ä<b>\n".repeat(40_000), "git diff a b").into_string();
        assert!(long.contains("It is longer") && long.contains("git diff a b") && !long.contains("<b>"));
    }
}
