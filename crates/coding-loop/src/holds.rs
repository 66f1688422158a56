//! Sets and ends holds of this loop's agent, which prevent attempts.

use coord_db::{AgentTrouble, TestId, Timestamp, WriteTx};

use crate::Result;
use crate::context::Context;
use crate::run_end::agent_name;

impl Context<'_> {
    fn agent(&self) -> String {
        agent_name(&self.config.agent_of(&self.loop_id))
    }

    /// Sets a hold on all loops with this agent, or on those of this machine.
    pub(crate) fn hold(&self, tx: &WriteTx<'_>, test: &TestId, trouble: &AgentTrouble) -> coord_db::Result<()> {
        let minutes = i64::try_from(self.config.agent_of(&self.loop_id).limit_wait_minutes).unwrap_or(i64::MAX);
        tx.hold_agent(&self.agent(), (&self.loop_id, test), trouble, minutes, self.store.remote().is_some())
    }

    /// Sets a hold on all loops whose set-up would fail too: where there are several machines, on those of this one.
    pub(crate) fn hold_set_up(&self, tx: &WriteTx<'_>, test: &TestId, reason: &str) -> coord_db::Result<()> {
        tx.hold_set_up((&self.loop_id, test), reason, self.store.remote().is_some())
    }

    /// Ends the holds on the agent after it ran without trouble.
    pub(crate) fn agent_works(&self, began: Option<Timestamp>) -> Result<()> {
        if !self.db.read(|tx| tx.holds_on(&self.loop_id))?.is_empty() {
            self.db.write(|tx| tx.clear_agent_hold(&self.agent(), &self.loop_id, began))?;
        }
        Ok(())
    }

    /// Stores the loop's agent, so that it shares holds with other loops of the same agent. The problem behind an open
    /// question may have been fixed before the start or the reload, so one attempt tries it.
    pub(crate) fn announce_agent(&self, once: bool) -> Result<()> {
        let agent = self.agent();
        self.db.write(|tx| {
            tx.set_agent(&self.loop_id, &agent)?;
            if once { Ok(()) } else { tx.probe_holds(&self.loop_id) }
        })?;
        Ok(())
    }
}
