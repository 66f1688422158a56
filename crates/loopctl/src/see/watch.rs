//! `loopctl status --watch`: the page again whenever something changes, and each second for the ages in it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use views::published::Seen;

use super::status::page;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::size;
use crate::wait::{Waiter, Woken};

// A screen of its own, no cursor, and no line that goes on in the next.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Gives the terminal back however the watch ends.
struct Screen;

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(LEAVE);
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Runs until Ctrl-C. Where the output is no terminal, each page that differs is printed after the last.
///
/// # Errors
/// As `status`.
pub fn run(cx: &Context, id: Option<&str>) -> Outcome {
    if cx.out.json {
        return Err(Failure::usage("--watch prints no JSON; use loopctl timeline --follow --json"));
    }
    let (db, config) = cx.open_with_config()?;
    let mut waiter = Waiter::new(db.path().unwrap_or(&cx.path));
    let terminal = std::io::stdout().is_terminal();
    let mut seen = Seen::default();
    let mut last = page(cx, &db, &config, id, &mut seen)?;
    let screen = terminal.then(|| Screen);
    if terminal {
        write(ENTER)?;
    }
    let paint = |page: &str| if terminal { write(&frame(page)) } else { write(&format!("{page}\n")) };
    let mut cx = Context { global: cx.global.clone(), out: cx.out.clone(), path: cx.path.clone(), folder: cx.folder.clone() };
    paint(&last)?;
    loop {
        if waiter.wait(Duration::from_secs(1)) == Woken::Interrupted {
            break;
        }
        if terminal {
            cx.out.width = Some(size().0);
        }
        let now = page(&cx, &db, &config, id, &mut seen)?;
        if terminal || now != last {
            paint(&now)?;
        }
        last = now;
    }
    // The last page stays to be read after the screen is given back.
    if let Some(screen) = screen {
        drop(screen);
        write(&last)?;
    }
    Ok(())
}

/// One write that overpaints the page before: nothing is cleared first, so nothing flickers.
fn frame(page: &str) -> String {
    let rows = size().1;
    let lines: Vec<&str> = page.lines().collect();
    let shown = if lines.len() > rows { rows - 1 } else { lines.len() };
    let mut text = String::from("\x1b[H");
    for (at, line) in lines.iter().take(shown).enumerate() {
        let end = if at + 1 < rows { "\r\n" } else { "" };
        let _ = write!(text, "{line}\x1b[K{end}");
    }
    if shown < lines.len() {
        let _ = write!(text, "… {} more lines; loopctl status shows all\x1b[K", lines.len() - shown);
    }
    text.push_str("\x1b[J");
    text
}
