//! The report at a time of day: one a day, whatever happens to the clock and to pm.

use std::path::Path;
use std::sync::Arc;

use coord_db::{Config, Database, JournalEntry, ManualClock, Timestamp};
use pm_agent::PmAgent;
use supervisor::{Look, Supervisor, look, pass};

const HOUR: i64 = 3_600_000;

struct Days {
    db: Database,
    clock: ManualClock,
    pm: PmAgent,
}

impl Days {
    fn new() -> Self {
        let clock = ManualClock::new("2026-11-22T10:00:00Z".parse::<Timestamp>().unwrap());
        let db = Database::in_memory(Arc::new(clock.clone())).unwrap();
        Self { db, clock, pm: Self::pm() }
    }

    fn pm() -> PmAgent {
        let settings = "[notify]\ncommand = [\"true\"]\nreport_at = \"07:30\"\n";
        PmAgent::new(Arc::new(Config::parse(settings, Path::new("settings")).unwrap()), Path::new("/nowhere/coordination.db"))
    }

    /// Everything that is due, after a restart. Gives the reports that are to be sent; they succeed or fail.
    fn sent(&mut self, succeeds: bool) -> Vec<JournalEntry> {
        self.pm = Self::pm();
        while matches!(look(&mut self.pm, &self.db, &()).unwrap(), Look::Due) {
            pass(&mut self.pm, &self.db, &()).unwrap();
        }
        let open = self.db.read(|tx| tx.open_journal(Some("pm"))).unwrap();
        for entry in &open {
            self.db.write(|tx| tx.end_operation(&entry.id, succeeds)).unwrap();
        }
        open
    }

    fn until_the_next_one(&mut self) {
        let Look::NothingDue(Some(next)) = look(&mut self.pm, &self.db, &()).unwrap() else { panic!("no next one") };
        let now = self.db.read(|tx| Ok::<_, coord_db::Error>(tx.now())).unwrap();
        let millis = next.millis_since(now);
        assert!(0 < millis && millis <= 25 * HOUR, "{millis}");
        self.clock.advance_millis(millis);
    }
}

fn since(entry: &JournalEntry) -> Timestamp {
    entry.steps.text("since").unwrap().parse().unwrap()
}

fn until(entry: &JournalEntry) -> Timestamp {
    entry.steps.text("until").unwrap().parse().unwrap()
}

#[test]
fn there_is_one_a_day_and_none_is_missed() {
    let mut days = Days::new();
    assert!(days.sent(true).is_empty(), "the first one comes at the next such time");
    days.until_the_next_one();
    let first = days.sent(true);
    let [one] = &first[..] else { panic!("{first:?}") };
    assert!(until(one).millis_since(since(one)) <= 25 * HOUR, "{one:?}");
    assert!(days.sent(true).is_empty(), "not again after a restart");
    days.clock.advance_millis(HOUR);
    assert!(days.sent(true).is_empty());

    // pm was down at that minute, and for three days.
    days.until_the_next_one();
    days.clock.advance_millis(49 * HOUR);
    let late = days.sent(true);
    let [two] = &late[..] else { panic!("{late:?}") };
    assert_eq!(since(two), until(one), "nothing is left out");

    // The clock is set back and comes over that time again.
    days.until_the_next_one();
    assert_eq!(days.sent(true).len(), 1);
    days.clock.jump_millis(-HOUR);
    assert!(days.sent(true).is_empty());
    days.until_the_next_one();
    assert!(days.sent(true).is_empty());
    days.until_the_next_one();

    // One that cannot be sent is part of the next one.
    let [failed] = &days.sent(false)[..] else { panic!("none") };
    days.until_the_next_one();
    let [next] = &days.sent(true)[..] else { panic!("none") };
    assert_eq!(since(next), since(failed));

    // A wrong clock shows another year for an hour.
    days.clock.jump_millis(9_000 * HOUR);
    assert_eq!(days.sent(true).len(), 1);
    days.clock.jump_millis(-9_000 * HOUR);
    assert!(days.sent(true).is_empty());
    days.until_the_next_one();
    let [right] = &days.sent(true)[..] else { panic!("none") };
    assert_eq!(since(right), until(next));
}
