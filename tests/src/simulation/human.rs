//! Those who are no part of the system and use it: a human with `loopctl`, and another tool that writes into the database
//! with plain SQL, filling in only what it knows.

use coord_db::{ActorId, Error, LoopId, NewEvent, Result, Test, TestStatus, UnlockCause, payload};

use super::engine::{Actor, Step};
use super::world::World;

/// A person who looks in now and then, and does one thing.
#[derive(Debug, Default)]
pub struct Human;

fn pick<T: Clone>(world: &mut World, from: &[T]) -> Option<T> {
    if from.is_empty() { None } else { Some(from[world.rng.usize(0..from.len())].clone()) }
}

fn loops(world: &World) -> Vec<LoopId> {
    world.read(|tx| tx.loops()).into_iter().map(|row| row.id).filter(|id| !id.as_str().starts_with("ghost")).collect()
}

impl Human {
    fn resume_everyone(world: &mut World) -> Result<Option<String>> {
        let mut resumed = Vec::new();
        for id in loops(world) {
            let paused = world.read(|tx| Ok(!tx.pauses(Some(&id))?.is_empty()));
            let asked = world
                .read(|tx| tx.pending_deliveries(id.as_str(), usize::MAX))
                .iter()
                .any(|delivery| delivery.event.event_type == "resume_requested" && delivery.event.source == "human");
            if paused && !asked {
                let payload = payload::ResumeRequested {
                    loop_id: id.clone(),
                    reason: "go on".to_owned(),
                    requested_by: ActorId::human(),
                };
                world.write(|tx| tx.publish(&NewEvent::new(ActorId::human(), payload)))?;
                resumed.push(id.to_string());
            }
        }
        Ok((!resumed.is_empty()).then(|| format!("resumes {}", resumed.join(", "))))
    }

