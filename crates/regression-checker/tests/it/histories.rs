//! The real program on a long history of five loops with forty regressions of known origin: each is found, blame is right
//! wherever one commit is to blame, nobody is blamed for what is flaky, and a cause that is not certain is reported as unknown.
//!
//! `HISTORY_COMMITS` (at least 600) makes the history longer, `HISTORY_SEED` another one.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Kind, Planted, Recipe};
use coord_db::{LedgerState, Regression, RegressionStatus};
use test_support::git;

const PROGRAM: &str = env!("CARGO_BIN_EXE_regression-checker");
const FLAKY: [&str; 2] = ["t-flaky-third", "t-flaky-fifth"];
const RETRIES: i64 = 2;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

struct World {
    base: test_support::World,
    history: History,
}

impl World {
    fn new(recipe: &Recipe) -> Self {
        let base = test_support::World::below("coding-loops");
        let history = recipe.make(base.path.ancestors().nth(2).unwrap(), &base.path);
        base.configure(&format!(
            "[repository]\npath = '{}'\n[regression]\nparallel = 2\nshare_percent = 100\nretries = {RETRIES}\n\
             [[gate.check]]\nname = \"tests\"\ncommand = [\"sh\", '{}']\n",
            history.repository.display(),
            history.check.display()
        ));
        Self { base, history }
    }

