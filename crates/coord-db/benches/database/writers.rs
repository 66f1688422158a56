//! Eight writers at once, with this crate's way to wait for the lock and with SQLite's own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::{Database, Durability};

use crate::report::{Report, Target, median, percentile};
use crate::{Extent, Failure, world};

const WRITERS: usize = 8;

pub fn measure(extent: Extent, report: &mut Report) -> Result<(), Failure> {
    let (rounds, millis) = (extent.of(3, 1), extent.of(3_000, 1_000));
    let (mut share, mut fair, mut p999, mut own_p999) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let folder = tempfile::tempdir()?;
        let ours = together(folder.path(), "ours", millis)?;
        let sqlite = together(folder.path(), "sqlite", millis)?;
        let total = |all: &[Vec<f64>]| all.iter().map(Vec::len).sum::<usize>() as f64;
        share.push(total(&ours) / total(&sqlite));
        let most = ours.iter().map(Vec::len).max().unwrap_or(0) as f64;
        let least = ours.iter().map(Vec::len).min().unwrap_or(0) as f64;
        fair.push(least / most);
        let worst = |all: Vec<Vec<f64>>| {
            let mut every: Vec<f64> = all.into_iter().flatten().collect();
            every.sort_by(f64::total_cmp);
            percentile(&every, 0.999) * 1e3
        };
        p999.push(worst(ours));
        own_p999.push(worst(sqlite));
    }
    report.add("eight writers: total", median(share), "of busy_timeout's", Target::AtLeast(0.75));
    report.add("eight writers: slowest", median(fair), "of the fastest", Target::AtLeast(0.5));
    report.add("eight writers: p99.9 of a commit", median(p999), "ms", Target::AtMost(100.0));
    report.add("eight writers: p99.9 with busy_timeout", median(own_p999), "ms", Target::Shown);
    Ok(())
}

/// Lets eight processes write at once; how long each of their commits took, in seconds.
fn together(folder: &Path, how: &str, millis: usize) -> Result<Vec<Vec<f64>>, Failure> {
    let path = folder.join(format!("{how}.db"));
    drop(world::database(&path, Durability::Normal, 0, 0)?);
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(Writer::start(&path, how, Some(millis), 0)?);
    }
    for writer in &mut writers {
        writer.go()?;
    }
    writers.into_iter().map(Writer::result).collect()
}

/// Another process of this program that writes.
pub struct Writer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Writer {
    /// Starts one and waits until it is ready. Without `millis` it writes until [`Writer::result`] is called; `pause` is what
    /// lies between two of its commits, in microseconds.
    pub fn start(path: &Path, how: &str, millis: Option<usize>, pause: u64) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["as-writer", how, &millis.unwrap_or(0).to_string(), &pause.to_string()])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("a writer without output")?);
        let mut writer = Self { child, input, output: BufReader::new(output) };
        let mut line = String::new();
        writer.output.read_line(&mut line)?;
        if line != "ready\n" {
            return Err("a writer did not start".into());
        }
        Ok(writer)
    }

    /// Lets it begin.
    pub fn go(&mut self) -> Result<(), Failure> {
        Ok(self.input.as_mut().ok_or("a writer without input")?.write_all(b"go\n")?)
    }

    /// Ends it; how long each of its commits took, in seconds.
    pub fn result(mut self) -> Result<Vec<f64>, Failure> {
        drop(self.input.take());
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        self.child.wait()?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process of a [`Writer`] does.
pub fn write_until_told(arguments: &[String]) -> Result<(), Failure> {
    let [how, millis, pause, path] = arguments else { return Err("as-writer needs four arguments".into()) };
    let (millis, pause): (u64, u64) = (millis.parse()?, pause.parse()?);
    let path = Path::new(path);
    let db = Database::open(path, &world::options(Durability::Normal))?;
    let sqlite = world::raw(path, Durability::Normal)?;
    let event = world::event()?;
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let (told, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = told.send(());
    });
    let mut took = Vec::new();
    let end = Instant::now() + Duration::from_millis(if millis == 0 { 3_600_000 } else { millis });
    while Instant::now() < end {
        let wait = Duration::from_micros(pause);
        if millis == 0 && !matches!(ended.recv_timeout(wait), Err(std::sync::mpsc::RecvTimeoutError::Timeout)) {
            break;
        }
        let begin = Instant::now();
        if how == "sqlite" {
            // The same row and the same triggers; the way to wait for the lock differs, and no bell is rung.
            sqlite.prepare_cached(world::INSERT)?.execute([uuid::Uuid::now_v7().to_string().as_str(), world::PAYLOAD])?;
        } else {
            db.publish(&event)?;
        }
        took.push(begin.elapsed().as_secs_f64());
    }
    println!("{}", serde_json::to_string(&took)?);
    Ok(())
}