    fn act(world: &mut World) -> Result<Option<String>> {
        let human = ActorId::human();
        let all = loops(world);
        let Some(id) = pick(world, &all) else { return Ok(None) };
        let reason = "because I say so".to_owned();
        let tests = world.read(|tx| tx.tests(None, None));
        Ok(match world.rng.u32(0..15) {
            0 | 1 => {
                let payload = payload::PauseRequested { loop_id: id.clone(), reason, requested_by: human.clone() };
                let driven = world.read(|tx| tx.loop_row(&id)).pid.is_some();
                if !driven {
                    world.ledger.acting.insert(id.to_string());
                }
                let paused = world.write(|tx| {
                    tx.publish(&NewEvent::new(human, payload))?;
                    // Nobody else would take the request for a loop without a process.
                    if !driven {
                        let pauses = tx.settle_pauses(&id)?;
                        tx.apply_pauses(&id, &pauses)?;
                        for test in tx.tests(Some(&id), Some(TestStatus::InProgress))? {
                            if tx.open_landing(&test.id)?.is_none() {
                                tx.give_back(&test.id, &id, "paused by human")?;
                            }
                        }
                        tx.release_everything(id.as_str(), &ActorId::from(&id), UnlockCause::Released, None)?;
                    }
                    Ok(())
                });
                paused?;
                Some(format!("pauses {id}"))
            }
            2..5 => Self::resume_everyone(world)?,
            5 => {
                let Some(test) = pick(world, &tests) else { return Ok(None) };
                let skipped = world.write(|tx| tx.skip_test(&test.id, Some(&reason)));
                skipped.is_ok().then(|| format!("skips {}", test.id))
            }
            6 => {
                let queued = world.read(|tx| tx.open_landings());
                let is_queued = |test: &Test| queued.iter().any(|landing| landing.test_id == test.id);
                let mut ended = tests;
                ended.retain(|test| test.status != TestStatus::InProgress || is_queued(test));
                let Some(test) = pick(world, &ended) else { return Ok(None) };
                match world.write(|tx| tx.reset_test(&test.id)) {
                    // It is judged.
                    Err(Error::Refused(_)) if is_queued(&test) => Some(format!("may not reset {}", test.id)),
                    reset => reset.map(|()| Some(format!("resets {}", test.id)))?,
                }
            }
            7 => {
                let held = world.read(|tx| tx.leases_of(id.as_str()));
                let payload = payload::ForceRelease {
                    loop_id: id.clone(),
                    reason,
                    locks_held: held.iter().map(|lease| lease.file_path.to_string()).collect(),
                    must_rollback: true,
                    cycle: Vec::new(),
                };
                world.write(|tx| {
                    let told = tx.publish(&NewEvent::new(human.clone(), payload))?;
                    let told = tx.event(told.as_str())?;
                    tx.revoke_leases(id.as_str(), &human, UnlockCause::Forced, told.as_ref())
                })?;
                Some(format!("unlocks {id} by force"))
            }
            8 => {
                let payload = payload::RestartRequested { loop_id: id.clone(), reason, requested_by: human.clone() };
                world.write(|tx| tx.publish(&NewEvent::new(human, payload)))?;
                Some(format!("restarts {id}"))
            }
            9 => {
                let payload = payload::RollbackTriggered {
                    loop_id: id.clone(),
                    checkpoint_id: None,
                    reason,
                    triggered_by: human.clone(),
                };
                world.write(|tx| tx.publish(&NewEvent::new(human, payload)))?;
                Some(format!("rolls {id} back"))
            }
            10 => {
                let priority = world.rng.i64(1..9);
                world.write(|tx| tx.set_priority(&id, priority, &reason, &human, None))?;
                Some(format!("gives {id} priority {priority}"))
            }
            _ => {
                let open = world.read(|tx| tx.decisions(true));
                let Some(question) = pick(world, &open) else { return Ok(None) };
                let Some(choice) = pick(world, &question.option_ids()) else { return Ok(None) };
                let answered = world.write(|tx| tx.answer(&question.id, &choice, None, &human, "cli"));
                answered.is_ok().then(|| format!("answers {choice} to {}", question.decision_type))
            }
        })
    }
}

impl Actor for Human {
    fn name(&self) -> &str {
        "human"
    }

    fn actor_id(&self) -> ActorId {
        ActorId::human()
    }

    fn step(&mut self, world: &mut World) -> Result<Step> {
        world.ledger.acting.insert("human".to_owned());
        let open = world.read(|tx| tx.pending_deliveries("human", usize::MAX));
        if !open.is_empty() {
            world.write(|tx| tx.acknowledge("human", open.iter().map(|delivery| &delivery.event.id)))?;
        }
        let next = world.millis(5_000, 90_000) / world.pace;
        let what = if world.calm { Self::resume_everyone(world)? } else { Self::act(world)? };
        // Nobody's commit makes a person look up.
        Ok(Step::deaf(next, what.unwrap_or_default()))
    }

    fn crash(&mut self, _: &mut World) {}
}

/// Another tool on the same database, without our library.
#[derive(Debug, Default)]
pub struct Foreign {
    written: u32,
}

