//! A human in one process and the time limit in another: one of them decides, and nobody receives another result.

use crate::common::World;
use coord_db::{ActorId, Database, DecisionId, Error, OpenOptions};

/// Rounds; `DECISION_ROUNDS` sets another number.
fn rounds() -> usize {
    std::env::var("DECISION_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// Answers until something is said: yes, or that it is settled.
fn answer(db: &Database, id: &DecisionId, choice: &str) -> Result<(), Error> {
    match db.write(|tx| tx.answer(id, choice, None, &ActorId::human(), "cli")) {
        Ok(_) => Ok(()),
        Err(error @ Error::Settled { .. }) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn of_the_human_and_the_time_limit_exactly_one_decides() {
    let world = World::new();
    let daemon = world.daemon();
    let (mut human, mut auto) = (0, 0);
    for round in 0..rounds() {
        let id = format!("d{round}");
        // Due long before the humans answer, about when they do, or after.
        let due = ["-1.0", "-1.0", "+0.003", "+0.006", "+0.012", "+0.05"][round % 6];
        world.sql(&format!(
            r#"INSERT INTO decisions (id, decision_type, summary, options, default_option, expires_at)
               VALUES ('{id}', 'x', 's', '["yes", "no", "perhaps"]', 'yes', strftime('%Y-%m-%d %H:%M:%f', 'now', '{due} seconds'))"#
        ));
        let answers: Vec<_> = ["no", "perhaps"]
            .map(|choice| {
                let (path, id): (_, DecisionId) = (world.path.clone(), id.parse().unwrap());
                std::thread::spawn(move || {
                    let db = Database::open(&path, &OpenOptions::default()).unwrap();
                    answer(&db, &id, choice).map(|()| choice)
                })
            })
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        world.until(&format!("SELECT status <> 'pending' FROM decisions WHERE id = '{id}'"), "1");
        let decided = world.sql(&format!("SELECT status, choice FROM decisions WHERE id = '{id}'"));
        let accepted: Vec<&&str> = answers.iter().flatten().collect();
        match accepted[..] {
            [] => {
                auto += 1;
                assert_eq!(decided, "auto_resolved|yes");
            }
            [choice] => {
                human += 1;
                assert_eq!(decided, format!("decided|{choice}"), "an accepted answer counts");
            }
            _ => panic!("both answers were accepted: {answers:?}"),
        }
        let said = world.sql(&format!(
            "SELECT count(*) FROM events WHERE event_type = 'decision_resolved' AND json_extract(payload, '$.decision_id') = '{id}'"
        ));
        assert_eq!(said, "1");
    }
    println!("the human decided {human} times, time {auto} times");
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// After a failed pass, or an unclean start, pm takes its deliveries one at a time, and sees that a question is due before it
/// sees the answer.
#[test]
fn an_answer_behind_other_deliveries_is_not_overruled_by_the_time_limit() {
    let world = World::new();
    world.sql(
        r#"INSERT INTO decisions (id, decision_type, summary, options, default_option, expires_at)
           VALUES ('d', 'x', 's', '["yes", "no"]', 'yes', strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 hour'))"#,
    );
    for number in 0..150 {
        world.sql(&format!(
            "INSERT INTO events (id, source, event_type, payload, priority)
             VALUES ('e{number}', 'human', 'summary_requested', '{{\"requested_by\":\"human\",\"scope\":\"all\",\"since_hours\":1}}', 1)"
        ));
    }
    let id: DecisionId = "d".parse().unwrap();
    answer(&world.db, &id, "no").unwrap();
    world.sql("UPDATE decisions SET expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 hour')");
    world.once();
    assert_eq!(world.sql("SELECT status, choice FROM decisions"), "decided|no");
    assert!(answer(&world.db, &id, "yes").unwrap_err().to_string().contains("\"no\", by human"));
    world.settled();
}
