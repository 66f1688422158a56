//! `loopctl agents`: the agents of the loops, what holds them until when, and what is left of the budgets.

use coord_db::dollars;
use views::agents::{AgentView, look};
use views::cost::budget_words;
use views::when::{clock, span};

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::{Paint, Table, painted, plain};

/// `loopctl agents`
///
/// # Errors
/// What the database reports.
pub fn show(cx: &Context) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let view = db.read(|tx| look(tx, &config))?;
    if cx.out.json {
        return cx.out.document(&view);
    }
    let table =
        Table::of(&["AGENT", "KIND", "LOOPS", "STATE", "TOKENS TODAY", "COST TODAY"], &view.agents, |row: &AgentView| {
            let loops: Vec<&str> = row.loops.iter().map(|id| id.as_str()).collect();
            let (paint, state) = match &row.hold {
                None => (Paint::Green, "free".to_owned()),
                Some(hold) => {
                    let until = hold.until.map_or_else(
                        || "until your answer".to_owned(),
                        |until| format!("until {} (in {})", clock(until), span(until.seconds_since(view.now).max(0))),
                    );
                    (Paint::Yellow, format!("{} {until}: {}", hold.kind, hold.reason))
                }
            };
            vec![
                plain(&row.agent),
                plain(&row.kind),
                plain(loops.join(", ")),
                painted(paint, state),
                plain(row.today.tokens_estimated.to_string()),
                plain(if row.today.cost_microusd > 0 { dollars(row.today.cost_microusd) } else { "-".to_owned() }),
            ]
        });
    let mut text = if view.agents.is_empty() {
        "no loop has an agent; loopctl init --agent NAME sets one\n".to_owned()
    } else {
        table.render(&cx.out)
    };
    if !view.budgets.is_empty() {
        text.push_str(&format!("\n{}\n", cx.out.paint(Paint::Bold, &format!("budgets, until {}", clock(view.resets_at)))));
    }
    for used in &view.budgets {
        let (name, amounts) = budget_words(used);
        let paint = if used.percent >= config.budget.warn_percent { Paint::Yellow } else { Paint::Plain };
        text.push_str(&cx.out.folded("  ", paint, &format!("{name}: {amounts} ({} %)", used.percent)));
    }
    cx.out.text(&text)
}