impl Foreign {
    fn sql(&mut self, world: &mut World) -> Option<(String, String)> {
        self.written += 1;
        let number = self.written;
        let all = loops(world);
        let (one, other) = (pick(world, &all)?, pick(world, &all)?);
        // Without milliseconds, as `datetime` writes it.
        let time = |ahead: i64| world.now().plus_seconds(ahead).to_sql_text()[..19].to_owned();
        let (now, soon) = (time(0), time(50));
        let sql = match world.rng.u32(0..11) {
            0 => {
                let payload = r#"{"about": "nothing"}"#;
                let kinds =
                    ["custom.build", "component_started", "human_message", "pause_requested", "test_passed", "unheard_of"];
                let kind = pick(world, &kinds)?;
                format!(
                    "INSERT INTO events (id, timestamp, source, event_type, payload) VALUES ('f{number}', '{now}', 'ghost', '{kind}', '{payload}')"
                )
            }
            1 => format!("INSERT INTO tests (id, loop_id) VALUES ('foreign-{number}', '{one}')"),
            2 => format!(
                "INSERT INTO file_locks (file_path, locked_by, locked_at, expires_at) SELECT 'docs/', 'ghost', '{now}', '{soon}' \
                 WHERE NOT EXISTS (SELECT 1 FROM file_locks WHERE file_path GLOB 'docs*')"
            ),
            3 => format!("INSERT INTO file_locks (file_path, locked_by, locked_at) VALUES ('port:5432', 'ghost', '{now}')"),
            4 if one != other => format!(
                "INSERT INTO wait_graph (waiter, holder, resource, waiting_since, wait_until) VALUES ('{one}', '{other}', 'printer:{number}', '{now}', '{soon}')"
            ),
            5 => format!(
                "INSERT INTO wait_graph (waiter, holder, resource, waiting_since) VALUES ('ghost', '{one}', 'src/a.rs', '{now}')"
            ),
            6 => "UPDATE events SET acknowledged = 1, acknowledged_by = 'human' WHERE id IN \
                  (SELECT event_id FROM deliveries WHERE subscription_id = 'human' AND status = 'pending')"
                .to_owned(),
            9 => format!(
                "INSERT OR IGNORE INTO loops (id, name, priority, status) VALUES ('ghost-loop', 'Ghost', 5, 'running'); \
                 INSERT OR IGNORE INTO file_locks (file_path, locked_by, locked_at) VALUES ('Cargo.toml', 'ghost-loop', '{now}'); \
                 INSERT OR IGNORE INTO wait_graph (waiter, holder, resource, waiting_since) VALUES ('ghost-loop', '{one}', 'src/a.rs', '{now}')"
            ),
            8 => format!(
                "INSERT INTO decisions (id, decision_type, summary, options, timeout_minutes, requested_at) \
                 VALUES ('d{number}', 'architecture', 'tabs?', '[\"yes\", \"no\"]', 1, '{now}')"
            ),
            7 => "DELETE FROM file_locks WHERE locked_by GLOB 'ghost*'; DELETE FROM wait_graph WHERE waiter GLOB 'ghost*'"
                .to_owned(),
            _ => {
                format!("INSERT INTO knowledge (id, item_type, content) VALUES ('k{number}', 'fact', 'the printer is on fire')")
            }
        };
        let verb: Vec<&str> = sql.split_whitespace().take(3).collect();
        Some((format!("writes {}", verb.join(" ")), sql))
    }
}

impl Actor for Foreign {
    fn name(&self) -> &str {
        "another tool"
    }

    fn actor_id(&self) -> ActorId {
        "ghost".parse().expect("an id")
    }

    fn step(&mut self, world: &mut World) -> Result<Step> {
        world.ledger.acting.extend(["foreign".to_owned(), "human".to_owned()]);
        let next = world.millis(10_000, 120_000) / world.pace;
        if world.calm {
            let tidy = "DELETE FROM file_locks WHERE locked_by GLOB 'ghost*'; \
                        DELETE FROM wait_graph WHERE waiter GLOB 'ghost*' OR holder GLOB 'ghost*' OR resource LIKE 'printer:%'; \
                        DELETE FROM loops WHERE id = 'ghost-loop'";
            world.ringing(|world| world.db.execute_foreign(tidy))?;
            return Ok(Step::deaf(60_000, ""));
        }
        let Some((what, sql)) = self.sql(world) else { return Ok(Step::deaf(next, "")) };
        // A shell that is refused has changed nothing.
        let done = world.ringing(|world| world.db.execute_foreign(&sql)).is_ok();
        Ok(Step::deaf(next, if done { what } else { String::new() }))
    }

    fn crash(&mut self, _: &mut World) {}
}
