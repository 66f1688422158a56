//! What reaches the terminal: JSON, plain text or colour. Anything that comes from the database passes [`safe`] first ([`views::text`]).

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use serde::Serialize;
use views::ids::Short;
use views::text::{is_hostile, one_line, safe, safe_block, wrapped};

use crate::exit::Outcome;

/// JSON as text, with escapes for what JSON itself lets through but a terminal does not.
fn json_text(value: &impl Serialize, pretty: bool) -> String {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    let text = text.unwrap_or_else(|_| "null".to_owned());
    if !text.chars().any(|character| character != '\n' && is_hostile(character)) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character != '\n' && is_hostile(character) {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

/// A colour or weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Paint {
    Plain,
    Bold,
    /// The number of characters at its end that are bold.
    BoldEnd(usize),
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
}

/// Where and how to print.
#[derive(Debug, Clone)]
pub struct Out {
    /// JSON instead of text.
    pub json: bool,
    /// No confirmations.
    pub quiet: bool,
    /// Whether colour is wanted.
    pub colour: bool,
    /// Columns that fit; none if nobody counts them.
    pub width: Option<usize>,
}

impl Out {
    /// As the options, the terminal and the environment ask for.
    #[must_use]
    pub fn new(json: bool, quiet: bool, no_color: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, quiet, colour: terminal && !no_color && !dumb, width: if terminal { Some(size().0) } else { None } }
    }

    /// Text in a colour, if colour is wanted. The text must be safe already.
    #[must_use]
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            _ if !self.colour || text.is_empty() => return text.to_owned(),
            Paint::Plain | Paint::BoldEnd(0) => return text.to_owned(),
            Paint::BoldEnd(count) => {
                let at = text.char_indices().rev().take(count).last().map_or(text.len(), |(at, _)| at);
                return format!("{}\x1b[1m{}\x1b[0m", &text[..at], &text[at..]);
            }
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Red => "31",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Blue => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Text behind what stands before it, on as many lines as the terminal needs; the text is made safe.
    #[must_use]
    pub fn folded(&self, before: &str, paint: Paint, text: &str) -> String {
        let indent = before.chars().count();
        let room = self.width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(NARROWEST));
        let lines: Vec<String> = wrapped(&one_line(text), room).iter().map(|line| self.paint(paint, line)).collect();
        format!("{before}{}\n", lines.join(&format!("\n{}", " ".repeat(indent))))
    }

    /// One JSON document.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn document(&self, value: &impl Serialize) -> Outcome {
        self.raw(&(json_text(value, true) + "\n"))
    }

    /// One line of JSON Lines.
    ///
    /// # Errors
    /// As [`Out::document`].
    pub fn json_line(&self, value: &impl Serialize) -> Outcome {
        self.raw(&(json_text(value, false) + "\n"))
    }

    /// Says what is being done and for how long, to a person who waits at a terminal for more than a second, until the
    /// answer is dropped. Never in JSON, never where stderr is no terminal.
    #[must_use]
    pub fn working(&self, what: impl Into<String>) -> Working {
        if self.quiet || self.json || !std::io::stderr().is_terminal() {
            return Working(None);
        }
        let (ended, ending) = std::sync::mpsc::channel::<()>();
        let what = safe(&what.into());
        let shown = std::thread::spawn(move || {
            let begun = std::time::Instant::now();
            let mut said = false;
            while ending.recv_timeout(std::time::Duration::from_secs(1)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprint!("\r\x1b[K{what}, for {} s", begun.elapsed().as_secs());
                said = true;
            }
            if said {
                eprint!("\r\x1b[K");
            }
        });
        Working(Some((ended, shown)))
    }

    /// Lines of text, made safe already.
    ///
    /// # Errors
    /// As [`Out::document`].
    pub fn text(&self, text: &str) -> Outcome {
        if text.is_empty() || text.ends_with('\n') { self.raw(text) } else { self.raw(&format!("{text}\n")) }
    }

    /// A confirmation: JSON, or a sentence unless it is to be quiet.
    ///
    /// # Errors
    /// As [`Out::document`].
    pub fn done(&self, value: &impl Serialize, sentence: &str) -> Outcome {
        match (self.json, self.quiet) {
            (true, _) => self.document(value),
            (false, true) => Ok(()),
            (false, false) => self.text(&safe_block(sentence)),
        }
    }

    /// An answer that a script may want even from a quiet command: JSON, or a bare value.
    ///
    /// # Errors
    /// As [`Out::document`].
    pub fn answer(&self, value: &impl Serialize, bare: &str) -> Outcome {
        if self.json { self.document(value) } else { self.text(&safe_block(bare)) }
    }

    /// A list: JSON, or a table, or what to say if it is empty.
    ///
    /// # Errors
    /// As [`Out::document`].
    pub fn list<T: Serialize>(&self, rows: &[T], empty: &str, table: impl FnOnce(&[T]) -> Table) -> Outcome {
        match (self.json, rows.is_empty()) {
            (true, _) => self.document(&rows),
            (false, true) if self.quiet => Ok(()),
            (false, true) => self.text(empty),
            (false, false) => self.text(&table(rows).render(self)),
        }
    }

    fn raw(&self, text: &str) -> Outcome {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}

