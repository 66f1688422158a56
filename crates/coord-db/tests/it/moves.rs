//! Every move of every state machine from every state: it happens as its table says, or it is a typed error and changes
//! nothing.

use std::sync::Arc;

use coord_db::process::ProcessIdentity;
use coord_db::{
    ActorId, AlertType, CheckpointType, CleanUp, ComponentId, Database, Error, ErrorCategory, FailedAttempt, HealthStatus,
    LandingState, LoopStatus, ManualClock, MigrationStatus, NewAlert, NewCheckpoint, NewLanding, NewTest, PassedAttempt,
    Severity, TestId, TestMove, TestStatus, UnlockCause, WriteTx,
};
use test_support::{NOW, new_loop, new_test};

use crate::common::id;

fn world() -> Database {
    let clock = ManualClock::new(NOW);
    let db = test_support::in_memory(Arc::new(clock));
    db.write(|tx| {
        for name in ["a", "b"] {
            tx.add_loop(&new_loop(name))?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    db
}

fn t1() -> TestId {
    "t1".parse().unwrap()
}

fn illegal<T: std::fmt::Debug>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::IllegalMove { .. }))
}

/// Everything that the tables hold, so that a refusal can be seen to change nothing.
fn content(db: &Database) -> String {
    test_support::content(db)
}

fn failed(category: ErrorCategory) -> FailedAttempt {
    FailedAttempt::new(category, "why")
}

fn passed() -> PassedAttempt {
    PassedAttempt {
        commit: "c0ffee".to_owned(),
        checks: vec![("check".to_owned(), true)],
        duration_seconds: 1,
        tokens_estimated: None,
        files_modified: Vec::new(),
    }
}

