//! Figures, their targets and what comes of them.

use std::fmt;

use serde::Serialize;

/// What a figure should be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// None is set; the figure is there to read the others by.
    Shown,
}

#[derive(Debug, Serialize)]
struct Line {
    metric: String,
    figure: f64,
    unit: &'static str,
    target: Target,
    met: Option<bool>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Adds one figure.
    pub fn add(&mut self, metric: impl Into<String>, figure: f64, unit: &'static str, target: Target) {
        let met = match target {
            Target::AtLeast(bound) => Some(figure >= bound),
            Target::AtMost(bound) => Some(figure <= bound),
            Target::Shown => None,
        };
        self.lines.push(Line { metric: metric.into(), figure, unit, target, met });
    }

    /// As one JSON document.
    pub fn json(&self) -> String {
        let lines: Vec<_> = self.lines.iter().collect();
        serde_json::to_string_pretty(&serde_json::json!({ "figures": lines })).unwrap_or_default() + "\n"
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| metric | target | figure | verdict |\n| --- | --- | --- | --- |")?;
        for line in &self.lines {
            let target = match line.target {
                Target::AtLeast(bound) => format!("≥ {}", number(bound)),
                Target::AtMost(bound) => format!("≤ {}", number(bound)),
                Target::Shown => String::new(),
            };
            let verdict = line.met.map_or("", |met| if met { "met" } else { "MISSED" });
            let figure = format!("{} {}", number(line.figure), line.unit);
            writeln!(f, "| {} | {target} | {} | {verdict} |", line.metric, figure.trim())?;
        }
        Ok(())
    }
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that this share of all (0 to 1) does not exceed.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len().max(1) - 1) as f64 * share).ceil() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
