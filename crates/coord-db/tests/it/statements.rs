//! One text for each statement: what is written in `src/tables` is understood by PostgreSQL as well.
//!
//! Texts that are put together at run time are not seen here; the tests that run them on PostgreSQL see those.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use coord_db::{Database, SystemClock};
use test_support::{Postgres, printed};

/// Fills an empty database with the schema.
fn make_schema(server: &Postgres, database: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema/postgres");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let schema: String = ["compat.sql", "schema.sql", "triggers.sql", "every_table.sql"].map(read).concat();
    server.sql(database, &format!("BEGIN;\n{schema}\nCOMMIT;"));
}

/// The string literals of Rust code, unescaped, each with what stands before it.
fn literals(code: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find('"').map(|start| at + start) {
        let mut text = String::new();
        let mut rest = code[start + 1..].chars();
        while let Some(c) = rest.next().filter(|c| *c != '"') {
            if c != '\\' {
                text.push(c);
                continue;
            }
            match rest.next().unwrap() {
                'u' => {
                    let hex = rest.by_ref().take_while(|c| *c != '}').filter(|c| *c != '{').collect::<String>();
                    text.extend(char::from_u32(u32::from_str_radix(&hex, 16).unwrap()));
                }
                '\n' => rest = rest.as_str().trim_start().chars(),
                'n' => text.push('\n'),
                other => text.push(other),
            }
        }
        found.push((&code[at..start], text));
        at = code.len() - rest.as_str().len();
    }
    found
}

/// The statements that are written out in a file.
fn statements(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let without_comments: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let without_quotes = without_comments.replace("'\"'", "' '");
    let begins = |text: &str, words: &[&str]| words.iter().any(|word| text.trim_start().starts_with(word));
    let whole = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
    let statement = |(before, text): (&str, String)| {
        let tail = before.rsplit(';').next().unwrap_or_default();
        if tail.contains("select!(") && begins(&text, &["FROM "]) {
            return Some(format!("SELECT * {text}"));
        }
        (begins(&text, &whole) && !text.contains('{')).then_some(text)
    };
    literals(&without_quotes).into_iter().filter_map(statement).collect()
}

/// `$1` for `?1`.
fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push(if part.starts_with(|c: char| c.is_ascii_digit()) { '$' } else { '?' });
        text.push_str(part);
    }
    text
}

#[test]
fn every_statement_is_prepared_by_postgres() {
    let Some(server) = Postgres::get() else { return };
    let database = server.new_database(|database| make_schema(server, database));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tables");
    let mut script = String::new();
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        for sql in statements(&std::fs::read_to_string(&file).unwrap()) {
            // SQLite's own full text and its own pragmas.
            if sql.contains(" MATCH ") {
                continue;
            }
            count += 1;
            writeln!(script, "PREPARE s{count} AS -- {}\n{};", file.display(), numbered(&sql)).unwrap();
        }
    }
    assert!(count > 400, "only {count} statements were found");
    server.sql(&database, &script);
}

#[test]
fn the_schemas_have_the_same_columns_indexes_and_triggers() {
    let Some(server) = Postgres::get() else { return };
    let database = server.new_database(|database| make_schema(server, database));
    let sqlite = Database::in_memory(Arc::new(SystemClock)).unwrap();
    let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let columns = lines(printed(
        &sqlite,
        "SELECT t.name || '.' || c.name || CASE c.\"notnull\" WHEN 1 THEN ' NOT NULL' ELSE '' END
         FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
         WHERE t.type IN ('table', 'view') AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE 'knowledge_words%'",
    ));
    let theirs = lines(server.sql(
        &database,
        "SELECT table_name || '.' || column_name || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END
         FROM information_schema.columns WHERE table_schema = 'public' AND column_name <> 'rowid'
           AND table_name NOT IN ('knowledge_words', 'coding_loops_schema', 'moment')",
    ));
    assert_eq!(theirs.symmetric_difference(&columns).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(columns.len() > 300, "{}", columns.len());
    let indexes = lines(printed(&sqlite, "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"));
    let theirs = lines(server.sql(&database, "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"));
    assert_eq!(indexes.difference(&theirs).collect::<Vec<_>>(), Vec::<&String>::new());
    // One trigger of PostgreSQL's does what these do as well.
    let merged = ["events_deliver_custom", "events_refuse_archived", "events_refuse_place"];
    let triggers = lines(printed(&sqlite, "SELECT name FROM sqlite_schema WHERE type = 'trigger'"));
    let theirs = lines(server.sql(&database, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"));
    assert_eq!(triggers.difference(&theirs).collect::<Vec<_>>(), merged);
}

#[test]
fn statements_are_found_in_code() {
    let code = r#"
        // "SELECT comment"
        self.query(select!(Row, "FROM a WHERE b = ?1 || '\u{10ffff}'"), [id], from);
        self.execute("DELETE FROM c \
           WHERE d = '\"'", []);
        format!("SELECT {} FROM e", columns);
        let quote = '"';
    "#;
    assert_eq!(statements(code), ["SELECT * FROM a WHERE b = ?1 || '\u{10ffff}'", "DELETE FROM c WHERE d = '\"'"]);
    assert_eq!(numbered("a = ?1 AND b LIKE '?' OR c = ?12"), "a = $1 AND b LIKE '?' OR c = $12");
}
