//! The live page in a real Chromium: every view at two widths, light and dark, by keyboard and by tap; open for long.
//! `STEADY_SECONDS` makes that longer.

use std::process::Command;

use system_tests::night::Night;
use system_tests::processes::World;
use system_tests::project;
use system_tests::web::Web;
use test_support::sql;

/// False, aloud, if nothing can be tested here.
fn has_chromium() -> bool {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let has = has("chromium") && has("chromedriver");
    if !has {
        println!("SKIPPED, NOTHING WAS TESTED: chromium and chromedriver are not installed here");
    }
    has
}

#[test]
fn a_person_walks_through_every_view() {
    if !has_chromium() {
        return;
    }
    let world = World::new();
    sql(&world.path(), &Night::SMALL.sql());
    world.settings("[budget]\ntokens_per_day = 6000000\nusd_per_day = 40.0\n");
    let web = Web::start(&world, &[]);
    let report = world.folder().join("report.html");
    assert!(world.loopctl(&["report", "--since", "24h", "--output", &report.to_string_lossy()]).status.success());
    // Where a person looks at them: CODING_LOOPS_PICTURES=folder.
    let pictures = std::env::var_os("CODING_LOOPS_PICTURES").map_or_else(|| world.folder().join("pictures"), Into::into);
    std::fs::create_dir_all(&pictures).unwrap();
    let mut walk = Command::new("python3");
    walk.arg("-B").arg(project().join("tests/browser/walk.py")).arg(&web.url).arg(world.path()).arg(&pictures).arg(&report);
    // Ours is the time zone of the pictures.
    let output = walk.env("TZ", "UTC").output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{errors}\n{}", world.logs());
    assert!(web.process.terminate().success());
}

#[test]
fn pages_that_stay_open_hold_no_more_with_each_event() {
    if !has_chromium() {
        return;
    }
    let seconds = std::env::var("STEADY_SECONDS").unwrap_or_else(|_| "14".to_owned());
    let world = World::new();
    sql(&world.path(), &Night::SMALL.sql());
    let web = Web::start(&world, &[]);
    let mut steady = Command::new("python3");
    steady.arg("-B").arg(project().join("tests/browser/steady.py")).arg(seconds).arg(web.process.pid().to_string());
    // What it prints is seen as it comes.
    let status = steady.arg(&web.url).arg(world.path()).status().unwrap();
    assert!(status.success(), "{}", world.logs());
    assert!(web.process.terminate().success());
}