fn test_in(status: TestStatus) -> Database {
    let db = world();
    db.write(|tx| {
        let new = NewTest { max_attempts: 1, ..new_test(t1().as_str(), "a") };
        assert_eq!(tx.import_tests(&[new])?, []);
        if !matches!(status, TestStatus::Pending | TestStatus::Skipped) {
            tx.claim_next_test(&id("a"), true)?;
        }
        match status {
            TestStatus::Pending | TestStatus::InProgress => {}
            TestStatus::Passed => drop(tx.record_passed(&t1(), &id("a"), &passed())?),
            TestStatus::Failed => drop(tx.record_failed(&t1(), &id("a"), &failed(ErrorCategory::Permanent))?),
            TestStatus::Blocked => drop(tx.record_failed(&t1(), &id("a"), &failed(ErrorCategory::Code))?),
            TestStatus::Skipped => tx.skip_test(&t1(), None)?,
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(db.read(|tx| tx.test(&t1())).unwrap().status, status);
    db
}

fn move_test(tx: &WriteTx<'_>, what: TestMove) -> Result<(), Error> {
    let (test, a) = (t1(), id("a"));
    match what {
        // The one claim that there is takes the next pending test; another one's is never touched.
        TestMove::Claim => match tx.claim_next_test(&a, true) {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(Error::Refused(_)) => {
                let status = tx.test(&test)?.status.to_string();
                Err(Error::IllegalMove { what: "test", id: test.to_string(), state: status, action: String::new() })
            }
            Err(other) => Err(other),
        },
        TestMove::Pass => tx.record_passed(&test, &a, &passed()).map(drop),
        TestMove::Fail => tx.record_failed(&test, &a, &failed(ErrorCategory::Code)).map(drop),
        TestMove::GiveBack => tx.give_back(&test, &a, "why"),
        TestMove::Skip => tx.skip_test(&test, Some("why")),
        TestMove::Reset => tx.reset_test(&test),
        TestMove::HandOn => tx.move_test(&test, &id("b")),
        TestMove::Delay => tx.delay_test(&test, tx.now().plus_seconds(60)),
        TestMove::ClearDependency => tx.clear_dependency(&test).map(drop),
    }
}

#[test]
fn every_move_of_a_test() {
    use TestStatus::{Blocked, Failed, InProgress, Passed, Pending, Skipped};
    let all = [Pending, InProgress, Passed, Failed, Blocked, Skipped];
    for what in TestMove::ALL {
        let (legal_from, to): (&[TestStatus], Option<TestStatus>) = match what {
            TestMove::Claim => (&[Pending], Some(InProgress)),
            TestMove::Pass => (&[InProgress], Some(Passed)),
            TestMove::Fail => (&[InProgress], Some(Blocked)),
            TestMove::GiveBack => (&[InProgress], Some(Pending)),
            TestMove::Skip => (&[Pending, InProgress, Failed, Blocked], Some(Skipped)),
            TestMove::Reset => (&[Pending, Passed, Failed, Blocked, Skipped], Some(Pending)),
            TestMove::HandOn | TestMove::Delay => (&[Pending], None),
            TestMove::ClearDependency => (&[Pending, Failed, Blocked, Skipped], None),
        };
        for from in all {
            let db = test_in(from);
            let before = content(&db);
            let answer = db.write(|tx| move_test(tx, *what));
            let after = db.read(|tx| tx.test(&t1())).unwrap().status;
            if legal_from.contains(&from) {
                answer.unwrap_or_else(|error| panic!("{what:?} from {from}: {error}"));
                assert_eq!(after, to.unwrap_or(from), "{what:?} from {from}");
            } else {
                assert!(illegal(&answer), "{what:?} from {from}: {answer:?}");
                assert_eq!(content(&db), before, "{what:?} from {from}");
            }
        }
    }
    // Another loop's test is not one's own to end.
    let db = test_in(InProgress);
    for answer in [
        db.write(|tx| tx.record_passed(&t1(), &id("b"), &passed()).map(drop)),
        db.write(|tx| tx.record_failed(&t1(), &id("b"), &failed(ErrorCategory::Code)).map(drop)),
        db.write(|tx| tx.give_back(&t1(), &id("b"), "why")),
    ] {
        assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
    }
}

fn loop_in(status: LoopStatus) -> Database {
    let db = world();
    db.write(|tx| match status {
        LoopStatus::Stopped => Ok(()),
        LoopStatus::Running | LoopStatus::Paused => tx.set_loop_status(&id("a"), status),
        LoopStatus::Error => {
            tx.set_loop_status(&id("a"), LoopStatus::Running)?;
            let how = CleanUp {
                source: "heartbeat".parse()?,
                cause: UnlockCause::OwnerDied,
                status: LoopStatus::Error,
                reason: "died".to_owned(),
            };
            tx.clean_up_loop(&id("a"), &how, None)
        }
    })
    .unwrap();
    db
}

#[test]
fn every_move_of_a_loop() {
    use LoopStatus::{Error as Dead, Paused, Running, Stopped};
    for from in LoopStatus::ALL {
        for to in LoopStatus::ALL {
            for pause in [false, true] {
                let db = loop_in(*from);
                if pause {
                    db.write(|tx| tx.add_pause(&id("a"), &ActorId::human(), "why", None)).unwrap();
                }
                let legal = !(matches!((*from, *to), (_, Dead) | (Dead, Stopped)) || pause && *to == Running);
                let before = content(&db);
                let answer = db.write(|tx| tx.set_loop_status(&id("a"), *to));
                let row = db.read(|tx| tx.loop_row(&id("a"))).unwrap();
                if legal {
                    answer.unwrap();
                    assert_eq!((row.status, row.died_at), (*to, None));
                } else {
                    assert!(illegal(&answer), "{from} to {to}: {answer:?}");
                    assert_eq!(content(&db), before);
                }
            }
        }
        // The clean-up, a start, a stop and a hand that drives it are legal from everywhere.
        for to in [Running, Paused, Stopped, Dead] {
            let db = loop_in(*from);
            let how =
                CleanUp { source: ActorId::from(&id("a")), cause: UnlockCause::Released, status: to, reason: String::new() };
            db.write(|tx| tx.clean_up_loop(&id("a"), &how, None)).unwrap();
            let row = db.read(|tx| tx.loop_row(&id("a"))).unwrap();
            assert_eq!((row.status, row.died_at.is_some()), (to, to == Dead));
        }
        for pause in [false, true] {
            let db = loop_in(*from);
            if pause {
                db.write(|tx| tx.add_pause(&id("a"), &ActorId::human(), "why", None)).unwrap();
            }
            db.write(|tx| tx.touch_by_hand(&id("a"))).unwrap();
            let expected = match (*from, pause) {
                (Running, _) | (Stopped | Dead, false) => Running,
                _ => Paused,
            };
            assert_eq!(db.read(|tx| tx.loop_row(&id("a"))).unwrap().status, expected, "{from} {pause}");
            db.write(|tx| tx.start_loop(&id("a"), &ProcessIdentity::own(), "1")).unwrap();
            assert_eq!(db.read(|tx| tx.loop_row(&id("a"))).unwrap().status, if pause { Paused } else { Running });
            db.write(|tx| tx.stop_loop(&id("a"), "over")).unwrap();
            // The second stop records no second shutdown.
            db.write(|tx| tx.stop_loop(&id("a"), "over")).unwrap();
            assert_eq!(db.read(|tx| tx.loop_row(&id("a"))).unwrap().status, Stopped);
            assert_eq!(
                db.query_foreign("SELECT count(*) FROM events WHERE event_type = 'component_stopped'").unwrap()[0][0]
                    .as_deref(),
                Some("1")
            );
        }
    }
    let unknown = world().write(|tx| tx.set_loop_status(&id("nobody"), Running));
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
}

#[test]
fn a_loop_that_claims_is_running_and_a_paused_one_is_refused() {
    let claim = |db: &Database| db.write(|tx| tx.claim_next_test(&id("a"), true));
    let db = test_in(TestStatus::Pending);
    assert!(claim(&db).unwrap().is_some());
    assert_eq!(db.read(|tx| tx.loop_row(&id("a"))).unwrap().status, LoopStatus::Running);
    assert_eq!(db.check().unwrap(), []);
    let db = test_in(TestStatus::Pending);
    db.write(|tx| tx.add_pause(&id("a"), &ActorId::human(), "why", None)).unwrap();
    assert!(matches!(claim(&db), Err(Error::Refused(_))));
    assert_eq!(db.read(|tx| tx.test(&t1())).unwrap().status, TestStatus::Pending);
}

fn component_in(status: HealthStatus) -> Database {
    let db = world();
    let component: ComponentId = "monitor".parse().unwrap();
    db.write(|tx| {
        tx.start_component(&component, &ProcessIdentity::own(), "1")?;
        match status {
            HealthStatus::Healthy | HealthStatus::Degraded => tx.beat(&component, status, None),
            HealthStatus::Unknown => tx.stop_component(&component, "over"),
            HealthStatus::Dead => {
                let row = tx.component("monitor")?.unwrap();
                tx.judge_component(&row, HealthStatus::Dead).map(drop)
            }
        }
    })
    .unwrap();
    db
}

#[test]
fn every_move_of_a_components_health() {
    use HealthStatus::{Dead, Degraded, Healthy, Unknown};
    let component: ComponentId = "monitor".parse().unwrap();
    let status = |db: &Database| db.read(|tx| tx.component("monitor")).unwrap().unwrap().status;
    for from in HealthStatus::ALL {
        for to in HealthStatus::ALL {
            let db = component_in(*from);
            let before = content(&db);
            let answer = db.write(|tx| tx.beat(&component, *to, None));
            if matches!(to, Healthy | Degraded) {
                answer.unwrap();
                assert_eq!(status(&db), *to);
            } else {
                assert!(illegal(&answer), "{from} beats {to}: {answer:?}");
                assert_eq!(content(&db), before);
            }
            let db = component_in(*from);
            let before = content(&db);
            let row = db.read(|tx| tx.component("monitor")).unwrap().unwrap();
            let answer = db.write(|tx| tx.judge_component(&row, *to));
            if *to == Dead || (*from != Unknown && *to != Unknown) {
                assert!(answer.unwrap());
                assert_eq!(status(&db), *to);
                // A row that has changed since it was read is not judged.
                db.execute_foreign("UPDATE component_health SET pid = 1").unwrap();
                assert!(!db.write(|tx| tx.judge_component(&row, *to)).unwrap());
            } else {
                assert!(illegal(&answer), "{from} judged {to}: {answer:?}");
                assert_eq!(content(&db), before);
            }
        }
        let db = component_in(*from);
        let answer = db.write(|tx| tx.stop_component(&component, "over"));
        assert_eq!(illegal(&answer), *from == Unknown, "{from} stops: {answer:?}");
        assert_eq!(status(&db), Unknown);
    }
    assert!(matches!(world().write(|tx| tx.stop_component(&component, "over")), Err(Error::NotFound { .. })));
}

#[test]
fn every_move_of_an_alert() {
    for (acknowledged, closed) in [(false, false), (true, false), (false, true), (true, true)] {
        let db = world();
        let new = NewAlert {
            fingerprint: "f".to_owned(),
            severity: Severity::Info,
            alert_type: AlertType::Stuck,
            source: "monitor".to_owned(),
            message: "m".to_owned(),
            context: serde_json::json!({}),
            event_id: None,
        };
        db.write(|tx| tx.raise_alert(&new)).unwrap();
        let alert = db.read(|tx| tx.alerts(false)).unwrap()[0].id.clone();
        if acknowledged {
            db.write(|tx| tx.acknowledge_alert(&alert, "human")).unwrap();
        }
        if closed {
            assert!(db.write(|tx| tx.close_alert("f")).unwrap());
        }
        let before = content(&db);
        let answer = db.write(|tx| tx.acknowledge_alert(&alert, "other"));
        if acknowledged || closed {
            assert!(illegal(&answer), "{answer:?}");
            assert_eq!(content(&db), before);
        } else {
            answer.unwrap();
            assert_eq!(db.read(|tx| tx.alert(&alert)).unwrap().acknowledged_by.as_deref(), Some("other"));
        }
        // The second close has no effect. A new cause is a new alert.
        assert_eq!(db.write(|tx| tx.close_alert("f")).unwrap(), !closed);
        db.write(|tx| tx.raise_alert(&new)).unwrap();
        assert_eq!(db.read(|tx| tx.alerts(false)).unwrap().len(), 2);
    }
    assert!(matches!(world().write(|tx| tx.acknowledge_alert("x", "human")), Err(Error::NotFound { .. })));
}

#[test]
fn every_move_of_a_checkpoint() {
    let new = |loop_id: &str, test: Option<&str>, git_ref: &str| NewCheckpoint {
        loop_id: id(loop_id),
        test_id: test.map(|test| test.parse().unwrap()),
        git_ref: git_ref.to_owned(),
        checkpoint_type: CheckpointType::Branch,
        commit_hash: "c0ffee".to_owned(),
        reason: String::new(),
    };
    let db = world();
    let add = |new: &NewCheckpoint| db.write(|tx| tx.add_checkpoint(new));
    assert!(matches!(add(&new("nobody", None, "r")), Err(Error::NotFound { what: "loop", .. })));
    assert!(matches!(add(&new("a", Some("none"), "r")), Err(Error::NotFound { what: "test", .. })));
    assert!(matches!(add(&new("a", None, "")), Err(Error::Invalid(_))));
    let checkpoint = add(&new("a", None, "refs/x")).unwrap();
    let back = |loop_id: &str| db.read(|tx| tx.rollback_checkpoint(&checkpoint, &id(loop_id)));
    assert_eq!(back("a").unwrap().git_ref, "refs/x");
    assert!(matches!(back("b"), Err(Error::Refused(_))));
    db.write(|tx| tx.delete_checkpoint(&checkpoint)).unwrap();
    assert!(illegal(&back("a")));
    let before = content(&db);
    assert!(illegal(&db.write(|tx| tx.delete_checkpoint(&checkpoint))));
    assert_eq!(content(&db), before);
    assert!(matches!(db.write(|tx| tx.delete_checkpoint("none")), Err(Error::NotFound { .. })));
    assert_eq!(db.read(|tx| tx.checkpoints(None, false)).unwrap(), []);
}

#[test]
fn a_baseline_begins_with_a_verified_pass_and_moves_on_from_there() {
    for status in TestStatus::ALL {
        let db = test_in(*status);
        let answer = db.write(|tx| tx.advance_baseline(&t1(), "beef", 3));
        assert_eq!(illegal(&answer), *status != TestStatus::Passed, "{status}: {answer:?}");
    }
    let db = test_in(TestStatus::Passed);
    assert!(matches!(db.write(|tx| tx.advance_baseline(&t1(), "", 3)), Err(Error::Invalid(_))));
    // Put back, it has to pass again, and what it once passed at is known all the same.
    db.write(|tx| tx.reset_test(&t1())).unwrap();
    db.write(|tx| tx.advance_baseline(&t1(), "beef", 3)).unwrap();
    let commits: Vec<String> =
        db.read(|tx| tx.baselines(Some(&t1()))).unwrap().into_iter().map(|row| row.commit_hash).collect();
    assert_eq!(commits, ["c0ffee", "beef"]);
}

#[test]
fn every_move_of_a_subscription() {
    let db = world();
    let types = ["custom.x".to_owned()];
    for own in ["monitor", "human", "a"] {
        let own: ActorId = own.parse().unwrap();
        assert!(matches!(db.write(|tx| tx.subscribe(&own, &types, None)), Err(Error::Refused(_))));
        assert!(matches!(db.write(|tx| tx.unsubscribe(&own)), Err(Error::Refused(_))));
    }
    let watch: ActorId = "watch".parse().unwrap();
    let active = || db.read(|tx| tx.subscriptions(Some("watch"))).unwrap().iter().map(|row| row.active).collect::<Vec<_>>();
    assert!(matches!(db.write(|tx| tx.unsubscribe(&watch)), Err(Error::NotFound { .. })));
    assert!(matches!(db.write(|tx| tx.subscribe(&watch, &[], None)), Err(Error::Invalid(_))));
    for _ in 0..2 {
        db.write(|tx| tx.subscribe(&watch, &types, None)).unwrap();
        assert_eq!(active(), [true]);
        db.write(|tx| tx.subscribe(&watch, &types, None)).unwrap();
        db.write(|tx| tx.unsubscribe(&watch)).unwrap();
        assert_eq!(active(), [false]);
        assert!(illegal(&db.write(|tx| tx.unsubscribe(&watch))));
    }
}

#[test]
fn every_move_of_a_migration() {
    use MigrationStatus::{Applied, Failed, Pending};
    for from in MigrationStatus::ALL {
        for to in MigrationStatus::ALL {
            let db = world();
            let number = db.write(|tx| tx.allocate_migration("m", &id("a"), None)).unwrap();
            if *from != Pending {
                db.write(|tx| tx.end_migration(number, *from, &ActorId::human())).unwrap();
            }
            let before = content(&db);
            let answer = db.write(|tx| tx.end_migration(number, *to, &ActorId::from(&id("a"))));
            if *from == Pending && matches!(to, Applied | Failed) {
                answer.unwrap();
                let row = db.read(|tx| tx.migration(number)).unwrap();
                assert_eq!((row.status, row.applied_at.is_some()), (*to, *to == Applied));
            } else {
                assert!(illegal(&answer), "{from} to {to}: {answer:?}");
                assert_eq!(content(&db), before);
            }
        }
    }
    let db = world();
    db.write(|tx| tx.allocate_migration("m", &id("a"), None)).unwrap();
    for by in ["b", "pm"] {
        let answer = db.write(|tx| tx.end_migration(1, Failed, &by.parse()?));
        assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
    }
    assert!(matches!(db.write(|tx| tx.end_migration(2, Failed, &ActorId::human())), Err(Error::NotFound { .. })));
}

#[test]
fn a_loop_keeps_its_current_test_when_another_test_has_landed() {
    let db = test_in(TestStatus::InProgress);
    let landed: TestId = "t2".parse().unwrap();
    db.execute_foreign("INSERT INTO tests (id, loop_id) VALUES ('t2', 'a')").unwrap();
    db.write(|tx| tx.adopt_landed(&landed, &id("a"), &passed())).unwrap();
    assert_eq!(db.read(|tx| tx.loop_row(&id("a"))).unwrap().current_test_id, Some(t1()));
}

fn landing_in(state: LandingState) -> Database {
    let db = test_in(TestStatus::InProgress);
    let new = NewLanding {
        id: "l".to_owned(),
        test_id: t1(),
        loop_id: id("a"),
        attempt: 1,
        urgent: false,
        base_tree: "b".to_owned(),
        tree: "t".to_owned(),
        head: "h".to_owned(),
        commit_hash: "c".to_owned(),
        theirs: None,
        proof: "p".to_owned(),
        checks: Vec::new(),
        seconds: 0,
        tokens: None,
        files: Vec::new(),
    };
    db.write(|tx| tx.queue_landing(&new, &[])).unwrap();
    move_landing(&db, state);
    db
}

fn move_landing(db: &Database, to: LandingState) {
    db.write(|tx| match to {
        LandingState::Queued => tx.judge_landings(&[]),
        LandingState::Judging => tx.judge_landings(&["l".to_owned()]),
        LandingState::Landed | LandingState::Returned | LandingState::Withdrawn => {
            tx.end_landing("l", to, None, Some("why"), &[]).map(drop)
        }
    })
    .unwrap();
}

#[test]
fn finished_work_moves_as_its_table_says() {
    for from in LandingState::ALL {
        for to in LandingState::ALL {
            let db = landing_in(*from);
            let before = content(&db);
            move_landing(&db, *to);
            let landing = db.read(|tx| tx.landing("l")).unwrap().unwrap();
            if from.may_become(*to) {
                assert_eq!(
                    (landing.state, landing.ended_at.is_some()),
                    (*to, !to.may_become(LandingState::Landed)),
                    "{from} to {to}"
                );
                let is_saved = matches!(to, LandingState::Returned | LandingState::Withdrawn);
                assert_eq!(db.read(|tx| tx.checkpoints(None, false)).unwrap().len(), usize::from(is_saved), "{from} to {to}");
            } else {
                assert_eq!(content(&db), before, "{from} to {to}");
            }
        }
    }
}
