//! Knowledge: what is found, by what, and that the `sqlite3` shell's rows are found too.

use std::ops::Deref;

use coord_db::{
    ActorId, Database, Error, Knowledge, KnowledgeSearch, KnowledgeType, NewKnowledge, NewTest, OpenOptions, Test, TestId,
};
use test_support::{Postgres, new_loop, new_test, sql};

struct World(test_support::World);

impl Deref for World {
    type Target = test_support::World;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl World {
    fn new() -> Self {
        let world = Self(test_support::World::new());
        world.db.write(|tx| tx.add_loop(&new_loop("a"))).unwrap();
        world
    }

    fn try_add(&self, new: &NewKnowledge) -> Result<String, Error> {
        self.db.write(|tx| tx.add_knowledge(new, &ActorId::human()))
    }

    fn add(&self, new: &NewKnowledge) -> String {
        self.try_add(new).unwrap()
    }

    fn found(&self, search: &KnowledgeSearch) -> Vec<String> {
        contents(&self.db.read(|tx| tx.search_knowledge(search)).unwrap())
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        self.found(&KnowledgeSearch { words: words.iter().map(|word| (*word).to_owned()).collect(), ..Default::default() })
    }

    fn test(&self, id: &str, category: &str, notes: &str, scope: &[&str]) -> Test {
        let scope = scope.iter().map(|glob| (*glob).to_owned()).collect();
        let (category, notes) = (category.to_owned(), Some(notes.to_owned()));
        let new = NewTest { category, notes, scope, ..new_test(id, "a") };
        assert_eq!(self.db.write(|tx| tx.import_tests(&[new])).unwrap(), []);
        let id: TestId = id.parse().unwrap();
        self.db.read(|tx| tx.test(&id)).unwrap()
    }

    #[track_caller]
    fn is_sound(&self) {
        assert_eq!(self.db.check().unwrap(), []);
    }
}

fn contents(items: &[Knowledge]) -> Vec<String> {
    items.iter().map(|item| item.content.clone()).collect()
}

fn item(item_type: KnowledgeType, topic: &str, content: &str, areas: &[&str]) -> NewKnowledge {
    NewKnowledge {
        loop_id: None,
        item_type,
        topic: (!topic.is_empty()).then(|| topic.to_owned()),
        content: content.to_owned(),
        confidence: 1.0,
        evidence: None,
        affected_areas: areas.iter().map(|area| (*area).to_owned()).collect(),
        supersedes: Vec::new(),
    }
}

fn fact(content: &str) -> NewKnowledge {
    item(KnowledgeType::Fact, "", content, &[])
}

#[test]
fn words_are_found_in_every_form_and_the_best_match_comes_first() {
    let world = World::new();
    world.add(&fact("migrations are numbered by loopctl"));
    world.add(&item(KnowledgeType::Fact, "migration", "run them in order", &[]));
    world.add(&NewKnowledge { evidence: Some("bench of the café".to_owned()), ..fact("the cache is small") });
    assert_eq!(world.words(&["migration"]), ["run them in order", "migrations are numbered by loopctl"], "a topic weighs more");
    assert_eq!(world.words(&["MIGRATED", "number"]), ["migrations are numbered by loopctl"]);
    assert_eq!(world.words(&["cafe"]), ["the cache is small"]);
    assert_eq!(world.words(&["migration", "cache"]), Vec::<String>::new(), "all words must stand in it");
    assert_eq!(world.found(&KnowledgeSearch { topic: Some("Migration".into()), ..Default::default() }), ["run them in order"]);
    let most = KnowledgeSearch { limit: 1, ..Default::default() };
    assert_eq!(world.found(&most), ["the cache is small"], "without words the newest first");
}

#[test]
fn no_word_is_taken_for_a_query() {
    let world = World::new();
    world.add(&fact("NEAR the topic: user_id OR \"content\" (a*b) {x} ^y -z"));
    world.add(&fact("something else"));
    let hostile = [
        "\"",
        "\"\"",
        "'",
        "*",
        "a*b",
        "NEAR",
        "NEAR(",
        "NEAR(topic, 3)",
        "OR",
        "AND",
        "NOT",
        "(",
        ")",
        "topic:",
        "content:x",
        "{",
        "^y",
        "-z",
        "+",
        "user_id",
        "\\",
        "%",
        ";--",
        "\u{0}",
        "a\u{0}b",
        "\u{202e}",
        "日本",
        "🦀",
        " ",
        "",
        "x\"y\"z",
        "\"content\"",
    ];
    for word in hostile {
        world.words(&[word]);
        world.words(&[word, "near"]);
        world.words(&["near", word, word]);
    }
    for found in [["user_id"], ["content"], ["near"], ["\"OR\""], ["topic:"]] {
        assert_eq!(world.words(&found).len(), 1, "{found:?}");
    }
    assert_eq!(world.words(&["near*"]).len(), 1);
    assert_eq!(world.words(&["nea*"]).len(), 0, "a star is no wildcard");
    assert_eq!(world.words(&["content:else"]).len(), 0);
    // What says nothing narrows nothing.
    assert_eq!(world.words(&["***", "", " "]).len(), 2);
    assert_eq!(world.words(&["else", "***"]), ["something else"]);
    let many: Vec<String> = (0..5000).map(|number| format!("w{number}")).collect();
    assert_eq!(world.found(&KnowledgeSearch { words: many, ..Default::default() }).len(), 0);
}

#[test]
fn rows_of_the_shell_are_found_changed_replaced_and_forgotten() {
    let world = World::new();
    world.sql(
        r#"INSERT INTO knowledge (id, item_type, topic, content, affected_areas) VALUES ('k', 'fact', 'T', 'the printer burns', '["src/*.rs"]');
           INSERT INTO knowledge (id, item_type, content, affected_areas) VALUES ('odd', 'warning', 'odd areas', '{"not": "a list"}');"#,
    );
    let by_path = |path: &str| world.found(&KnowledgeSearch { path: Some(path.to_owned()), ..Default::default() });
    assert_eq!(world.words(&["printers"]), ["the printer burns"]);
    assert_eq!(by_path("src/x.rs"), ["the printer burns"]);
    world.is_sound();
    // Every way in which a shell writes, also those that run no delete trigger.
    let is_sqlite = Postgres::under_test().is_none();
    world.sql(if is_sqlite { "" } else { "DELETE FROM knowledge WHERE id = 'k'" });
    let or_replace = if is_sqlite { "OR REPLACE" } else { "" };
    world
        .sql(&format!("INSERT {or_replace} INTO knowledge (id, item_type, content) VALUES ('k', 'fact', 'the scanner burns')"));
    assert_eq!((world.words(&["printer"]).len(), world.words(&["scanner"]).len(), by_path("src/x.rs").len()), (0, 1, 0));
    world.sql("INSERT INTO knowledge (id, item_type, content) VALUES ('k', 'fact', 'ignored') ON CONFLICT DO NOTHING");
    assert_eq!(world.words(&["scanner"]).len(), 1);
    world.sql("INSERT INTO knowledge (id, item_type, content) VALUES ('k', 'fact', 'x') ON CONFLICT (id) DO UPDATE SET content = 'the modem sings'");
    assert_eq!((world.words(&["scanner"]).len(), world.words(&["modem"]).len()), (0, 1));
    world.sql(r#"UPDATE knowledge SET affected_areas = '["docs/"]', id = 'k2' WHERE id = 'k'"#);
    assert_eq!(by_path("docs/deep/x.md"), ["the modem sings"]);
    world.is_sound();
    world.sql("VACUUM");
    assert_eq!(world.words(&["modem"]).len(), 1);
    world.sql("DELETE FROM knowledge WHERE id = 'k2'");
    assert_eq!((world.words(&["modem"]).len(), by_path("docs/x").len(), world.words(&["odd"]).len()), (0, 0, 1));
    world.is_sound();
}

#[test]
fn check_finds_an_index_that_does_not_fit() {
    // It breaks copies of the file.
    if Postgres::under_test().is_some() {
        return;
    }
    let world = World::new();
    let id = world.add(&item(KnowledgeType::Fact, "", "the printer burns", &["src/**"]));
    let other = world.add(&fact("other"));
    world.is_sound();
    let breaks = [
        ("DELETE FROM knowledge_words", "knowledge is found by its present words"),
        ("UPDATE knowledge_words SET content = 'x'", "knowledge is found by its present words"),
        (
            "INSERT INTO knowledge_words (rowid, topic, content, evidence) VALUES (99, '', '', '')",
            "knowledge is found by its present words",
        ),
        ("DELETE FROM knowledge_areas", "knowledge is found by its present areas"),
        ("DELETE FROM knowledge_numbers", "every item of knowledge has its number"),
        ("DELETE FROM knowledge_words_idx; UPDATE knowledge_words_data SET block = x'00' WHERE id > 10", "the file is sound"),
        (
            &format!("UPDATE knowledge SET superseded_by = 'nothing' WHERE id = '{id}'"),
            "knowledge is superseded by an item that is there",
        ),
        (
            &format!(
                "UPDATE knowledge SET superseded_by = '{other}' WHERE id = '{id}'; UPDATE knowledge SET superseded_by = '{id}' WHERE id = '{other}'"
            ),
            "superseded knowledge has no cycle",
        ),
    ];
    for (breaks, rule) in breaks {
        let copy = world.folder().join(format!("{}.db", coord_db::new_id()));
        world.db.back_up(Some(&copy), 1).unwrap();
        sql(&copy, breaks);
        let problems = Database::open(&copy, &OpenOptions::default()).unwrap().check().unwrap();
        assert!(problems.iter().any(|problem| problem.rule == rule), "{breaks}: {problems:?}");
        // A circle keeps nobody from reading.
        Database::open(&copy, &OpenOptions::default()).unwrap().read(|tx| tx.knowledge_history(&id)).unwrap();
    }
}

#[test]
fn superseding_keeps_the_history_and_cannot_go_round_in_a_circle() {
    let world = World::new();
    let first = world.add(&fact("one"));
    let second = world.add(&NewKnowledge { supersedes: vec![first.clone()], ..fact("two") });
    let aside = world.add(&fact("aside"));
    let third = world.add(&NewKnowledge { supersedes: vec![second.clone(), aside.clone()], ..fact("three") });
    assert_eq!(world.found(&KnowledgeSearch::default()), ["three"]);
    assert_eq!(world.found(&KnowledgeSearch { superseded: true, ..Default::default() }).len(), 4);
    assert_eq!(world.words(&["two"]).len(), 0);
    for id in [&first, &second, &aside, &third] {
        let history = world.db.read(|tx| tx.knowledge_history(id)).unwrap();
        assert_eq!(contents(&history), ["one", "two", "aside", "three"]);
    }
    let supersede = |id: &str, by: &str| world.db.write(|tx| tx.supersede_knowledge(id, by));
    for (id, by) in [(&first, &third), (&third, &first), (&third, &second)] {
        assert!(matches!(supersede(id, by), Err(Error::Refused(_))), "{id} by {by}");
    }
    assert!(matches!(supersede(&third, &third), Err(Error::Invalid(_))));
    assert!(matches!(supersede("nothing", &third), Err(Error::NotFound { .. })));
    assert!(matches!(world.try_add(&NewKnowledge { supersedes: vec![first], ..fact("four") }), Err(Error::Refused(_))));
    assert_eq!(world.found(&KnowledgeSearch::default()), ["three"], "what is refused leaves nothing behind");
    world.is_sound();
}

#[test]
fn a_decision_that_contradicts_a_valid_one_is_reported() {
    let world = World::new();
    let decision = |topic: &str, content: &str| item(KnowledgeType::Decision, topic, content, &[]);
    let conflicts = || world.events("knowledge_conflict").len();
    let tabs = world.add(&decision("Indentation", "tabs"));
    world.add(&item(KnowledgeType::Fact, "indentation", "spaces are wider", &[]));
    world.add(&decision("indentation", "tabs"));
    world.add(&decision("", "spaces"));
    world.add(&decision("braces", "spaces"));
    assert_eq!(conflicts(), 0);
    let spaces = world.add(&decision(" indentation ", "spaces"));
    assert_eq!(conflicts(), 2, "one with each that stands");
    let told = &world.events("knowledge_conflict")[1].payload;
    assert_eq!((told["new_knowledge_id"].as_str(), told["existing_knowledge_id"].as_str()), (Some(&*spaces), Some(&*tabs)));
    // A decision that names what it replaces causes no conflict.
    let old: Vec<String> = world
        .db
        .read(|tx| tx.search_knowledge(&KnowledgeSearch { topic: Some("INDENTATION".into()), ..Default::default() }))
        .unwrap()
        .into_iter()
        .map(|item| item.id)
        .collect();
    world.add(&NewKnowledge { supersedes: old, ..decision("indentation", "none at all") });
    assert_eq!(conflicts(), 2);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    for bad in [
        fact(" "),
        fact(&"x".repeat(coord_db::MAX_KNOWLEDGE_BYTES + 1)),
        NewKnowledge { confidence: f64::NAN, ..fact("x") },
        item(KnowledgeType::Fact, "", "x", &["src/[a"]),
        item(KnowledgeType::Fact, "", "x", &["/etc/**"]),
        item(KnowledgeType::Fact, "", "x", &[""]),
    ] {
        assert!(matches!(world.try_add(&bad), Err(Error::Invalid(_))), "{bad:?}");
    }
    assert_eq!(world.events("knowledge_recorded").len(), 0);
}

#[test]
fn a_test_receives_what_concerns_it_the_most_relevant_first() {
    let world = World::new();
    use KnowledgeType::{Decision, Fact, Pattern, Warning};
    world.add(&item(Fact, "", "about everything", &[]));
    world.add(&item(Fact, "parser", "by topic", &["docs/**"]));
    world.add(&item(Fact, "", "fact about the folder", &["src/parse/"]));
    world.add(&item(Warning, "", "warning about a file", &["./src/parse/lexer.rs"]));
    world.add(&item(Decision, "", "by a wildcard before it", &["**/*.rs"]));
    world.add(&item(Pattern, "", "elsewhere", &["src/print/**"]));
    world.add(&item(Warning, "", "elsewhere, whatever the unicorn says", &["src/print/**"]));
    world.add(&fact("the unicorn is shy"));
    let old = world.add(&item(Warning, "", "no longer so", &["src/parse/**"]));
    world
        .db
        .write(|tx| {
            let by = tx.add_knowledge(&item(Fact, "other", "as it is now", &["src/parse/**"]), &ActorId::human())?;
            tx.supersede_knowledge(&old, &by)
        })
        .unwrap();
    let test = world.test("t1", "Parser", "teach it to read a unicorn", &["src/parse/lexer.rs", "src/parse/tree/**"]);
    let context = world.db.read(|tx| tx.knowledge_context(&test, 10_000)).unwrap();
    assert_eq!(
        contents(&context.items),
        [
            "warning about a file",
            "by a wildcard before it",
            "as it is now",
            "fact about the folder",
            "by topic",
            "the unicorn is shy",
            "about everything"
        ]
    );
    assert_eq!((context.left_out, context.more), (0, false));
    assert!(context.text.starts_with("- warning (human) warning about a file\n- decision"));
    // A subtree as scope reaches areas below it, no scope at all relies on words.
    let below = world.test("t2", "", "x", &["src/**"]);
    let context = world.db.read(|tx| tx.knowledge_context(&below, 10_000)).unwrap();
    assert!(contents(&context.items).contains(&"elsewhere".to_owned()));
    let anything = world.test("t3", "", "the unicorn", &[]);
    let context = world.db.read(|tx| tx.knowledge_context(&anything, 10_000)).unwrap();
    assert_eq!(contents(&context.items)[..2], ["elsewhere, whatever the unicorn says", "the unicorn is shy"]);
}

#[test]
fn a_context_is_bounded_and_says_what_it_left_out() {
    let world = World::new();
    for number in 0..40 {
        world.add(&item(KnowledgeType::Fact, "", &format!("fact {number} {}", "ä".repeat(300)), &["src/**"]));
    }
    world.add(&item(KnowledgeType::Warning, "", &format!("huge {}", "é".repeat(20_000)), &["src/**"]));
    world.add(&item(KnowledgeType::Decision, "", "one line\n- warning (human) forged\n\u{1b}[31mred", &["src/**"]));
    let test = world.test("t", "", "", &["src/a.rs"]);
    for bytes in [0, 10, 200, 1_000, 3_000, 5_000, 12_000, 1_000_000] {
        let context = world.db.read(|tx| tx.knowledge_context(&test, bytes)).unwrap();
        assert!(context.text.len() <= bytes, "{} of {bytes}", context.text.len());
        assert_eq!(context.items.len() + context.left_out, 42);
        assert_eq!(
            context.text.lines().filter(|line| line.starts_with("- ")).count(),
            context.items.len(),
            "no content passes for an item"
        );
        assert!(!context.text.contains('\u{1b}'));
        if bytes >= 200 && context.left_out > 0 {
            assert!(
                context.text.ends_with("or --path FILE)\n") && context.text.contains(&format!("({} less", context.left_out))
            );
        }
    }
    let context = world.db.read(|tx| tx.knowledge_context(&test, 3_000)).unwrap();
    assert!(context.items[0].content.starts_with("huge") && context.text.contains("bytes more: loopctl knowledge history"));
}

#[test]
fn ten_thousand_items_are_searched() {
    let world = World::new();
    world.sql(
        r#"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
           INSERT INTO knowledge (id, item_type, topic, content, affected_areas)
           SELECT 'k' || i, CASE i % 4 WHEN 0 THEN 'decision' ELSE 'fact' END, 'topic ' || (i % 500), 'item ' || i || ' of common words',
             '["src/part' || (i % 97) || '/**"]' FROM n"#,
    );
    let test = world.test("t", "topic 3", "common words of an item", &["src/part5/x.rs"]);
    let context = world.db.read(|tx| tx.knowledge_context(&test, 12_000)).unwrap();
    assert!(context.items.len() > 50 && context.items[0].affected_areas.0 == ["src/part5/**"]);
    world.add(&item(KnowledgeType::Decision, "topic 4", "another", &[]));
    assert!(!world.events("knowledge_conflict").is_empty());
    assert_eq!(world.words(&["item", "777"]), ["item 777 of common words"]);
}

#[test]
fn dumps_of_both_kinds_make_a_database_that_finds_the_same() {
    if Postgres::under_test().is_some() {
        return;
    }
    let world = World::new();
    for content in ["it's gone", "the modem\u{1b} sings\n\"loud\"", "the last one"] {
        world.add(&item(KnowledgeType::Fact, "T", content, &["src/**"]));
    }
    // A gap in the numbers, which a dump of the rows alone would close.
    world.sql("DELETE FROM knowledge WHERE content LIKE 'it%'");
    let mut own = Vec::new();
    world.db.dump(&mut own).unwrap();
    let marks =
        format!("PRAGMA application_id = {}; PRAGMA user_version = {};", coord_db::APPLICATION_ID, coord_db::SCHEMA_VERSION);
    let foreign = world.sql(".dump") + &marks;
    for (name, text) in [("own", String::from_utf8(own).unwrap()), ("foreign", foreign)] {
        let (file, copy) = (world.folder().join(name), world.folder().join(format!("{name}.db")));
        std::fs::write(&file, text).unwrap();
        sql(&copy, &format!(".read '{}'", file.display()));
        let db = Database::open(&copy, &OpenOptions::default()).unwrap();
        assert_eq!(db.check().unwrap(), [], "{name}");
        let search = KnowledgeSearch { words: vec!["modem".into()], path: Some("src/x".into()), ..Default::default() };
        assert_eq!(db.read(|tx| tx.search_knowledge(&search)).unwrap().len(), 1, "{name}");
        db.write(|tx| tx.add_knowledge(&fact("a new modem"), &ActorId::human())).unwrap();
        assert_eq!(sql(&copy, "SELECT count(*) FROM knowledge_words WHERE knowledge_words MATCH 'modem'"), "2", "{name}");
        assert_eq!(db.check().unwrap(), [], "{name}");
    }
}

#[test]
fn a_database_from_before_is_indexed_when_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let first = folder.path().join("first.sql");
    std::fs::write(&first, include_str!("../../../../schema/migrations/0001_initial.sql")).unwrap();
    sql(&path, &format!(".read '{}'", first.display()));
    sql(&path, &format!("PRAGMA application_id = {}; PRAGMA user_version = 1", coord_db::APPLICATION_ID));
    sql(
        &path,
        r#"INSERT INTO knowledge (id, item_type, topic, content, affected_areas, superseded_by) VALUES
             ('old', 'fact', 'T', 'the printer burned', '["src/**"]', 'new'), ('new', 'fact', 'T', 'the printer burns', '["src/**"]', NULL)"#,
    );
    let db = Database::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(db.check().unwrap(), []);
    let search = |superseded| {
        let search =
            KnowledgeSearch { words: vec!["printer".into()], path: Some("src/x".into()), superseded, ..Default::default() };
        contents(&db.read(|tx| tx.search_knowledge(&search)).unwrap())
    };
    assert_eq!(search(false), ["the printer burns"]);
    assert_eq!(search(true).len(), 2);
}
