//! How soon a victim is chosen: from the edge that closes a cycle being committed to the `force_release` row being there,
//! with the real program, beside few and many standing edges.
//!
//! `cargo build --release -p deadlock-detector && cargo run --release -p deadlock-detector --example latency`

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{Database, OpenOptions};

const ROUNDS: usize = 300;
const BOUND: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // target/PROFILE/examples/latency -> target/PROFILE/deadlock-detector
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).map(|folder| folder.join("deadlock-detector")).filter(|path| path.exists());
    let program = program.ok_or("build the program first: cargo build --release -p deadlock-detector")?;
    println!("| standing edges | p50 | p99 | most |");
    println!("| --- | --- | --- | --- |");
    for (standing, shape) in [(10, "separate"), (10_000, "separate"), (10_000, "one queue"), (10_000, "behind one loop")] {
        let mut took = measure(&program, standing, shape)?;
        took.sort();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
        println!("| {standing}, {shape} | {} µs | {} µs | {} µs |", at(0.5), at(0.99), at(1.0));
    }
    Ok(())
}

/// Ends the program whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(program: &Path, standing: usize, shape: &str) -> Result<Vec<Duration>, Failure> {
    let folder = tempfile::tempdir()?;
    let path: PathBuf = folder.path().join("coordination.db");
    let db = Database::create(&path, &OpenOptions::default())?;
    db.write(|tx| {
        for at in 0..standing {
            let (waiter, holder) = match shape {
                "one queue" => (format!("w{at}"), format!("w{}", at + 1)),
                "behind one loop" => (format!("w{at}"), "a0".to_owned()),
                _ => (format!("w{at}"), format!("h{at}")),
            };
            tx.add_wait_edge(&waiter, &holder, &format!("r{at}"), tx.now(), None)?;
        }
        Ok::<_, coord_db::Error>(())
    })?;
    let _running = Running(Command::new(program).arg("--db").arg(&path).stderr(Stdio::null()).spawn()?);
    let mut listener = Listener::new(&path);
    let deadline = Instant::now() + BOUND;
    while db.read(|tx| tx.component("deadlock-detector"))?.is_none() {
        if Instant::now() > deadline {
            return Err("the detector does not start".into());
        }
        listener.wait(Duration::from_millis(20));
    }
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        took.push(close_a_cycle(&db, &path, round)?);
    }
    Ok(took)
}

fn close_a_cycle(db: &Database, path: &Path, round: usize) -> Result<Duration, Failure> {
    let (a, b) = ("a0", format!("b{round}"));
    db.write(|tx| tx.add_wait_edge(a, &b, "there", tx.now(), None))?;
    pause(path, Duration::from_millis(5));
    let before = db.read(|tx| tx.open_deadlocks())?.len();
    let begin = Instant::now();
    db.write(|tx| tx.add_wait_edge(&b, a, "back", tx.now(), None))?;
    let committed = Instant::now();
    while db.read(|tx| tx.open_deadlocks())?.len() == before {
        if begin.elapsed() > BOUND {
            return Err("no victim was chosen".into());
        }
        std::thread::yield_now();
    }
    let took = committed.elapsed();
    // The cycle ends, so that the next one stands alone.
    db.write(|tx| tx.delete_wait_edges_of(a).and_then(|_| tx.delete_wait_edges_of(&b)))?;
    while !db.read(|tx| tx.open_deadlocks())?.is_empty() {
        if begin.elapsed() > BOUND {
            return Err("the deadlock stays open".into());
        }
        std::thread::yield_now();
    }
    Ok(took)
}

/// Lets the detector come to rest.
fn pause(path: &Path, time: Duration) {
    let mut listener = Listener::new(path);
    let until = Instant::now() + time;
    while Instant::now() < until {
        listener.wait(until.saturating_duration_since(Instant::now()));
    }
}
