//! What keeps this loop from starting an attempt, and what ends that: `coord_db`'s holds, by this loop's agent.

use coord_db::{AgentTrouble, TestId, Timestamp, WriteTx};

use crate::Result;
use crate::context::Context;
use crate::run_end::agent_name;

impl Context<'_> {
    fn agent(&self) -> String {
        agent_name(&self.config.agent_of(&self.loop_id).command)
    }

    /// Holds every loop that runs this loop's agent.
    pub(crate) fn hold(&self, tx: &WriteTx<'_>, test: &TestId, trouble: &AgentTrouble) -> coord_db::Result<()> {
        let minutes = i64::try_from(self.config.agent_of(&self.loop_id).limit_wait_minutes).unwrap_or(i64::MAX);
        tx.hold_agent(&self.agent(), (&self.loop_id, test), trouble, minutes)
    }

    /// The agent has run without trouble: what held its loops is over.
    pub(crate) fn agent_works(&self, began: Option<Timestamp>) -> Result<()> {
        if !self.db.read(|tx| tx.holds_on(&self.loop_id))?.is_empty() {
            self.db.write(|tx| tx.clear_agent_hold(&self.agent(), &self.loop_id, began))?;
        }
        Ok(())
    }

    /// Writes down which agent the loop runs, so that it shares holds with the others that run it. What a question was asked
    /// about may have been mended before the start or the new settings: one attempt finds out.
    pub(crate) fn announce_agent(&self, once: bool) -> Result<()> {
        let agent = self.agent();
        self.db.write(|tx| {
            tx.set_agent(&self.loop_id, &agent)?;
            if once { Ok(()) } else { tx.probe_holds(&self.loop_id) }
        })?;
        Ok(())
    }
}