    fn once(&self) {
        self.base.once(PROGRAM);
        assert_eq!(self.base.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress';"), "0");
    }

    fn regressions(&self) -> Vec<Regression> {
        self.base.db.read(|tx| tx.regressions(false)).unwrap()
    }

    fn said(&self) -> Vec<coord_db::Event> {
        self.base.events("regression_detected")
    }

    fn ledger(&self) -> BTreeMap<String, LedgerState> {
        let lines = self.base.db.read(|tx| tx.ledger(None)).unwrap();
        lines.into_iter().map(|line| (line.test_id.to_string(), line.state)).collect()
    }

    /// What is wrong with what was found about a regression, seen at a head.
    fn wrong(&self, one: &Planted, head: usize, heads: &[usize]) -> Option<String> {
        let commits = &self.history.commits;
        let (culprit, rows) = (&commits[one.at], self.regressions());
        let rows: Vec<&Regression> = rows.iter().filter(|row| row.test_id.as_str() == one.victim).collect();
        let shown = heads.iter().any(|&at| at <= head && one.at <= at && one.fixed_at.is_none_or(|fixed| fixed > at));
        let state = self.ledger()[&one.victim];
        let [row] = rows.as_slice() else {
            return (shown || !rows.is_empty()).then(|| format!("{} entries, state {}", rows.len(), state.as_str()));
        };
        if !shown {
            return Some(format!("it is {} before any head shows it", row.status));
        }
        let over = one.fixed_at.is_some_and(|fixed| fixed <= head);
        let fails = match one.kind {
            _ if over => RegressionStatus::Cleared,
            Kind::Hidden => RegressionStatus::Unknown,
            _ => RegressionStatus::Regressed,
        };
        if row.status != fails {
            return Some(format!("it is {} instead of {fails}: {:?}", row.status, row.bisect));
        }
        let stands = match fails {
            RegressionStatus::Cleared => [LedgerState::Cleared, LedgerState::Good].contains(&state),
            RegressionStatus::Unknown => state == LedgerState::Unknown,
            _ => state == LedgerState::Regressed,
        };
        if !stands {
            return Some(format!("the ledger says {}", state.as_str()));
        }
        if one.kind == Kind::Hidden {
            let text = row.bisect.clone().unwrap_or_default().to_string();
            let suspected = text.contains(&culprit.hash);
            return (row.first_bad_commit.is_some() || row.blamed_loop.is_some() || !suspected)
                .then(|| format!("the commit that does not build is not among the suspects, or one is blamed: {text}"));
        }
        let found = row.first_bad_commit.as_deref().and_then(|hash| commits.iter().position(|commit| commit.hash == hash));
        let blamed = row.blamed_loop.clone().zip(row.blamed_test.clone());
        (found != Some(one.at) || blamed != culprit.by)
            .then(|| format!("{found:?} of {blamed:?} is blamed instead of {} of {:?}", one.at, culprit.by))
    }
}

#[test]
fn every_regression_is_found_and_blame_is_right() {
    let commits = number("HISTORY_COMMITS", 1_024).max(600);
    let heads: Vec<usize> = (1..=4).map(|part| commits * part / 4).collect();
    let kinds = [(Kind::Line, 24), (Kind::Config, 6), (Kind::Interplay, 5), (Kind::FixedByChance, 2), (Kind::Hidden, 3)];
    let recipe = Recipe {
        commits,
        tests: 125,
        planted: kinds.to_vec(),
        from: 200,
        heads: heads.clone(),
        broken_builds: 25,
        pause: String::new(),
        seed: number("HISTORY_SEED", 7) as u64,
    };
    let world = World::new(&recipe);
    assert_eq!(world.history.planted.len(), 40);
    assert!(world.history.commits.iter().filter(|commit| !commit.builds).count() > commits / 40);
    let mut from = 1;
    for &head in &heads {
        world.base.sql(&world.history.rows(from..=head));
        if from == 1 {
            let first = &world.history.commits[0].hash;
            // What landed in the beginning.
            let rows = world.history.tests.iter().map(String::as_str).chain(FLAKY).map(|test| {
                format!(
                    "INSERT OR IGNORE INTO tests(id, loop_id, category, status, verified_at) VALUES ('{test}', 'core', 'build', 'passed', datetime('now', '-2 days'));
                     INSERT INTO passing_tests(test_id, commit_hash, passed_at) VALUES ('{test}', '{first}', datetime('now', '-2 days'));\n"
                )
            });
            world.base.sql(&rows.collect::<String>());
        }
        from = head + 1;
        world.history.move_to(head);
        world.once();
        let wrong: Vec<String> = world
            .history
            .planted
            .iter()
            .filter_map(|one| Some(format!("{one:?} at {head}: {}", world.wrong(one, head, &heads)?)))
            .collect();
        assert!(wrong.is_empty(), "{} of 40 are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
    let victims: BTreeSet<&str> = world.history.planted.iter().map(|one| one.victim.as_str()).collect();
    let said = world.said();
    let told: BTreeSet<String> = said.iter().map(|event| event.payload["test_id"].as_str().unwrap().to_owned()).collect();
    let of = |test: &str| {
        said.iter().filter(|event| event.payload["test_id"] == test).map(|event| &event.payload).collect::<Vec<_>>()
    };
    for test in &told {
        assert_eq!(of(test).len(), 1, "each is said once: {:?}", of(test));
        assert!(victims.contains(test.as_str()), "nothing is said of what is flaky or good: {:?}", of(test));
    }
    let seen = |one: &&Planted| heads.iter().any(|&head| one.at <= head && one.fixed_at.is_none_or(|fixed| fixed > head));
    assert_eq!(told.len(), world.history.planted.iter().filter(seen).count());
    assert!(told.len() < 40, "one was put right before any head showed it");
    let ledger = world.ledger();
    for test in FLAKY {
        assert_eq!(ledger[test], LedgerState::Flaky, "{test}");
    }
    let good = ledger.iter().filter(|(test, _)| !victims.contains(test.as_str()) && !FLAKY.contains(&test.as_str()));
    assert!(good.clone().count() > 80 && good.clone().all(|(_, state)| *state == LedgerState::Good));

    // Two at once take fewer rounds than halving alone would.
    let (mut rounds, mut halvings) = (0, 0);
    for row in world.regressions().iter().filter(|row| row.first_bad_commit.is_some()) {
        rounds += row.bisect.as_ref().unwrap()["rounds"].as_u64().unwrap();
        let count =
            git(&world.history.repository, ["rev-list", "--count", &format!("{}..{}", row.last_good_commit, row.bad_commit)]);
        halvings += u64::from(count.parse::<u64>().unwrap().ilog2());
    }
    assert!(rounds < halvings, "{rounds} rounds, {halvings} halvings");
    eprintln!("{} regressions blamed in {rounds} rounds, where halving takes {halvings}", told.len());
}
