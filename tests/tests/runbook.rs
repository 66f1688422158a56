//! Every command of the README's runbook, in order, on a repository whose services run. Skipped, and said so, where this
//! machine gives no systemd in namespaces.

use system_tests::systemd::Who::Owner;
use system_tests::systemd::{BOUND, Machine, PROJECT, SUPERVISORS, disk};
use system_tests::{project, query, wait_for};

const SETTINGS: &str = r#"
[agent]
command = ["sh", "-c", "touch \"$HOME/at-work\"; sleep 600"]
[[gate.check]]
name = "true"
command = ["true"]
[heartbeat]
beat_seconds = 1
"#;

/// The blocks of shell text of the runbook.
fn blocks() -> Vec<String> {
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let runbook = readme.split("\n## Runbook\n").nth(1).expect("a runbook").split("\n## ").next().unwrap_or_default();
    runbook.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_command_of_the_runbook_does_what_it_says() {
    let blocks = blocks();
    assert_eq!(blocks.len(), 8, "a block more or less: look at what has to hold after it");
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    let database = machine.repository("shop", SETTINGS, &["backend"]);
    machine.install(Owner, &[]);
    machine.script(
        Owner,
        "cd ~/shop && loopctl --quiet test add T-1 --loop backend --spec go && loopctl --quiet backup && loopctl service enable && mkdir ~/there",
        &[],
    );
    wait_for("the agent to be at work", BOUND, || disk.path().join("home/at-work").exists().then_some(()));
    for block in &blocks {
        let environment = format!(
            "export NAME=shop LOOP=backend TEST=T-1 THERE=$HOME/there SOURCE={PROJECT} CODING_LOOPS_BIN=/srv/new; cd ~/shop"
        );
        println!("{}", machine.script(Owner, &format!("set -o pipefail; {environment}\n{block}"), &[]));
        if block.contains("service disable") {
            // What answers from now on is the moved one.
            machine.script(Owner, "mv ~/shop ~/old && mv ~/shop-loops ~/old-loops", &[]);
            machine.script(Owner, "mkdir ~/shop", &[]);
        } else if !block.contains("THERE") {
            for name in SUPERVISORS {
                machine.until_property(Owner, &format!("coding-loops-{name}@shop.service"), "ActiveState", "active");
            }
        }
    }
    assert!(database.parent().is_some_and(|folder| !folder.exists()));
    let moved = disk.path().join("home/there/shop/coding-loops/coordination.db");
    machine.until_sql(&moved, "SELECT count(*) FROM component_health WHERE status = 'healthy'", "6");
    assert_eq!(query(&moved, "SELECT loop_id FROM tests WHERE id = 'T-1'").unwrap().trim(), "backend");
}
