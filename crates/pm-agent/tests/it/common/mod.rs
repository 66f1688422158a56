//! The real program on a database that the `sqlite3` shell fills.

use std::ops::Deref;

use test_support::Process;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pm-agent");

pub struct World(test_support::World);

impl Deref for World {
    type Target = test_support::World;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl World {
    pub fn new() -> Self {
        Self(test_support::World::new())
    }

    /// A world that the shell has filled.
    pub fn filled(sql: &str) -> Self {
        Self(test_support::World::filled(sql))
    }

    /// Lets the program do what is due now. Gives its log.
    #[track_caller]
    pub fn once(&self) -> String {
        self.0.once(PROGRAM)
    }

    pub fn daemon(&self) -> Process {
        self.0.daemon(PROGRAM)
    }

    /// Says something, as the shell does.
    pub fn say(&self, source: &str, event_type: &str, payload: &str) {
        self.sql(&format!(
            "INSERT INTO events(id, source, event_type, payload)
             VALUES (lower(hex(randomblob(8))), '{source}', '{event_type}', '{payload}')"
        ));
    }

    /// Answers the open decision of a type.
    pub fn answer(&self, decision_type: &str, choice: &str) {
        let id = self.sql(&format!("SELECT id FROM decisions WHERE decision_type = '{decision_type}' AND status = 'pending'"));
        self.say(
            "human",
            "human_message",
            &format!(r#"{{"message_type":"decision_response","decision_id":"{id}","choice":"{choice}","source":"cli"}}"#),
        );
    }

    /// What pm has said, in order: type and loop.
    pub fn requests(&self) -> String {
        self.sql(
            "SELECT event_type, json_extract(payload, '$.loop_id') FROM events
             WHERE source = 'pm' AND event_type IN ('pause_requested', 'resume_requested', 'restart_requested') ORDER BY rowid",
        )
    }

    /// Nothing of what pm has said lacks its cause, but for what the program says of itself.
    pub fn all_explained(&self) {
        let unexplained = self.sql(
            "SELECT event_type, payload FROM events WHERE source = 'pm' AND caused_by IS NULL AND event_type NOT LIKE 'component_%'",
        );
        assert_eq!(unexplained, "");
    }

    /// A second start changes nothing.
    pub fn settled(&self) {
        let state = "SELECT count(*) FROM events WHERE event_type NOT LIKE 'component_%';
                     SELECT * FROM decisions ORDER BY id; SELECT * FROM tests ORDER BY id; SELECT * FROM conflicts ORDER BY id;
                     SELECT * FROM transaction_log ORDER BY id; SELECT * FROM alerts ORDER BY id";
        let before = self.sql(state);
        self.once();
        assert_eq!(self.sql(state), before);
    }
}
