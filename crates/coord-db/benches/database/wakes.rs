//! From publishing to another process having read it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{Database, Durability, NewEvent, Payload};
use serde_json::json;

use crate::report::{Report, Target, median, percentile};
use crate::writers::Writer;
use crate::{Extent, Failure, world};

/// Later than this, it was the listener's own slow timer that found the event, and no wake-up.
const LOST: f64 = 1.0;

pub fn measure(extent: Extent, report: &mut Report) -> Result<(), Failure> {
    let count = extent.of(1_000, 200);
    let cases = [
        ("NORMAL, quiet", Durability::Normal, 0, 0.5),
        ("NORMAL, 7 other writers", Durability::Normal, 7, 1.0),
        ("FULL, quiet", Durability::Full, 0, f64::NAN),
        ("FULL, 7 other writers", Durability::Full, 7, f64::NAN),
    ];
    for (name, durability, others, bound) in cases {
        let (mut latencies, commit, apart) = one_case(durability, others, count)?;
        latencies.sort_by(f64::total_cmp);
        let lost = latencies.iter().filter(|latency| **latency >= LOST).count();
        report.add(format!("read by another process ({name}): lost wake-ups of {count}"), lost as f64, "", Target::AtMost(0.0));
        let p50 = percentile(&latencies, 0.5);
        let target = if others == 0 && durability == Durability::Normal { Target::AtMost(2.0) } else { Target::Shown };
        report.add(format!("read by another process ({name}): p50"), p50 / commit, "raw commits", target);
        report.add(format!("read by another process ({name}): p50"), p50 * 1e3, "ms", Target::Shown);
        // A process that was idle begins with cold caches on a core that sleeps: so does a raw commit then.
        report.add(format!("read by another process ({name}): p50"), p50 / apart, "raw commits as far apart", Target::Shown);
        let target = if bound.is_nan() { Target::Shown } else { Target::AtMost(bound) };
        report.add(format!("read by another process ({name}): p99"), percentile(&latencies, 0.99) * 1e3, "ms", target);
    }
    Ok(())
}

/// Waits for a moment between two events: apart from each other, or one wake-up would serve many.
fn pause() {
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(Duration::from_micros(fastrand::u64(2_000..6_000)));
}

/// The latencies of `count` events, each published on its own, and what one raw commit takes, one after the other and at the
/// same distance as the events; in seconds.
fn one_case(durability: Durability, others: usize, count: usize) -> Result<(Vec<f64>, f64, f64), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("coordination.db");
    let db = world::database(&path, durability, 8, 0)?;
    db.write(|tx| tx.subscribe(&"reader".parse()?, &["custom.tick".to_owned()], None).map(|_| ()))?;
    let plain = world::without_triggers(&folder.path().join("plain.db"), durability)?;
    let commit = median((0..5).map(|_| world::insert_raw(&plain, 200, 1)).collect::<Result<_, _>>()?);
    let mut lone = Vec::new();
    for _ in 0..100 {
        pause();
        lone.push(world::insert_raw(&plain, 1, 1)?);
    }
    let mut reader = Command::new(std::env::current_exe()?)
        .args(["as-reader", &count.to_string()])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(reader.stdout.take().ok_or("a reader without output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let mut writers = Vec::new();
    for _ in 0..others {
        let mut writer = Writer::start(&path, "ours", None, 2_000)?;
        writer.go()?;
        writers.push(writer);
    }
    for _ in 0..count {
        pause();
        let value = json!({ "sent": world::now() });
        let tick = NewEvent::new("loop-1".parse()?, Payload::Custom { event_type: "custom.tick".to_owned(), value });
        db.publish(&tick)?;
    }
    let mut line = String::new();
    output.read_line(&mut line)?;
    for writer in writers {
        writer.result()?;
    }
    reader.stdin.take().map(|mut input| input.write_all(b"end\n")).transpose()?;
    reader.wait()?;
    Ok((serde_json::from_str(&line)?, commit, median(lone)))
}

/// What the reading process does: waits to be woken, looks, and settles what it has read.
pub fn read_until_told(arguments: &[String]) -> Result<(), Failure> {
    let [count, path] = arguments else { return Err("as-reader needs two arguments".into()) };
    let (count, path): (usize, &Path) = (count.parse()?, Path::new(path));
    let db = Database::open(path, &world::options(Durability::Normal))?;
    let mut listener = Listener::new(path);
    println!("ready");
    let mut latencies = Vec::new();
    let end = Instant::now() + Duration::from_secs(120);
    while latencies.len() < count && Instant::now() < end {
        let told = db.read(|tx| tx.pending_deliveries("reader", 100))?;
        let at = world::now();
        if told.is_empty() {
            listener.wait(Duration::from_secs(30));
            continue;
        }
        latencies.extend(told.iter().filter_map(|delivery| Some(at - delivery.event.payload.get("sent")?.as_f64()?)));
        db.write_quietly(|tx| tx.acknowledge("reader", told.iter().map(|delivery| &delivery.event.id)))?;
    }
    println!("{}", serde_json::to_string(&latencies)?);
    let _ = std::io::stdin().read_line(&mut String::new());
    Ok(())
}
