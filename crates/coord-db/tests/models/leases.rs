//! Random sequences of lease operations against a small model in memory: exclusion, sets, subtrees, expiry, fencing.

use std::collections::BTreeMap;
use std::sync::Arc;

use coord_db::{Acquire, AcquireRequest, Database, Error, LeasePath, LoopId, LoopStatus, ManualClock, NewLoop, Timestamp};
use proptest::prelude::*;

const PATHS: [&str; 8] = ["a", "a/", "a/b", "a/b/", "a/b/c", "d", "port:1", "a/bc"];
const LOOPS: [&str; 3] = ["x", "y", "z"];

#[derive(Debug, Clone)]
enum Step {
    Acquire { by: usize, paths: Vec<usize>, ttl_seconds: i64 },
    Renew { by: usize, grant: usize },
    Release { by: usize, path: usize, grant: Option<usize> },
    Pass { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LOOPS.len(), prop::collection::vec(0..PATHS.len(), 1..3), 1..40_i64)
            .prop_map(|(by, paths, ttl_seconds)| Step::Acquire { by, paths, ttl_seconds }),
        1 => (0..LOOPS.len(), 0..8_usize).prop_map(|(by, grant)| Step::Renew { by, grant }),
        2 => (0..LOOPS.len(), 0..PATHS.len(), prop::option::of(0..8_usize))
            .prop_map(|(by, path, grant)| Step::Release { by, path, grant }),
        2 => (1..30_i64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    by: usize,
    token: i64,
    expires: Timestamp,
    ttl_seconds: i64,
}

/// The rule, said again from the words alone: equal, or one lies in the other's subtree, or a file and the subtree of its name.
pub fn excludes(one: &str, other: &str) -> bool {
    let parts = |path: &str| path.trim_end_matches('/').split('/').map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (parts(one), parts(other));
    a == b || (one.ends_with('/') && b.starts_with(&a)) || (other.ends_with('/') && a.starts_with(&b))
}

struct Model {
    held: BTreeMap<&'static str, Held>,
    now: Timestamp,
    last_token: i64,
}

impl Model {
    fn acquire(&mut self, by: usize, paths: &[&'static str], ttl_seconds: i64) -> bool {
        let others: Vec<&'static str> = self
            .held
            .iter()
            .filter(|(path, held)| held.by != by && paths.iter().any(|wanted| excludes(path, wanted)))
            .map(|(path, _)| *path)
            .collect();
        if others.iter().any(|path| self.held[path].expires > self.now) {
            return false;
        }
        for path in others {
            self.held.remove(path);
        }
        self.last_token += 1;
        for path in paths {
            let expires = self.now.plus_seconds(ttl_seconds);
            self.held.insert(path, Held { by, token: self.last_token, expires, ttl_seconds });
        }
        true
    }

    fn renew(&mut self, by: usize, token: i64) -> bool {
        let ttl = self.held.values().find(|held| held.by == by && held.token == token).map(|held| held.ttl_seconds);
        let Some(ttl) = ttl else { return false };
        for held in self.held.values_mut().filter(|held| held.by == by && held.token == token) {
            held.expires = self.now.plus_seconds(ttl);
        }
        true
    }

    fn release(&mut self, by: usize, path: &str, token: Option<i64>) -> bool {
        let held = self.held.get(path).is_some_and(|held| held.by == by && token.is_none_or(|token| held.token == token));
        if held {
            self.held.remove(path);
        }
        held
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let start = Timestamp::from_millis(1_800_000_000_000);
    let clock = ManualClock::new(start);
    let db = Database::in_memory(Arc::new(clock.clone())).unwrap();
    let ids: Vec<LoopId> = LOOPS.iter().map(|id| id.parse().unwrap()).collect();
    db.write(|tx| {
        for id in &ids {
            tx.add_loop(&NewLoop { id: id.clone(), name: String::new(), priority: 5, branch: None })?;
            tx.set_loop_status(id, LoopStatus::Running)?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let mut model = Model { held: BTreeMap::new(), now: start, last_token: 0 };
    let mut tokens: Vec<i64> = Vec::new();
    let token = |tokens: &[i64], at: usize| tokens.get(at % tokens.len().max(1)).copied().unwrap_or(999);
    for step in steps {
        match step {
            Step::Acquire { by, paths, ttl_seconds } => {
                let paths: Vec<&'static str> = paths.iter().map(|at| PATHS[*at]).collect();
                let request = AcquireRequest {
                    loop_id: ids[*by].clone(),
                    paths: paths.iter().map(|path| path.parse::<LeasePath>().unwrap()).collect(),
                    ttl_seconds: *ttl_seconds,
                    reason: None,
                    test_id: None,
                    automatic: false,
                };
                let expected = model.acquire(*by, &paths, *ttl_seconds);
                match db.write(|tx| tx.acquire(&request, 5)).unwrap() {
                    Acquire::Granted(grant) => {
                        prop_assert!(expected, "granted {step:?}");
                        prop_assert_eq!(grant.fencing_token, model.last_token);
                        tokens.push(grant.fencing_token);
                    }
                    Acquire::Refused(blockers) => {
                        prop_assert!(!expected, "refused {:?} by {:?}", step, blockers);
                    }
                }
            }
            Step::Renew { by, grant } => {
                let token = token(&tokens, *grant);
                let renewed = db.write(|tx| tx.renew(&ids[*by], token, None)).is_ok();
                prop_assert_eq!(renewed, model.renew(*by, token));
            }
            Step::Release { by, path, grant } => {
                let token = grant.map(|at| token(&tokens, at));
                let released = db.write(|tx| tx.release(&ids[*by], &[PATHS[*path].parse().unwrap()], token)).is_ok();
                prop_assert_eq!(released, model.release(*by, PATHS[*path], token));
            }
            Step::Pass { seconds } => {
                clock.advance_millis(seconds * 1000);
                model.now = model.now.plus_seconds(*seconds);
            }
        }
        let rows: Vec<(String, usize, i64, Option<Timestamp>)> = db
            .read(|tx| tx.leases(false))
            .unwrap()
            .into_iter()
            .map(|lease| {
                let by = LOOPS.iter().position(|id| *id == lease.locked_by).unwrap();
                (lease.file_path.to_string(), by, lease.fencing_token, lease.expires_at)
            })
            .collect();
        let expected: Vec<_> =
            model.held.iter().map(|(path, held)| ((*path).to_owned(), held.by, held.token, Some(held.expires))).collect();
        prop_assert_eq!(rows, expected, "after {:?}", step);
    }
    prop_assert_eq!(db.check().unwrap(), []);
    Ok(())
}

proptest! {
    #![proptest_config(crate::config(300))]
    #[test]
    fn leases_do_what_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps)?;
    }
}
