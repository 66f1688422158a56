//! The start of a loop: ends processes left by its predecessor, and settles interrupted operations. A landed commit
//! takes precedence over giving the test back.

use coord_db::TestId;
use coord_db::process::ProcessIdentity;
use crash_point::{Point, reach};

use crate::context::Context;
use crate::{Error, Result};

impl Context<'_> {
    /// Ends the agent or check left by a killed predecessor. Its keeper does so by itself; this ensures it.
    pub(crate) fn end_leftovers(&self) -> Result<()> {
        let Some(row) = self.db.read(|tx| tx.component(self.loop_id.as_str()))? else { return Ok(()) };
        let same_boot = row.boot_id.as_deref() == ProcessIdentity::own().boot_id.as_deref();
        if let (true, Some(pid), Some(start)) = (same_boot, row.child_pid, row.child_pid_start_time)
            && let (Ok(pid), Ok(start)) = (u32::try_from(pid), u64::try_from(start))
        {
            match command_runner::keeper::kill_leftover(pid, start) {
                Ok(0) => {}
                Ok(count) => tracing::warn!(count, "ended processes left by a previous run"),
                Err(error) => tracing::warn!(%error, "cannot end processes left by a previous run"),
            }
        }
        Ok(())
    }

    /// Registers the start: settles interrupted landings, gives the predecessor's test back, and takes the row. Returns
    /// that test.
    pub(crate) fn start(&self, version: &str) -> Result<Option<TestId>> {
        let own = ProcessIdentity::own();
        let other = self.db.read(|tx| {
            tx.loop_row(&self.loop_id)?;
            tx.running_process(self.loop_id.as_str(), &own)
        })?;
        if let Some(other) = other {
            let (component, is_elsewhere) = (self.loop_id.to_string(), other.is_elsewhere());
            return Err(coord_db::Error::AlreadyRunning { component, process: other.to_string(), is_elsewhere }.into());
        }
        let row = self.db.read(|tx| tx.loop_row(&self.loop_id))?;
        self.end_leftovers()?;
        self.ask_about_own_landings()?;
        reach(Point::StartLeftoversEnded);
        self.db.write(|tx| {
            self.settle_landings(tx)?;
            tx.start_loop(&self.loop_id, &own, version).map_err(Error::from)
        })?;
        reach(Point::StartTaken);
        Ok(row.current_test_id)
    }
}
