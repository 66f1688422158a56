//! Tests from a file: TOML, JSON or JSON Lines, all or none. Everything that is wrong is reported, each with its line.

use std::fmt;
use std::path::Path;

use coord_db::{LoopId, NewTest, TestId};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use views::sentence::count;

use crate::context::Context;
use crate::exit::{Failure, Outcome};

/// One test of the file: each field with its line.
#[derive(Debug)]
struct Row {
    line: usize,
    fields: Vec<(String, usize, Value)>,
}

/// What is wrong, and where.
type Misfit = (usize, String);

/// Reads the file and puts its tests on their queues.
///
/// # Errors
/// Every misfit (exit 2); nothing is imported then.
pub fn run(cx: &Context, file: &Path) -> Outcome {
    let (text, shown) = if file == Path::new("-") {
        (crate::read_stdin()?, "-".to_owned())
    } else {
        let shown = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
        match String::from_utf8(bytes) {
            Ok(text) => (text, shown),
            Err(error) => {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
                return Err(Failure::InvalidLines(vec![format!("{shown}:{line}: the text is not UTF-8")]));
            }
        }
    };
    let report = |mut misfits: Vec<Misfit>| {
        misfits.sort();
        misfits.dedup();
        Failure::InvalidLines(misfits.into_iter().map(|(line, message)| format!("{shown}:{line}: {message}")).collect())
    };
    let db = cx.open()?;
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut misfits = Vec::new();
    let rows = rows(&text, &extension.to_ascii_lowercase(), &mut misfits);
    let mut tests = Vec::new();
    let mut lines = Vec::new();
    for row in rows {
        let line = row.line;
        if let Some(test) = new_test(row, &mut misfits) {
            tests.push(test);
            lines.push(line);
        }
    }
    // What the database refuses is reported together with it, for the rows that could be read.
    let imported = db.write(|tx| {
        let complete = misfits.is_empty();
        let found = if complete {
            tx.import_tests(&tests)?
        } else {
            tests
                .iter()
                .enumerate()
                .filter_map(|(at, test)| unknown(tx, at, test).transpose())
                .collect::<coord_db::Result<_>>()?
        };
        misfits.extend(found.into_iter().map(|(at, message): (usize, String)| (lines[at], message)));
        if misfits.is_empty() { Ok(()) } else { Err(Failure::Reported) }
    });
    match imported {
        Ok(()) => {}
        Err(Failure::Reported) => return Err(report(misfits)),
        Err(other) => return Err(other),
    }
    let ids: Vec<&TestId> = tests.iter().map(|test| &test.id).collect();
    let number = count(i64::try_from(ids.len()).unwrap_or(i64::MAX), "test");
    cx.out.done(&serde_json::json!({ "imported": ids }), &format!("{number} imported"))
}

/// What is wrong with a row whatever the others say.
fn unknown(tx: &coord_db::ReadTx<'_>, at: usize, test: &NewTest) -> coord_db::Result<Option<Misfit>> {
    if tx.find_loop(test.loop_id.as_str())?.is_none() {
        let message = format!("test {}: no loop {:?}; add it with loopctl loop add", test.id, test.loop_id.as_str());
        return Ok(Some((at, message)));
    }
    Ok(tx.find_test(test.id.as_str())?.map(|_| (at, format!("test {} exists already", test.id))))
}

fn rows(text: &str, extension: &str, misfits: &mut Vec<Misfit>) -> Vec<Row> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match extension {
        "toml" => toml_rows(&Source::new(text), misfits),
        "json" => json_rows(&Source::new(text), misfits),
        "jsonl" | "ndjson" => json_lines_rows(&Source::new(text), misfits),
        _ => match text.trim_start().as_bytes() {
            [b'{', ..] if is_json_lines(text) => json_lines_rows(&Source::new(text), misfits),
            // A JSON array of arrays would hold no tests, so two brackets are a TOML heading.
            [b'{', ..] => json_rows(&Source::new(text), misfits),
            [b'[', next, ..] if *next != b'[' => json_rows(&Source::new(text), misfits),
            _ => toml_rows(&Source::new(text), misfits),
        },
    }
}

fn is_json_lines(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().is_some_and(|line| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok());
    first && lines.next().is_some()
}

/// The text, and where its lines end.
struct Source<'a> {
    text: &'a str,
    ends: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    fn line_at(&self, offset: usize) -> usize {
        self.ends.partition_point(|end| *end < offset) + 1
    }

    /// The line on which a value that was borrowed from the text begins.
    fn line_of(&self, value: &RawValue) -> usize {
        self.line_at((value.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize))
    }
}

