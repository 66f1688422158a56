//! What the database costs, against raw SQLite in the same run.
//!
//! `cargo bench -p coord-db [-- [--quick] [--json FILE] [SECTION…]]`
//!
//! Every figure is a ratio to something measured next to it in turns, so that a noisy machine troubles both sides alike;
//! what is counted over rounds is their median. The table goes to stdout, the same as JSON to `FILE` (default:
//! `target/bench/coord-db.json`). Sections: publish, writers, wakes, leases, size.

mod leases;
mod publish;
mod report;
mod size;
mod wakes;
mod world;
mod writers;

use std::path::PathBuf;

use report::Report;

type Failure = Box<dyn std::error::Error>;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    quick: bool,
}

impl Extent {
    fn of(self, whole: usize, quick: usize) -> usize {
        if self.quick { quick } else { whole }
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).peekable();
    // A copy of this program that takes one part in a measurement of several processes.
    match arguments.peek().map(String::as_str) {
        Some("as-writer") => return writers::write_until_told(&arguments.skip(1).collect::<Vec<_>>()),
        Some("as-reader") => return wakes::read_until_told(&arguments.skip(1).collect::<Vec<_>>()),
        _ => {}
    }
    let (mut quick, mut json, mut sections) = (false, None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--quick" => quick = true,
            "--json" => json = Some(PathBuf::from(arguments.next().ok_or("--json needs a file")?)),
            name if !name.starts_with('-') => sections.push(name.to_owned()),
            other => return Err(format!("unknown option {other}; there are --quick and --json FILE").into()),
        }
    }
    let extent = Extent { quick };
    let mut report = Report::default();
    type Section = fn(Extent, &mut Report) -> Result<(), Failure>;
    let all: [(&str, Section); 5] = [
        ("publish", publish::measure),
        ("writers", writers::measure),
        ("wakes", wakes::measure),
        ("leases", leases::measure),
        ("size", size::measure),
    ];
    if let Some(unknown) = sections.iter().find(|name| all.iter().all(|(known, _)| known != name)) {
        return Err(format!("no section {unknown}; there are publish, writers, wakes, leases and size").into());
    }
    for (name, section) in all {
        if sections.is_empty() || sections.iter().any(|wanted| wanted == name) {
            eprintln!("measuring {name} …");
            section(extent, &mut report)?;
        }
    }
    print!("{report}");
    let json = json.unwrap_or_else(default_file);
    if let Some(folder) = json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&json, report.json())?;
    eprintln!("written to {}", json.display());
    Ok(())
}

/// `target/bench/coord-db.json`, found from where this program lies (`target/release/deps`).
fn default_file() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(3).unwrap_or(&own).join("bench/coord-db.json")
}
