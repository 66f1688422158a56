//! The last reading of each host's clocks, so that the first process there that looks notices a suspend or a clock change.

use crate::time::{ClockReading, GRACE_SECONDS};
use crate::{ReadTx, Result, Timestamp, WriteTx};

/// What was seen of the clocks is of use to nobody after this.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;
/// Differences below this are the clocks' own drift and our own slowness.
const TOLERANCE_MILLIS: i64 = 2_000;

row! {
    ClockRow { boot_id: String, suspended_ms: i64, wall_ms: i64, boot_ms: i64, grace_until: Option<Timestamp> }
}

row! {
    /// That the machine slept, or that its clock was set, as it was seen.
    ClockChangeSeen { seen_at: Timestamp, millis: i64 }
}

/// For how many milliseconds something has been silent that was last heard of at `beat`: time that the machine slept, or that
/// its clock leapt over, counts against nobody.
#[must_use]
pub fn silent_millis(now: Timestamp, beat: Timestamp, changes: &[ClockChangeSeen]) -> i64 {
    if beat > now {
        // From before the clock was set back: as long ago as that at least.
        let back =
            changes.iter().filter(|change| change.millis < 0 && change.seen_at <= now).map(|change| change.seen_at).max();
        return back.map_or(0, |seen| now.millis_since(seen));
    }
    let after = changes.iter().filter(|change| change.millis > 0 && change.seen_at > beat && change.seen_at <= now);
    // One that beat between the wake-up and its being seen must not gain more than that.
    let leapt: i64 = after.map(|change| change.millis.min(change.seen_at.millis_since(beat))).sum();
    (now.millis_since(beat) - leapt).max(0)
}

/// What has happened to this host's clocks since somebody looked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    /// Nothing.
    None,
    /// The machine was suspended for this number of milliseconds.
    Suspended(i64),
    /// The wall clock was changed by this number of milliseconds.
    Jumped(i64),
    /// The machine was restarted.
    Rebooted,
}

fn change(row: &ClockRow, reading: &ClockReading) -> ClockChange {
    if row.boot_id != reading.boot_id {
        return ClockChange::Rebooted;
    }
    let suspended = reading.suspended_millis - row.suspended_ms;
    if suspended > TOLERANCE_MILLIS {
        return ClockChange::Suspended(suspended);
    }
    let jump = (reading.wall.as_millis() - row.wall_ms) - (reading.boot_millis - row.boot_ms);
    if jump.abs() > TOLERANCE_MILLIS { ClockChange::Jumped(jump) } else { ClockChange::None }
}

impl ReadTx<'_> {
    fn clock_row(&self) -> Result<Option<ClockRow>> {
        self.query_opt(select!(ClockRow, "FROM clock WHERE host = ?1"), [self.host()], ClockRow::from_row)
    }

    /// What has happened to this host's clocks since [`WriteTx::observe_clock`] was called last, by anyone on it.
    pub fn clock_change(&self) -> Result<ClockChange> {
        Ok(self.clock_row()?.map_or(ClockChange::None, |row| change(&row, &self.clocks())))
    }

    /// When this host's clocks were written down last, in the time of this database; none if nobody ever has.
    pub fn clock_seen_at(&self) -> Result<Option<Timestamp>> {
        let row = self.clock_row()?;
        Ok(row.map(|row| self.now().plus_millis(row.wall_ms.saturating_sub(self.clocks().wall.as_millis()))))
    }

    /// True for a while after a suspend or a jump, also if nobody has written it down yet.
    pub fn in_clock_grace(&self) -> Result<bool> {
        let Some(row) = self.clock_row()? else { return Ok(false) };
        let unseen = !matches!(change(&row, &self.clocks()), ClockChange::None | ClockChange::Rebooted);
        Ok(unseen || row.grace_until.is_some_and(|until| self.now() < until && self.now().plus_seconds(600) > until))
    }

    /// The recent suspends and clock changes of this host, oldest first.
    pub fn clock_changes(&self) -> Result<Vec<ClockChangeSeen>> {
        self.query(
            select!(ClockChangeSeen, "FROM clock_changes WHERE host = ?1 ORDER BY seen_at"),
            [self.host()],
            ClockChangeSeen::from_row,
        )
    }

    /// When the last grace after a suspend or jump ended or will end: what had expired before comes free only then.
    pub(crate) fn last_grace_end(&self) -> Result<Option<Timestamp>> {
        Ok(self.clock_row()?.and_then(|row| row.grace_until))
    }

    /// Until when the grace after a suspend or jump lasts, if it does.
    pub fn clock_grace_until(&self) -> Result<Option<Timestamp>> {
        Ok(self.clock_row()?.and_then(|row| row.grace_until).filter(|until| *until > self.now()))
    }
}

impl WriteTx<'_> {
    /// Writes down what the clocks say; after a suspend or a jump the grace begins. Gives what had happened.
    pub fn observe_clock(&self, grace_seconds: i64) -> Result<ClockChange> {
        let reading = self.clocks();
        let row = self.clock_row()?;
        let is_new = row.is_none();
        let change = row.as_ref().map_or(ClockChange::None, |row| change(row, &reading));
        let grace_until = match change {
            ClockChange::Suspended(_) | ClockChange::Jumped(_) => {
                Some(self.now().plus_seconds(grace_seconds.max(GRACE_SECONDS)))
            }
            ClockChange::Rebooted => None,
            // Also once it is over: see `last_grace_end`.
            ClockChange::None => row.and_then(|row| row.grace_until),
        };
        if let ClockChange::Suspended(millis) | ClockChange::Jumped(millis) = change {
            self.execute(
                "INSERT INTO clock_changes (host, seen_at, millis) VALUES (?1, ?2, ?3)
                 ON CONFLICT (host, seen_at) DO UPDATE SET millis = clock_changes.millis + excluded.millis",
                params![self.host(), self.now(), millis],
            )?;
            let old = self.now().plus_seconds(-KEPT_SECONDS);
            self.execute("DELETE FROM clock_changes WHERE seen_at < ?1", [old])?;
        }
        if is_new {
            // A container is another host after each start.
            let old = self.now().plus_seconds(-KEPT_SECONDS).as_millis();
            self.execute("DELETE FROM clock WHERE wall_ms < ?1", [old])?;
        }
        self.execute(
            "INSERT INTO clock (host, boot_id, suspended_ms, wall_ms, boot_ms, grace_until) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (host) DO UPDATE SET boot_id = excluded.boot_id, suspended_ms = excluded.suspended_ms,
               wall_ms = excluded.wall_ms, boot_ms = excluded.boot_ms, grace_until = excluded.grace_until",
            params![
                self.host(),
                reading.boot_id,
                reading.suspended_millis,
                reading.wall.as_millis(),
                reading.boot_millis,
                grace_until
            ],
        )?;
        Ok(change)
    }
}
