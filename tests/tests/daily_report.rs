//! The report at a time of day, from the real pm-agent, by the human's command.

use serde_json::Value;
use system_tests::processes::World;

#[test]
fn the_report_of_a_day_reaches_the_command_of_the_human() {
    let world = World::new();
    let inbox = world.folder().join("inbox");
    let settings = |content: &str| {
        world.settings(&format!(
            "[notify]\ncommand = [\"sh\", \"-c\", \"cat >> {}\"]\nreport_at = \"07:30\"\ncontent = {content}\n",
            inbox.display()
        ));
    };
    settings("[\"summary\"]");
    assert!(world.loopctl(&["loop", "add", "one"]).status.success());
    assert!(world.loopctl(&["test", "add", "t-1", "--loop", "one"]).status.success());
    world
        .sql("UPDATE tests SET status = 'blocked', attempts = 3, last_error = 'password in the output' WHERE id = 't-1'")
        .unwrap();
    let once = || assert!(world.program("pm-agent").arg("--once").output().unwrap().status.success());
    let received = || -> Vec<Value> {
        let text = std::fs::read_to_string(&inbox).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|one: &Value| one["kind"] == "report").collect()
    };
    once();
    assert!(received().is_empty(), "the first one comes at the next such time");
    // As if that had been some days ago.
    let begun = "SELECT count(*) FROM transaction_log WHERE id GLOB 'notify:report:*' AND status = 'committed'";
    assert_eq!(world.sql(begun).unwrap(), "1");
    for (day, content, shows_output) in
        [("2001-01-01", "[\"summary\"]", false), ("2001-01-02", "[\"summary\", \"context\"]", true)]
    {
        settings(content);
        world
            .sql(&format!(
                "DELETE FROM transaction_log WHERE id GLOB 'notify:report:*';
                 INSERT INTO transaction_log(id, operation, component, status, steps, completed_at) VALUES ('notify:report:{day}',
                 'notify', 'pm', 'committed', '[{{\"until\":\"{day}T07:30:00Z\"}}]', '{day} 07:30:00.000')"
            ))
            .unwrap();
        let before = received().len();
        once();
        once();
        let received = received();
        assert_eq!(received.len(), before + 1, "once a day");
        let text = received[before]["markdown"].as_str().unwrap();
        assert!(text.starts_with(&format!("# {day} 07:30:00Z to ")), "{text}");
        assert!(text.contains("test t-1 of one is blocked"), "{text}");
        assert_eq!(text.contains("test t-1 of one is blocked: password in the output"), shows_output, "{text}");
    }
}
