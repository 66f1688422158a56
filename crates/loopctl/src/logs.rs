//! `loopctl logs`: what agents and checks printed, of every attempt; and, with `-f`, what they print now.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use coord_db::{Database, LoopId, Run, TestId, TestStatus, Timestamp};
use views::runs::{RunView, path_of, what};
use views::text::{safe, safe_block};
use views::when::{clock, span};

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::Paint;
use crate::wait::{Waiter, Woken};

/// How often a log that grows is read: nothing rings for it.
const LOOK: Duration = Duration::from_millis(200);
const BUFFER: usize = 64 * 1024;

/// Whose logs.
enum Of {
    Test(TestId),
    Loop(LoopId),
}

impl Of {
    fn find(db: &Database, id: &str) -> Outcome<Self> {
        db.read(|tx| {
            if let Some(test) = tx.find_test(id)? {
                return Ok(Self::Test(test.id));
            }
            match tx.find_loop(id)? {
                Some(row) => Ok(Self::Loop(row.id)),
                None => Err(Failure::not_found("loop or test", id)),
            }
        })
    }

    /// The runs to show, oldest first, and whether more can follow.
    fn runs(&self, db: &Database, attempt: Option<i64>) -> Outcome<(Vec<Run>, bool)> {
        db.read(|tx| match self {
            Self::Test(id) => {
                let mut runs = tx.runs_of_test(id)?;
                let shown = attempt.or_else(|| runs.last().map(|run| run.attempt));
                runs.retain(|run| Some(run.attempt) == shown);
                let status = tx.find_test(id.as_str())?.map(|test| test.status);
                let goes_on = matches!(status, Some(TestStatus::InProgress | TestStatus::Pending));
                Ok((runs, goes_on))
            }
            Self::Loop(id) => {
                let mut runs: Vec<Run> = tx.last_run(id)?.into_iter().collect();
                runs.retain(|run| attempt.is_none_or(|attempt| run.attempt == attempt));
                Ok((runs, true))
            }
        })
    }

    fn name(&self) -> &str {
        match self {
            Self::Test(id) => id.as_str(),
            Self::Loop(id) => id.as_str(),
        }
    }
}

fn heading(cx: &Context, run: &Run) -> String {
    let test = run.test_id.as_ref().map(|id| format!("{id}, attempt {}, ", run.attempt)).unwrap_or_default();
    let began = format!("{test}{} of {}, started {}", what(run), run.loop_id, clock(run.started_at));
    format!("{}\n", cx.out.paint(Paint::Bold, &safe(&format!("== {began}"))))
}

fn ending(cx: &Context, run: &Run) -> String {
    let Some(ended) = run.ended_at else { return String::new() };
    let outcome = run.outcome.as_deref().unwrap_or("ended");
    let took = span(ended.seconds_since(run.started_at));
    format!("{}\n", cx.out.paint(Paint::Dim, &safe(&format!("== {outcome}, after {took}"))))
}

/// A log that is printed as it grows.
struct Tail {
    run: Run,
    file: Option<File>,
    /// The beginning of a character whose rest is not written yet.
    rest: Vec<u8>,
    at_line_start: bool,
}

impl Tail {
    fn begin(cx: &Context, run: Run) -> Outcome<Self> {
        cx.out.text(&heading(cx, &run))?;
        Ok(Self { run, file: None, rest: Vec::new(), at_line_start: true })
    }

