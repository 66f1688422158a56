//! `loopctl status --watch`: the page again whenever something changes, and each second for the ages in it. In a terminal with
//! keys: a loop or test, its output, answers to questions.

mod screen;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use coord_db::{Config, Database, DecisionId, Error, ReadTx};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use views::published::Seen;
use views::questions::{options, questions};
use views::text::{one_line, safe_block, wrapped};

use super::status::page;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::{Paint, size};
use crate::wait::{Waiter, Woken};
use screen::{Effect, Entry, HELP, List, Page, Screen, keys};

// A screen of its own, no cursor, no line that goes on in the next, and marks around pasted text.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[?2004h\x1b[H";
const LEAVE: &str = "\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Bytes of the end of a log that can be scrolled through.
const LOG_BYTES: u64 = 256 * 1024;

/// Gives the terminal back however the watch ends.
struct Terminal(Option<Termios>);

impl Terminal {
    /// Keys come at once and are not shown. Ctrl-C stays a signal; Ctrl-Z does not, because it would leave the terminal like this.
    fn take() -> Outcome<Self> {
        let before = std::io::stdin().is_terminal().then(|| tcgetattr(std::io::stdin())).and_then(Result::ok);
        if let Some(mut raw) = before.clone() {
            raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            raw.special_codes[SpecialCodeIndex::VMIN] = 1;
            raw.special_codes[SpecialCodeIndex::VTIME] = 0;
            raw.special_codes[SpecialCodeIndex::VSUSP] = 0;
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
        write(ENTER)?;
        Ok(Self(before))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Runs until Ctrl-C or `q`. Where the output is no terminal, each page that differs is printed after the last.
///
/// # Errors
/// As `status`.
pub fn run(cx: &Context, id: Option<&str>) -> Outcome {
    if cx.out.json {
        return Err(Failure::usage("--watch prints no JSON; use loopctl timeline --follow --json"));
    }
    let (db, config) = cx.open_with_config()?;
    let mut waiter = Waiter::new(db.path().unwrap_or(&cx.path));
    let mut seen = Seen::default();
    let last = page(cx, &db, &config, id, &mut seen)?;
    if std::io::stdout().is_terminal() {
        return with_keys(cx, &db, &config, id, seen, waiter);
    }
    write(&format!("{last}\n"))?;
    let mut last = last;
    while waiter.wait(Duration::from_secs(1)) != Woken::Interrupted {
        let now = page(cx, &db, &config, id, &mut seen)?;
        if now != last {
            write(&format!("{now}\n"))?;
        }
        last = now;
    }
    Ok(())
}

fn with_keys(cx: &Context, db: &Database, config: &Config, id: Option<&str>, seen: Seen, mut waiter: Waiter) -> Outcome {
    let cx = Context { global: cx.global.clone(), out: cx.out.clone(), path: cx.path.clone(), folder: cx.folder.clone() };
    let mut watch = Watch { cx, db, config, seen, screen: Screen::new(id), note: String::new() };
    let terminal = Terminal::take()?;
    if terminal.0.is_some() {
        waiter.read_keys();
    }
    let ended = watch.follow(&mut waiter);
    drop(terminal);
    // The last page stays to be read after the screen is given back.
    ended?;
    watch.screen = Screen::new(id);
    let text = page(&watch.cx, db, config, id, &mut watch.seen)?;
    Ok(write(&text)?)
}

struct Watch<'a> {
    cx: Context,
    db: &'a Database,
    config: &'a Config,
    seen: Seen,
    screen: Screen,
    /// The result of the last answer.
    note: String,
}

impl Watch<'_> {
    fn follow(&mut self, waiter: &mut Waiter) -> Outcome {
        loop {
            let (columns, rows) = size();
            self.cx.out.width = Some(columns);
            let entries = self.entries()?;
            let (lines, first, last) = self.lines(&entries, rows)?;
            self.screen.clamp(last);
            write(&frame(&lines, first, rows, &self.footer(&lines, rows)))?;
            let pressed = match waiter.wait(Duration::from_secs(1)) {
                Woken::Interrupted => return Ok(()),
                Woken::Look => continue,
                Woken::Keys(bytes) => keys(&bytes),
            };
            for key in pressed {
                // A key of the same burst acts on the page that the key before it has opened.
                let entries = self.entries()?;
                let (_, _, last) = self.lines(&entries, rows)?;
                self.note.clear();
                match self.screen.press(key, last, rows, &entries) {
                    Some(Effect::Quit) => return Ok(()),
                    Some(Effect::Answer(question, option)) => self.note = self.answer(&question, &option),
                    None => {}
                }
            }
        }
    }

    fn answer(&self, question: &str, option: &str) -> String {
        let answered = self.db.write(|tx| {
            let id: DecisionId = question.parse()?;
            tx.answer(&id, option, None, &self.cx.actor_or(None), "cli").map(drop)
        });
        match answered {
            Ok(()) => format!("answered with {option}"),
            Err(error) => Failure::from(error).sentence(),
        }
    }

    /// The entries of the list that is shown.
    fn entries(&self) -> Outcome<Vec<Entry>> {
        let Page::Choose(list) = self.screen.page() else { return Ok(Vec::new()) };
        Ok(self.db.read(|tx| listed(tx, list))?)
    }

    /// The lines of the page, the first that is shown, and the last place of the page.
    fn lines(&mut self, entries: &[Entry], rows: usize) -> Outcome<(Vec<String>, usize, usize)> {
        let room = rows.saturating_sub(1);
        let columns = self.cx.out.width.unwrap_or(80);
        let at = self.screen.at();
        let text = match self.screen.page().clone() {
            Page::Status(id) => match page(&self.cx, self.db, self.config, id.as_deref(), &mut self.seen) {
                Ok(text) => text,
                // It was removed meanwhile.
                Err(failure) if id.is_some() => failure.sentence(),
                Err(failure) => return Err(failure),
            },
            Page::Log(id) => self.log(&id, columns),
            Page::Help => HELP.to_owned(),
            Page::Choose(list) => {
                let at = at.min(entries.len().saturating_sub(1));
                let (lines, chosen) = self.list(&list, entries, at, columns);
                let first = (chosen + 3).saturating_sub(room);
                return Ok((lines, first, entries.len().saturating_sub(1)));
            }
        };
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let last = lines.len().saturating_sub(room);
        Ok((lines, at.min(last), last))
    }

    fn log(&self, id: &str, columns: usize) -> String {
        match crate::logs::end_of(self.db, id, LOG_BYTES) {
            Ok((heading, text)) => {
                let wrap = |line: &str| wrapped(&line.replace('\t', "    "), columns);
                let lines: Vec<String> = safe_block(&text).lines().flat_map(wrap).collect();
                format!("{}\n{}", self.cx.out.paint(Paint::Bold, &one_line(&heading)), lines.join("\n"))
            }
            Err(failure) => failure.sentence(),
        }
    }

    /// The lines of a list, and the one that is chosen.
    fn list(&self, list: &List, entries: &[Entry], at: usize, columns: usize) -> (Vec<String>, usize) {
        let out = &self.cx.out;
        let heading = match list {
            List::Loops => "open a loop or its test",
            List::Questions => "answer a question",
            List::Options(_, question) => question,
        };
        let mut lines: Vec<String> =
            wrapped(&one_line(heading), columns).iter().map(|line| out.paint(Paint::Bold, line)).collect();
        if entries.is_empty() {
            lines.push("nothing waits here".to_owned());
        }
        let mut chosen = 0;
        for (number, entry) in entries.iter().enumerate() {
            let (mark, paint) = if number == at { ('>', Paint::Bold) } else { (' ', Paint::Plain) };
            if number == at {
                chosen = lines.len();
            }
            let digit = if number < 9 { (number + 1).to_string() } else { " ".to_owned() };
            for (at, line) in wrapped(&one_line(&entry.text), columns.saturating_sub(4).max(20)).iter().enumerate() {
                let before = if at == 0 { format!("{mark} {digit} ") } else { "    ".to_owned() };
                lines.push(format!("{before}{}", out.paint(paint, line)));
            }
        }
        (lines, chosen)
    }

    fn footer(&self, lines: &[String], rows: usize) -> String {
        let more = if lines.len() > rows.saturating_sub(1) { format!("  ({} lines)", lines.len()) } else { String::new() };
        let text = if self.note.is_empty() { format!("{}{more}", self.screen.hint()) } else { one_line(&self.note) };
        let columns = self.cx.out.width.unwrap_or(80);
        let first = wrapped(&text, columns).into_iter().next().unwrap_or_default();
        self.cx.out.paint(Paint::Dim, &first)
    }
}

fn listed(tx: &ReadTx<'_>, list: &List) -> Result<Vec<Entry>, Error> {
    let entry = |id: &str, text: String| Entry { id: id.to_owned(), text };
    Ok(match list {
        List::Loops => {
            let mut entries = Vec::new();
            for row in tx.loops()? {
                entries.push(entry(row.id.as_str(), format!("{}  {}", row.id, row.status)));
                entries.extend(row.current_test_id.iter().map(|test| entry(test.as_str(), format!("{}: test {test}", row.id))));
            }
            entries
        }
        List::Questions => questions(tx, tx.decisions(true)?)?
            .into_iter()
            .map(|question| entry(question.row.id.as_str(), format!("{} ({})", question.row.summary, question.state(tx.now()))))
            .collect(),
        List::Options(question, _) => match question.parse::<DecisionId>().and_then(|id| tx.decision(&id)) {
            Ok(row) => options(&row).into_iter().map(|(id, what)| entry(&id, format!("{id}: {what}"))).collect(),
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        },
    })
}

/// One write that overpaints the page before: nothing is cleared first, so nothing flickers.
fn frame(lines: &[String], first: usize, rows: usize, footer: &str) -> String {
    let room = rows.saturating_sub(1);
    let mut text = String::from("\x1b[H");
    for row in 0..room {
        let line = lines.get(first + row).map_or("", String::as_str);
        let _ = write!(text, "{line}\x1b[K\r\n");
    }
    let _ = write!(text, "{footer}\x1b[K");
    text
}