/// What is being done, shown while this lives.
#[derive(Debug)]
pub struct Working(Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>);

impl Drop for Working {
    fn drop(&mut self) {
        if let Some((ended, shown)) = self.0.take() {
            drop(ended);
            drop(shown.join());
        }
    }
}

/// Columns and rows of the terminal.
#[must_use]
pub fn size() -> (usize, usize) {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok()).filter(|size| *size > 0);
    let window = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let columns = window.map(|window| usize::from(window.ws_col)).filter(|size| *size > 0);
    let rows = window.map(|window| usize::from(window.ws_row)).filter(|size| *size > 0);
    (columns.or_else(|| from_env("COLUMNS")).unwrap_or(80).max(20), rows.or_else(|| from_env("LINES")).unwrap_or(24).max(5))
}

/// One cell: its text, made safe, and its colour.
#[derive(Debug, Clone)]
pub struct Cell(Paint, String);

/// A cell without colour.
#[must_use]
pub fn plain(text: impl AsRef<str>) -> Cell {
    Cell(Paint::Plain, one_line(text.as_ref()))
}

/// A cell in a colour.
#[must_use]
pub fn painted(paint: Paint, text: impl AsRef<str>) -> Cell {
    Cell(paint, one_line(text.as_ref()))
}

/// A cell with the short form of an id; what is enough of it to type is in bold.
#[must_use]
pub fn id_cell(short: &Short, id: &str) -> Cell {
    painted(Paint::BoldEnd(short.enough(id)), short.get(id))
}

/// Aligned columns; text that does not fit goes on in the next line.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// A table of rows that are made from items.
    pub fn of<T>(head: &[&'static str], items: &[T], row: impl Fn(&T) -> Vec<Cell>) -> Self {
        Self { head: head.to_vec(), rows: items.iter().map(row).collect() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// The table as text. What does not fit beside the columns before it goes on in lines of its own: nothing is left out.
    #[must_use]
    pub fn render(&self, out: &Out) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|head| head.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.1.chars().count());
            }
        }
        let full = out.width.unwrap_or(usize::MAX);
        let mut text = String::new();
        let head: Vec<Cell> = self.head.iter().map(|head| Cell(Paint::Dim, (*head).to_owned())).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut used = 0_usize;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // The last column may be narrower than its text, but not too narrow to be read.
                let needed = if column + 1 == widths.len() { (*width).min(NARROWEST) } else { *width };
                if used > 0 && used.saturating_add(needed) > full {
                    text.truncate(text.trim_end_matches(' ').len());
                    text.push_str(CONTINUED);
                    used = CONTINUED.len() - 1;
                }
                let indent = " ".repeat(used);
                for (at, line) in wrapped(&cell.1, full.saturating_sub(used).max(NARROWEST)).iter().enumerate() {
                    if at > 0 {
                        text.push_str(&format!("\n{indent}"));
                    }
                    text.push_str(&out.paint(cell.0, line));
                }
                let padding = width - cell.1.chars().count().min(*width) + 2;
                text.extend(std::iter::repeat_n(' ', padding));
                used = used.saturating_add(width + 2);
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// What a column needs at least before it goes to a line of its own.
const NARROWEST: usize = 24;
const CONTINUED: &str = "\n    ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_nothing_that_a_terminal_acts_on() {
        let text = json_text(&"\u{9b}\x1b\u{7f}", false);
        assert_eq!(text, "\"\\u009b\\u001b\\u007f\"");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), "\u{9b}\x1b\u{7f}");
    }

    #[test]
    fn the_end_of_an_id_that_is_enough_is_bold() {
        let mut out = Out { json: false, quiet: false, colour: true, width: None };
        assert_eq!(out.paint(Paint::BoldEnd(4), "bf3dff63"), "bf3d\x1b[1mff63\x1b[0m");
        assert_eq!(out.paint(Paint::BoldEnd(9), "ä-1"), "\x1b[1mä-1\x1b[0m");
        assert_eq!(out.paint(Paint::BoldEnd(0), "d-1"), "d-1");
        out.colour = false;
        assert_eq!(out.paint(Paint::BoldEnd(4), "bf3dff63"), "bf3dff63");
    }

    #[test]
    fn tables_align_and_go_on_in_the_next_line() {
        let mut out = Out { json: false, quiet: false, colour: false, width: None };
        let table = Table::of(&["A", "B"], &[("x", "long text"), ("yyyy", "z")], |(a, b)| vec![plain(a), plain(b)]);
        assert_eq!(table.render(&out), "A     B\nx     long text\nyyyy  z\n");
        out.width = Some(30);
        let table = Table::of(&["A", "B"], &[("x", "a text that is longer than a line"), ("yyyy", "z")], |(a, b)| {
            vec![plain(a), plain(b)]
        });
        assert_eq!(table.render(&out), "A     B\nx     a text that is longer\n      than a line\nyyyy  z\n");
        out.width = Some(20);
        assert_eq!(table.render(&out), "A\n    B\nx\n    a text that is longer\n    than a line\nyyyy\n    z\n");
    }
}
