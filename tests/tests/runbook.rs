//! Every command of `systemd/README.md`, in order, on a repository whose services run. Skipped, and said so, where this
//! machine gives no systemd in namespaces.

use system_tests::docs::blocks;
use system_tests::systemd::Who::Owner;
use system_tests::systemd::{Machine, PROJECT, disk};
use system_tests::{query, supervisors};
use test_support::wait_until;

const SETTINGS: &str = r#"
[agent]
command = ["sh", "-c", "touch \"$HOME/at-work\"; sleep 600"]
[[gate.check]]
name = "true"
command = ["true"]
[heartbeat]
beat_seconds = 1
"#;

#[test]
fn every_command_of_the_operators_document_does_what_it_says() {
    let blocks = blocks("systemd/README.md");
    let kinds: Vec<&str> = blocks.iter().map(|block| block.kind.as_str()).collect();
    assert_eq!(kinds, ["bash"; 11], "a block more or less: look at what has to hold after it");
    let disk = disk();
    let Some(machine) = Machine::boot(disk.path()) else { return };
    let database = machine.repository("shop", SETTINGS, &["backend"]);
    machine.script(Owner, "cd ~/shop && loopctl --quiet test add T-1 --loop backend --spec go && mkdir ~/there", &[]);
    let moved = disk.path().join("home/there/shop/coding-loops/coordination.db");
    for block in &blocks {
        let place = if moved.exists() { "~/there/shop" } else { "~/shop" };
        let environment = format!(
            "export NAME=shop LOOP=backend TEST=T-1 THERE=$HOME/there SOURCE={PROJECT} CODING_LOOPS_BIN=/srv/new; cd {place}"
        );
        println!("{}", machine.script(Owner, &format!("set -o pipefail; {environment}\n{}", block.text), &[]));
        match block.heading.as_str() {
            "Services" => {
                wait_until("the agent to be at work", || disk.path().join("home/at-work").exists());
            }
            // What answers from now on is the moved one.
            "Move to another machine" if !moved.exists() => {
                machine.script(Owner, "mv ~/shop ~/old && mv ~/shop-loops ~/old-loops && mkdir ~/shop", &[]);
            }
            "Move to another machine" => {
                machine.until_sql(&moved, "SELECT count(*) FROM component_health WHERE status = 'healthy'", "6");
                assert_eq!(query(&moved, "SELECT loop_id FROM tests WHERE id = 'T-1'").unwrap().trim(), "backend");
            }
            "Removal" => {
                let left = "cd ~/there && (cd shop && git for-each-ref --format='%(refname)') && ls -A . shop/coding-loops && ls ~/.local/bin";
                // What the operator has put aside is the operator's.
                let expected = "refs/heads/main\n.:\nshop\n\nshop/coding-loops:\n.gitignore\ndamaged";
                assert_eq!(machine.script(Owner, left, &[]), expected);
                continue;
            }
            _ => {}
        }
        if !block.text.contains("service disable") {
            for name in supervisors() {
                machine.until_property(Owner, &format!("coding-loops-{name}@shop.service"), "ActiveState", "active");
            }
        }
    }
    assert!(database.parent().is_some_and(|folder| !folder.exists()));
}
