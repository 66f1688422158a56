//! Five supervisors with nothing to do cost next to nothing: they sleep in the kernel, and wake for beats alone. Counted in
//! wake-ups and commits between beats, and in memory, which no load of the machine makes more. With `--release` it also counts
//! what is resident of the programs as they are installed.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::supervisors::Program;
use coord_db::{SUPERVISORS, Timestamp};
use system_tests::processes::World;
use test_support::{Process, wait_for};

/// Beats of each that are watched.
const BEATS: usize = 6;
/// What one beat may cost all five together: the four others see it in the `-wal`, and look again up to eleven times until it
/// is settled that it was all.
const MAX_WAKES_PER_BEAT: u64 = 100;

/// What all five may hold together that no other process shares, in kilobytes.
const MAX_OWN_KILOBYTES: u64 = 15_000;
/// What may be resident of all five, programs and libraries counted for each, in a release build.
const MAX_RESIDENT_KILOBYTES: u64 = 30 * 1024;

/// A line of a process's `status`, in kilobytes.
fn kilobytes(process: &Process, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// How often the threads of a process have gone to sleep of their own accord.
fn sleeps(process: &Process) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

#[test]
fn who_has_nothing_to_do_sleeps_and_writes_nothing_but_beats() {
    let world = World::new();
    let processes: Vec<Process> = SUPERVISORS.iter().map(|each| world.supervisor(each.program)).collect();
    let db = world.open();
    // Counts the heartbeats that are seen, until everyone has sent `BEATS` of them.
    let watch = || {
        let mut beats: BTreeMap<&str, BTreeSet<Timestamp>> = BTreeMap::new();
        wait_for("beats", || {
            for Program { id, .. } in SUPERVISORS {
                let beat = db.read(|tx| tx.component(id)).unwrap().and_then(|row| row.last_heartbeat);
                beats.entry(id).or_default().extend(beat);
            }
            beats.values().all(|seen| seen.len() > BEATS).then_some(())
        });
        beats.values().map(|seen| u64::try_from(seen.len() - 1).unwrap()).sum::<u64>()
    };
    // What starting leaves to do is done by now.
    watch();
    let events = world.sql("SELECT count(*) FROM events").unwrap();
    let before: Vec<u64> = processes.iter().map(sleeps).collect();
    let beats = watch();
    let wakes: Vec<u64> = processes.iter().zip(before).map(|(process, before)| sleeps(process) - before).collect();
    let all: u64 = wakes.iter().sum();
    println!("{beats} beats, {all} wake-ups: {wakes:?}");
    assert!(all <= beats * MAX_WAKES_PER_BEAT, "{all} wake-ups in {beats} beats: {wakes:?}");
    let sum = |name: &str| processes.iter().map(|process| kilobytes(process, name)).sum::<u64>();
    let (own, resident) = (sum("RssAnon"), sum("VmRSS"));
    println!("{own} KB of their own, {resident} KB resident");
    assert!(own <= MAX_OWN_KILOBYTES, "{own} KB");
    // Unoptimised programs are twice as large, which says nothing about those that are installed.
    assert!(cfg!(debug_assertions) || resident <= MAX_RESIDENT_KILOBYTES, "{resident} KB");
    assert_eq!(world.sql("SELECT count(*) FROM events").unwrap(), events, "nothing was said");
    assert_eq!(world.sql("SELECT count(*) FROM alerts").unwrap(), "0");
    for process in processes {
        assert_eq!(process.terminate().code(), Some(0));
    }
}
