//! Parses the environment variable, and kills the process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{LOGGED, Point, VARIABLE};

enum Plan {
    Log,
    Kill { name: String, left: AtomicU32 },
}

fn plan(text: &str) -> Result<Plan, String> {
    if text == "log" {
        return Ok(Plan::Log);
    }
    let (name, number) = text.split_once(':').unwrap_or((text, "1"));
    match number.parse::<u32>() {
        Ok(number) if number > 0 && Point::ALL.iter().any(|point| point.name() == name) => {
            Ok(Plan::Kill { name: name.to_owned(), left: AtomicU32::new(number) })
        }
        _ => Err(format!("{VARIABLE}={text:?} names no crash point; unset it")),
    }
}

pub(crate) fn reach(point: Point) {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let found = PLAN.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        plan(&text).inspect_err(|problem| eprintln!("{problem}")).ok()
    });
    match found {
        None => {}
        Some(Plan::Log) => eprintln!("{LOGGED}{}", point.name()),
        Some(Plan::Kill { name, left }) if name == point.name() && left.fetch_sub(1, Ordering::Relaxed) == 1 => {
            eprintln!("{VARIABLE}: killed at {name}");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal is delivered before this thread continues, or very soon.
            loop {
                std::thread::park();
            }
        }
        Some(Plan::Kill { .. }) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_only_they_are_taken() {
        let mut names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(matches!(plan("integrate.moved"), Ok(Plan::Kill { left, .. }) if left.load(Ordering::Relaxed) == 1));
        assert!(matches!(plan("integrate.moved:3"), Ok(Plan::Kill { left, .. }) if left.load(Ordering::Relaxed) == 3));
        assert!(matches!(plan("log"), Ok(Plan::Log)));
        for wrong in ["", "integrate", "integrate.moved:0", "integrate.moved:x", "integrate.moved:"] {
            assert!(plan(wrong).is_err(), "{wrong}");
        }
    }
}