fn toml_rows(source: &Source<'_>, misfits: &mut Vec<Misfit>) -> Vec<Row> {
    let (document, errors) = DeTable::parse_recoverable(source.text);
    if !errors.is_empty() {
        misfits.extend(errors.into_iter().map(|error| {
            let line = error.span().map_or(1, |span| source.line_at(span.start));
            (line, error.message().replace('\n', ", "))
        }));
        return Vec::new();
    }
    let mut rows = Vec::new();
    for (key, value) in document.get_ref() {
        let line = source.line_at(key.span().start);
        let list = match (key.get_ref().as_ref(), value.get_ref()) {
            ("test" | "tests", DeValue::Array(list)) => list,
            ("test" | "tests", _) => {
                misfits.push((line, format!("{:?} is not a list of tests; write [[test]] above each", key.get_ref())));
                continue;
            }
            (other, _) => {
                misfits.push((line, format!("{other:?} is not expected here; write [[test]] above each test")));
                continue;
            }
        };
        for item in list.iter() {
            let line = source.line_at(item.span().start);
            match item.get_ref() {
                DeValue::Table(table) => rows.push(toml_row(source, line, table)),
                _ => misfits.push((line, "a test must be a table; write [[test]] above each".to_owned())),
            }
        }
    }
    if rows.is_empty() && misfits.is_empty() {
        misfits.push((1, "the file has no tests; write [[test]] above each".to_owned()));
    }
    rows.sort_by_key(|row| row.line);
    rows
}

fn toml_row(source: &Source<'_>, line: usize, table: &DeTable<'_>) -> Row {
    let field = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        (key.get_ref().to_string(), source.line_at(key.span().start), toml_value(value.get_ref()))
    };
    Row { line, fields: table.iter().map(field).collect() }
}

fn toml_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map_or_else(|_| Value::String(number.as_str().to_owned()), Value::from),
        // No field takes a number like nan, nor a table.
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map_or_else(|| Value::Object(serde_json::Map::new()), Value::Number),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => items.iter().map(|item| toml_value(item.get_ref())).collect(),
        DeValue::Table(table) => {
            Value::Object(table.iter().map(|(key, item)| (key.get_ref().to_string(), toml_value(item.get_ref()))).collect())
        }
    }
}

fn json_rows(source: &Source<'_>, misfits: &mut Vec<Misfit>) -> Vec<Row> {
    let document: &RawValue = match serde_json::from_str(source.text) {
        Ok(document) => document,
        Err(error) => {
            misfits.push((error.line().max(1), without_position(&error)));
            return Vec::new();
        }
    };
    let mut rows = Vec::new();
    if document.get().starts_with('[') {
        json_list(source, document, &mut rows, misfits);
        return rows;
    }
    let fields = match object(document) {
        Ok(fields) => fields,
        Err(_) => {
            misfits.push((source.line_of(document), "expected a list of tests, or {\"tests\": [...]}".to_owned()));
            return rows;
        }
    };
    // One test alone is a document of JSON Lines too.
    if fields.iter().any(|(name, _)| name == "id") {
        rows.push(json_row(source, source.line_of(document), fields, misfits));
        return rows;
    }
    for (name, value) in fields {
        if matches!(name.as_str(), "test" | "tests") {
            json_list(source, value, &mut rows, misfits);
        } else {
            misfits.push((source.line_of(value), format!("{name:?} is not expected here; put the tests under \"tests\"")));
        }
    }
    rows
}

fn json_list(source: &Source<'_>, list: &RawValue, rows: &mut Vec<Row>, misfits: &mut Vec<Misfit>) {
    match serde_json::from_str::<Vec<&RawValue>>(list.get()) {
        Ok(items) => {
            for item in items {
                json_item(source, item, rows, misfits);
            }
        }
        Err(_) => misfits.push((source.line_of(list), "expected a list of tests".to_owned())),
    }
}

fn json_item(source: &Source<'_>, item: &RawValue, rows: &mut Vec<Row>, misfits: &mut Vec<Misfit>) {
    let line = source.line_of(item);
    match object(item) {
        Ok(fields) => rows.push(json_row(source, line, fields, misfits)),
        Err(error) => misfits.push((line, format!("a test must be an object: {}", without_position(&error)))),
    }
}

fn json_lines_rows(source: &Source<'_>, misfits: &mut Vec<Misfit>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<&RawValue>(line) {
            Ok(item) => json_item(source, item, &mut rows, misfits),
            Err(error) => misfits.push((at + 1, without_position(&error))),
        }
    }
    rows
}

