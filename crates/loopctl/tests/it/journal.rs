//! `loopctl journal`: what is open, what is settled, and settling by hand what nobody comes back for.

use crate::common::Place;

#[test]
fn what_was_cut_off_is_shown_and_can_be_settled_by_hand() {
    let place = Place::with_loops();
    assert!(place.run(&["journal"]).ok().stdout.contains("no open entries"));
    let pid = std::process::id();
    place.sql(&format!(
        r#"INSERT INTO transaction_log (id, operation, loop_id, component, steps) VALUES
             ('j-1', 'put_away', 'a', 'a', '[{{"test": "t-7", "git_ref": "refs/x"}}, {{"step": "saved", "at": "2026-01-01T00:00:00.000Z"}}]'),
             ('j-2', 'checkpoint', 'a', 'a', '[{{"test": "t-8", "owner": {{"pid": {pid}}}}}]')"#
    ));
    let shown = place.run(&["journal"]).ok();
    for word in ["put_away", "t-7", "saved", "open for", "checkpoint", "recorded"] {
        assert!(shown.stdout.contains(word), "{word}: {}", shown.stdout);
    }
    let rows = place.json(&["journal", "--of", "a"]);
    assert_eq!((rows[0]["status"].as_str(), rows[0]["steps"][1]["step"].as_str()), (Some("in_progress"), Some("saved")));
    assert_eq!(place.json(&["journal", "--of", "b"]), serde_json::json!([]));

    place.run(&["journal", "--settle", "j-1"]).fails(2);
    place.run(&["journal", "--settle", "none", "--done"]).fails(4);
    place.run(&["journal", "--settle", "j-2", "--undone"]).fails(1).says("settles entry j-2 itself");
    assert_eq!(place.json(&["journal", "--settle", "j-1", "--done"])["status"], "committed");
    place.run(&["journal", "--settle", "j-1", "--done"]).fails(1).says("committed already");
    place.run(&["journal", "--settle", "j-1", "--undone"]).fails(1).says("it is settled");
    assert_eq!(place.json(&["journal"]).as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["journal", "--all", "--limit", "9"]).as_array().unwrap().len(), 2);
    assert!(place.run(&["journal", "--all"]).ok().stdout.contains("done"));
}
