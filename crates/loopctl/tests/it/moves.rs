//! Illegal moves from the command line: exit 1 and one sentence with where the row stands; nothing changes.

use crate::common::Place;

#[test]
fn what_a_row_does_not_allow_is_refused_with_where_it_stands() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    place.run(&["give-back", "t", "--category", "code"]).fails(1).says("test t is pending").says("loopctl next");
    place.run(&["submit", "t"]).fails(1).says("loopctl next");
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["reset", "t"]).fails(1).says("test t is in_progress").says("pause");
    place.run(&["skip", "t"]).ok();
    let twice = place.run(&["skip", "t"]).fails(1).says("test t is skipped; it cannot be skipped");
    assert_eq!(twice.stderr.lines().count(), 1);
    place.run(&["reset", "t"]).ok();

    place.sql("INSERT INTO alerts (id, severity, alert_type, message) VALUES ('al-1', 'info', 'stuck', 'm')");
    place.run(&["ack-alert", "al-1"]).ok();
    place.run(&["--as", "a", "ack-alert", "al-1"]).fails(1).says("acknowledged by human already");
    place.sql("INSERT INTO alerts (id, severity, alert_type, message, closed_at) VALUES ('al-2', 'info', 'stuck', 'm', datetime('now'))");
    place.run(&["ack-alert", "al-2"]).fails(1).says("closed");

    place.sql("INSERT INTO checkpoints (id, loop_id, git_ref, deleted_at) VALUES ('c', 'a', 'refs/x', datetime('now'))");
    place.run(&["rollback", "a", "--checkpoint", "c"]).fails(1).says("checkpoint c is deleted");
    place.run(&["rollback", "b", "--checkpoint", "c"]).fails(1).says("belongs to loop a");

    place.run(&["subscribe", "w", "--end"]).fails(4);
    place.run(&["subscribe", "w"]).fails(2);
    place.run(&["subscribe", "w", "--types", "custom.x"]).ok();
    place.run(&["publish", "custom.x", "--source", "a", "--payload", "{}"]).ok();
    place.run(&["subscribe", "w", "--end", "--types", "custom.x"]).fails(2);
    assert_eq!(place.json(&["subscribe", "w", "--end"])["ended"], "w");
    assert_eq!(place.sql("SELECT status FROM deliveries WHERE subscription_id = 'w'"), "set_aside");
    place.run(&["subscribe", "w", "--end"]).fails(1).says("ended");
    place.run(&["subscribe", "monitor", "--end"]).fails(1).says("cannot be changed");
    place.run(&["check"]).ok();
}