fn json_row(source: &Source<'_>, line: usize, fields: Vec<(String, &RawValue)>, misfits: &mut Vec<Misfit>) -> Row {
    let mut row = Row { line, fields: Vec::new() };
    for (name, value) in fields {
        let line = source.line_of(value);
        if row.fields.iter().any(|(other, ..)| *other == name) {
            misfits.push((line, format!("{name:?} appears twice in one test")));
        }
        match serde_json::from_str(value.get()) {
            Ok(value) => row.fields.push((name, line, value)),
            Err(error) => misfits.push((line, format!("{name} is not valid text: {}", without_position(&error)))),
        }
    }
    row
}

/// serde_json ends its messages with a position inside of the value, which would contradict the reported line.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// An object's fields in their order, those named twice included.
fn object(value: &RawValue) -> serde_json::Result<Vec<(String, &RawValue)>> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(entry) = map.next_entry()? {
                fields.push(entry);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_map(Fields)
}

const FIELDS: &str =
    "id, loop_id, category, max_attempts, depends_on, automatable, allow_no_change, notes, spec_content (or spec) and scope";

fn new_test(row: Row, misfits: &mut Vec<Misfit>) -> Option<NewTest> {
    let before = misfits.len();
    let (mut id, mut loop_id, mut depends_on) = (None, None, None);
    let (mut category, mut max_attempts, mut automatable) = (String::new(), 3, true);
    let mut allow_no_change = false;
    let (mut notes, mut spec_content, mut scope) = (None, None, Vec::new());
    let mut seen: Vec<&'static str> = Vec::new();
    for (name, line, value) in row.fields {
        let mut wrong = |what: &str| misfits.push((line, format!("{name} must be {what}")));
        let canonical = match name.as_str() {
            "id" => {
                id = parsed::<TestId>(&value, line, misfits, &name);
                if let Some(Err(error)) = id.as_ref().map(TestId::allow_as_new) {
                    misfits.push((line, error.to_string()));
                }
                "id"
            }
            "loop" | "loop_id" => {
                loop_id = parsed::<LoopId>(&value, line, misfits, &name);
                "loop_id"
            }
            "depends_on" => {
                if !value.is_null() {
                    depends_on = parsed::<TestId>(&value, line, misfits, &name);
                }
                "depends_on"
            }
            "category" => {
                match value {
                    Value::String(text) => category = text,
                    _ => wrong("text"),
                }
                "category"
            }
            "max_attempts" => {
                match value.as_i64() {
                    Some(number) if number >= 1 => max_attempts = number,
                    _ => wrong("a whole number of at least 1"),
                }
                "max_attempts"
            }
            "automatable" => {
                match value {
                    Value::Bool(yes) => automatable = yes,
                    _ => wrong("true or false"),
                }
                "automatable"
            }
            "allow_no_change" => {
                match value {
                    Value::Bool(yes) => allow_no_change = yes,
                    _ => wrong("true or false"),
                }
                "allow_no_change"
            }
            "notes" | "spec" | "spec_content" => {
                let slot = if name == "notes" { &mut notes } else { &mut spec_content };
                match value {
                    Value::String(text) => *slot = Some(text),
                    Value::Null => {}
                    _ => wrong("text"),
                }
                if name == "notes" { "notes" } else { "spec_content" }
            }
            "scope" => {
                match serde_json::from_value::<Vec<String>>(value) {
                    Ok(globs) => {
                        for glob in &globs {
                            if let Err(error) = globset::Glob::new(glob) {
                                misfits.push((line, format!("scope {glob:?} is not a valid glob: {error}")));
                            }
                        }
                        scope = globs;
                    }
                    Err(_) => wrong("a list of globs"),
                }
                "scope"
            }
            other => {
                misfits.push((line, format!("{other:?} is not a field of a test; the fields are {FIELDS}")));
                continue;
            }
        };
        if seen.contains(&canonical) {
            misfits.push((line, format!("{canonical} appears twice")));
        }
        seen.push(canonical);
    }
    for (name, hint) in [("id", "give it an id"), ("loop_id", "name the loop whose queue it is for")] {
        if !seen.contains(&name) {
            misfits.push((row.line, format!("the test has no {name}; {hint}")));
        }
    }
    if misfits.len() > before {
        return None;
    }
    Some(NewTest {
        id: id?,
        loop_id: loop_id?,
        category,
        max_attempts,
        depends_on,
        automatable,
        notes,
        spec_content,
        scope,
        allow_no_change,
    })
}

fn parsed<T: std::str::FromStr<Err = coord_db::Error>>(
    value: &Value,
    line: usize,
    misfits: &mut Vec<Misfit>,
    name: &str,
) -> Option<T> {
    let result = match value {
        Value::String(text) => text.parse().map_err(|error: coord_db::Error| error.to_string()),
        _ => Err(format!("{name} must be text")),
    };
    result.map_err(|message| misfits.push((line, message))).ok()
}