    /// Prints what is new.
    fn print(&mut self, cx: &Context) -> Outcome {
        if self.file.is_none() {
            self.file = File::open(path_of(&cx.path, &self.run)).ok();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let Some(file) = &mut self.file else { return Ok(()) };
            let read = file.read(&mut buffer).map_err(|error| Failure::No(format!("cannot read the log: {error}")))?;
            if read == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&buffer[..read]);
            let whole = whole_characters(&self.rest);
            let bytes: Vec<u8> = self.rest.drain(..whole).collect();
            self.write(cx, &bytes)?;
        }
    }

    fn write(&mut self, cx: &Context, bytes: &[u8]) -> Outcome {
        let Some(last) = bytes.last() else { return Ok(()) };
        self.at_line_start = *last == b'\n';
        // A file or a program gets the log as it is.
        if std::io::stdout().is_terminal() {
            return cx.out.text(&safe_block(&String::from_utf8_lossy(bytes)));
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Prints the rest of a run that has ended.
    fn end(mut self, cx: &Context, ended: &Run) -> Outcome {
        self.print(cx)?;
        let rest = std::mem::take(&mut self.rest);
        self.write(cx, &rest)?;
        if self.file.is_none() {
            cx.out.text("(the log is deleted)\n")?;
        }
        if !self.at_line_start {
            cx.out.text("\n")?;
        }
        cx.out.text(&ending(cx, ended))
    }
}

/// How many bytes end with a whole character. Only one that is cut at the very end gets more bytes; anything else is not text.
fn whole_characters(bytes: &[u8]) -> usize {
    let is_cut = |back: &usize| {
        let tail = std::str::from_utf8(&bytes[bytes.len() - back..]);
        matches!(tail, Err(error) if error.error_len().is_none() && error.valid_up_to() == 0)
    };
    bytes.len() - (1..=bytes.len().min(3)).find(is_cut).unwrap_or(0)
}

/// `loopctl logs TEST|LOOP`
///
/// # Errors
/// Exit 4 if the id is neither a loop nor a test, exit 1 if no run of it is recorded.
pub fn show(cx: &Context, id: &str, attempt: Option<i64>, follow: bool) -> Outcome {
    if follow && cx.out.json {
        return Err(Failure::usage("--follow prints no JSON; loopctl logs --json names the files"));
    }
    let db = cx.open()?;
    let of = Of::find(&db, id)?;
    if follow {
        return follow_on(cx, &db, &of, attempt);
    }
    let (runs, _) = of.runs(&db, attempt)?;
    if cx.out.json {
        let database = db.path().unwrap_or(&cx.path);
        let views: Vec<RunView> = runs.into_iter().map(|run| RunView::of(database, run)).collect();
        return cx.out.document(&views);
    }
    if runs.is_empty() {
        return Err(nothing(&of, attempt));
    }
    for run in runs {
        let mut tail = Tail::begin(cx, run.clone())?;
        if run.ended_at.is_some() { tail.end(cx, &run)? } else { tail.print(cx)? }
    }
    Ok(())
}

/// The newest run of a loop or test in a line, and the end of its log, of this number of bytes at most.
///
/// # Errors
/// As [`show`].
pub(crate) fn end_of(db: &Database, id: &str, bytes: u64) -> Outcome<(String, String)> {
    let of = Of::find(db, id)?;
    let run = of.runs(db, None)?.0.pop().ok_or_else(|| nothing(&of, None))?;
    let file = path_of(db.path().unwrap_or(Path::new(".")), &run);
    let state = run.outcome.as_deref().unwrap_or("runs");
    let heading = format!("{} of {}, started {}: {state}", what(&run), run.loop_id, clock(run.started_at));
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = File::open(&file)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut end = Vec::new();
        log.take(bytes).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().map_err(|error| Failure::No(format!("cannot read the log {}: {error}", file.display())))?;
    Ok((heading, String::from_utf8_lossy(&end).into_owned()))
}

fn nothing(of: &Of, attempt: Option<i64>) -> Failure {
    let attempt = attempt.map(|attempt| format!("attempt {attempt} of ")).unwrap_or_default();
    Failure::No(format!("no output of {attempt}{} is recorded; it is recorded when an agent or check starts", of.name()))
}

/// Prints what is there and what comes, until the test is decided or the human has seen enough.
fn follow_on(cx: &Context, db: &Database, of: &Of, attempt: Option<i64>) -> Outcome {
    let mut waiter = Waiter::new(db.path().unwrap_or(&cx.path));
    let mut tail: Option<Tail> = None;
    let mut last: Option<(Timestamp, String)> = None;
    loop {
        let (runs, goes_on) = of.runs(db, attempt)?;
        for run in runs {
            let key = (run.started_at, run.id.clone());
            if let Some(open) = tail.take_if(|tail| tail.run.id == run.id) {
                tail = print_on(cx, open, &run)?;
            } else if last.as_ref().is_none_or(|last| *last < key) {
                if let Some(open) = tail.take() {
                    end_unseen(cx, db, open)?;
                }
                last = Some(key);
                tail = print_on(cx, Tail::begin(cx, run.clone())?, &run)?;
            }
        }
        if tail.is_none() && !goes_on {
            return if last.is_none() { Err(nothing(of, attempt)) } else { Ok(()) };
        }
        if waiter.wait(LOOK) == Woken::Interrupted {
            return Ok(());
        }
    }
}

fn print_on(cx: &Context, mut tail: Tail, run: &Run) -> Outcome<Option<Tail>> {
    if run.ended_at.is_some() {
        tail.end(cx, run)?;
        return Ok(None);
    }
    tail.print(cx)?;
    Ok(Some(tail))
}

/// Ends a run that others have followed since.
fn end_unseen(cx: &Context, db: &Database, tail: Tail) -> Outcome {
    let run = db.read(|tx| tx.run(&tail.run.id))?.unwrap_or_else(|| tail.run.clone());
    tail.end(cx, &run)
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn a_character_is_not_printed_in_halves() {
        let text = "aé€🦀".as_bytes();
        for cut in 0..=text.len() {
            let whole = whole_characters(&text[..cut]);
            assert!(std::str::from_utf8(&text[..whole]).is_ok(), "{cut}");
            assert!(cut - whole < 4);
        }
        assert_eq!(whole_characters(b"\xff\xff\xff\xff\xff"), 5);
        assert_eq!(whole_characters(b"ab\xff\xc3"), 3);
    }
}
