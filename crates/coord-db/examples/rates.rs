//! How much a fleet can do on one PostgreSQL server: many loops over a line with a delay, each of which sends a heartbeat, takes a
//! lease, publishes an event and gives the lease back, as fast as it can. What is committed outlives a power cut.
//!
//! `cargo run --release -p coord-db --example rates [-- SECONDS]` prints a table in Markdown.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coord_db::payload::Payload;
use coord_db::{AcquireRequest, ComponentId, Database, HealthStatus, LoopId, NewEvent, OpenOptions};
use serde_json::json;
use test_support::{Link, Postgres, acquire_request, new_loop};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const LOOPS: [usize; 3] = [10, 30, 100];
const ROUND_TRIPS: [u64; 3] = [200, 1_000, 5_000];

/// What one loop did: the time of each transaction, and how many there were that could not get the lock in time.
#[derive(Default)]
struct Done {
    transactions: Vec<Duration>,
    events: usize,
    refused: usize,
}

/// One loop, until it is to stop.
fn work(address: &str, number: usize, over: &AtomicBool) -> Result<Done, Failure> {
    let db = Database::open(Path::new(address), &OpenOptions::default())?;
    let id: LoopId = format!("loop-{number}").parse()?;
    let component = ComponentId::from(&id);
    let request = AcquireRequest { ttl_seconds: 900, ..acquire_request(id.as_str(), &[&format!("src/{number}.rs")]) };
    let mut done = Done::default();
    let mut timed = |events: usize, act: &dyn Fn() -> coord_db::Result<()>| {
        let began = Instant::now();
        match act() {
            Ok(()) => {
                done.transactions.push(began.elapsed());
                done.events += events;
                Ok(true)
            }
            Err(coord_db::Error::Locked { .. }) => {
                done.refused += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    };
    while !over.load(Ordering::SeqCst) {
        timed(0, &|| db.write_quietly(|tx| tx.beat(&component, HealthStatus::Healthy, None)))?;
        let is_leased = timed(1, &|| db.write(|tx| tx.acquire(&request, 60).map(drop)))?;
        let payload = Payload::Custom { event_type: "custom.note".to_owned(), value: json!({ "text": "at work" }) };
        timed(1, &|| db.write(|tx| tx.publish(&NewEvent::new((&id).into(), payload.clone())).map(drop)))?;
        if is_leased {
            timed(1, &|| db.write(|tx| tx.release(&id, &request.paths, None).map(drop)))?;
        }
    }
    Ok(done)
}

/// Runs a number of loops for a time; gives a line of the table.
#[allow(clippy::disallowed_methods)] // A measurement lasts its time.
fn measure(server: &Postgres, loops: usize, micros: u64, time: Duration) -> Result<String, Failure> {
    let address = server.new_address();
    let db = Database::open(Path::new(&address), &OpenOptions::default())?;
    for number in 0..loops {
        db.write(|tx| tx.add_loop(&new_loop(&format!("loop-{number}"))))?;
    }
    let link = Link::to(&server.socket());
    link.set_round_trip(Duration::from_micros(micros));
    let through = format!("postgres://tests@{}/{}", link.address(), address.rsplit('/').next().unwrap_or_default());
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let all: Vec<Done> = std::thread::scope(|scope| {
        let (through, over) = (&through, &over);
        let threads: Vec<_> = (0..loops).map(|number| scope.spawn(move || work(through, number, over))).collect();
        std::thread::sleep(time);
        over.store(true, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a loop has panicked")?).collect::<Result<_, Failure>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut times: Vec<Duration> = all.iter().flat_map(|done| done.transactions.iter().copied()).collect();
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default().as_secs_f64() * 1000.0;
    let events: usize = all.iter().map(|done| done.events).sum();
    let refused: usize = all.iter().map(|done| done.refused).sum();
    #[allow(clippy::cast_precision_loss)]
    let rate = |number: usize| number as f64 / seconds;
    Ok(format!(
        "| {loops} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {refused} |",
        Duration::from_micros(micros).as_secs_f64() * 1000.0,
        rate(times.len()),
        rate(events),
        at(50),
        at(99)
    ))
}

fn main() -> Result<(), Failure> {
    let seconds = std::env::args().nth(1).map_or(Ok(15), |text| text.parse())?;
    let Some(server) = Postgres::durable() else { return Ok(()) };
    println!("| loops | round trip, ms | transactions/s | events/s | median, ms | 99 %, ms | not in 5 s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for micros in ROUND_TRIPS {
        for loops in LOOPS {
            println!("{}", measure(&server, loops, micros, Duration::from_secs(seconds))?);
        }
    }
    Ok(())
}
