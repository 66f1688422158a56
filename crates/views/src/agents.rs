//! The agents of the loops: who runs them, what holds them until when, and what they have used today.

use std::collections::BTreeMap;

use coord_db::{BudgetUse, Config, Error, Hold, LoopId, ReadTx, Timestamp, UsageKey, UsageTotal};
use serde::Serialize;

use crate::cost;

/// One account: the name under which its limits are known.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct AgentView {
    pub agent: String,
    /// The kind, as in the settings.
    pub kind: String,
    pub loops: Vec<LoopId>,
    /// Why its loops start no attempt.
    pub hold: Option<Hold>,
    /// By all agents of its kind.
    pub today: UsageTotal,
}

/// All agents, with the budgets of the day.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Agents {
    pub agents: Vec<AgentView>,
    pub budgets: Vec<BudgetUse>,
    /// When the budgets begin again.
    pub resets_at: Timestamp,
    #[serde(rename = "at")]
    pub now: Timestamp,
}

/// Reads the agents of all loops. A loop without a command is driven by hand and has none.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, config: &Config) -> Result<Agents, Error> {
    let midnight = cost::midnight(tx.now());
    let mut used: BTreeMap<String, UsageTotal> =
        tx.usage_totals(UsageKey::Agent, Some(midnight))?.into_iter().map(|total| (total.key.clone(), total)).collect();
    let holds = tx.all_holds()?;
    let mut agents: BTreeMap<String, AgentView> = BTreeMap::new();
    for row in tx.loops()? {
        let settings = config.agent_of(&row.id);
        if settings.command.is_empty() {
            continue;
        }
        let kind = settings.kind().as_str().to_owned();
        // A loop that has not run yet has no account on record.
        let agent = row.agent.unwrap_or_else(|| kind.clone());
        let view = agents.entry(agent.clone()).or_insert_with(|| AgentView {
            hold: holds.iter().find(|hold| hold.agent() == Some(&agent)).cloned(),
            today: used.remove(&kind).unwrap_or_else(|| UsageTotal { key: kind.clone(), ..UsageTotal::default() }),
            agent,
            kind,
            loops: Vec::new(),
        });
        view.loops.push(row.id);
    }
    Ok(Agents {
        agents: agents.into_values().collect(),
        budgets: tx.budgets_today(&config.budget)?,
        resets_at: cost::resets_at(tx.now()),
        now: tx.now(),
    })
}
