//! How long a killed holder's leases stay taken: SIGKILL to the lease's row being gone, with the real program.
//!
//! `cargo build --release -p heartbeat && cargo run --release -p heartbeat --example death`

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::wake::Listener;
use coord_db::{AcquireRequest, Database, LoopId, OpenOptions};
use test_support::{acquire_request, new_loop};

const ROUNDS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // target/PROFILE/examples/death -> target/PROFILE/heartbeat
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).map(|folder| folder.join("heartbeat")).filter(|path| path.exists());
    let program = program.ok_or("build the program first: cargo build --release -p heartbeat")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("coordination.db");
    let db = Database::create(&path, &OpenOptions::default())?;
    let id: LoopId = "loop-1".parse()?;
    db.write(|tx| tx.add_loop(&new_loop(id.as_str())))?;
    let mut heartbeat = Command::new(program).arg("--db").arg(&path).stderr(Stdio::null()).spawn()?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        took.push(round(&db, &path, &id)?);
    }
    heartbeat.kill()?;
    heartbeat.wait()?;
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("killed holder -> lease free, {ROUNDS} rounds: p50 {:?}, p99 {:?}, most {:?}", at(0.5), at(0.99), at(1.0));
    Ok(())
}

fn round(db: &Database, path: &Path, id: &LoopId) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut process: Child = Command::new("sleep").arg("1000").spawn()?;
    let identity = ProcessIdentity::of(i64::from(process.id()));
    let request = AcquireRequest { ttl_seconds: 900, ..acquire_request(id.as_str(), &["src/a.rs"]) };
    db.write(|tx| {
        tx.start_loop(id, &identity, "1")?;
        tx.acquire(&request, 5)
    })?;
    // It takes a moment to see the new process and to watch it.
    let mut listener = Listener::new(path);
    let ready = Instant::now() + Duration::from_millis(30);
    while Instant::now() < ready {
        listener.wait(ready.saturating_duration_since(Instant::now()));
    }
    let begin = Instant::now();
    process.kill()?;
    while !db.read(|tx| tx.leases(false))?.is_empty() {
        std::thread::yield_now();
    }
    let took = begin.elapsed();
    process.wait()?;
    Ok(took)
}
