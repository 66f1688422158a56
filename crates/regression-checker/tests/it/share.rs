//! Never more than its share of the machine: nice, and one suite at a time unless the settings allow more. Both as the
//! checks themselves see it.

use crate::common::World;

/// What each run of a check sees: its niceness, and how many runs there are at that moment. It lingers, so that a second one
/// beside it is seen.
const WITNESS: &str = r#"
runs="$RUNS"; mine="$runs.at.$$"; : > "$mine"
echo "$(nice) $(ls "$runs".at.* | wc -l)" >> "$runs"
sleep 0.2; rm "$mine"
for each in state/*; do [ "$(cat "$each")" = ok ] || exit 1; done
"#;

/// The nice values that were seen, and the most runs at once.
fn seen(world: &World) -> (Vec<i32>, usize) {
    let (mut nice, mut most) = (Vec::new(), 0);
    for line in world.runs() {
        let (value, at_once) = line.split_once(' ').unwrap();
        nice.push(value.parse().unwrap());
        most = most.max(at_once.trim().parse().unwrap());
    }
    nice.dedup();
    (nice, most)
}

/// Nobody may be less nice than who started it.
fn at_least(nice: i32) -> i32 {
    let own = std::process::Command::new("nice").output().unwrap();
    nice.max(String::from_utf8(own.stdout).unwrap().trim().parse().unwrap())
}

/// Two checks, a baseline at the first commit, and a commit in the middle that breaks it.
fn broken(settings: &str) -> World {
    let world = World::with_baseline();
    let command = world.script(WITNESS);
    let second = format!("[[gate.check]]\nname = \"second\"\ncommand = {command}\n");
    world.configure_with(&command, &format!("{settings}\n{second}"));
    world.history(5, 3);
    world
}

#[test]
fn a_suite_runs_alone_and_nice() {
    let world = broken("[regression]\nretries = 1\nparallel = 1");
    world.once();
    let (nice, most) = seen(&world);
    assert!(world.runs().len() > 6, "suites, retries, single tests and a search: {:?}", world.runs());
    assert_eq!((nice, most), (vec![at_least(10)], 1));
    assert_eq!(world.events("regression_detected").len(), 1);
}

#[test]
fn niceness_and_parallelism_follow_the_settings() {
    let world = broken("[regression]\nretries = 0\nparallel = 3\nnice = 15");
    world.once();
    let (nice, most) = seen(&world);
    assert_eq!(nice, [at_least(15)]);
    assert!(most <= 3, "{:?}", world.runs());
    // Outside of a search it is one, however many a search may take: the last run before it counted itself alone.
    assert!(world.runs()[0].ends_with(" 1"), "{:?}", world.runs());
}
