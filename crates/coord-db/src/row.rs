//! Reading rows that another tool may have written.
//!
//! The database refuses what it can, but SQLite lets pass what Rust's own types do not take: text that is no UTF-8 (an
//! escaped lone surrogate that `json_extract` has unpacked is such a text), JSON that `json_valid` takes and a stricter
//! parser does not (`"\ud800"`, `1e999`, five hundred brackets), times outside the years 0 to 9999. One such value must not
//! keep a supervisor from reading all the others, so each becomes the nearest thing that can be read.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use serde_json::Value;

/// A row of a result. Its values are read as [`Column`] says.
pub(crate) struct Row<'a, 'stmt>(pub(crate) &'a rusqlite::Row<'stmt>);

impl Row<'_, '_> {
    /// The value of a column, by its place from 0.
    pub(crate) fn get<I: rusqlite::RowIndex, T: Column>(&self, at: I) -> rusqlite::Result<T> {
        let Self(row) = self;
        Ok(row.get::<I, Taken<T>>(at)?.0)
    }
}

/// A type that a column is read as, however odd its value is, as long as it is of the column's own SQLite type.
pub(crate) trait Column: Sized {
    fn take(value: ValueRef<'_>) -> FromSqlResult<Self>;
}

struct Taken<T>(T);

impl<T: Column> FromSql for Taken<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        T::take(value).map(Self)
    }
}

macro_rules! as_it_is {
    ($($type:ty),+) => {$(
        impl Column for $type {
            fn take(value: ValueRef<'_>) -> FromSqlResult<Self> {
                FromSql::column_result(value)
            }
        }
    )+};
}

as_it_is!(bool, u16, i32, i64, u32, f64);

impl<T: Column> Column for Option<T> {
    fn take(value: ValueRef<'_>) -> FromSqlResult<Self> {
        if value == ValueRef::Null { Ok(None) } else { T::take(value).map(Some) }
    }
}

/// Bytes that are no UTF-8 become U+FFFD. What `json_extract` gives may be a number where a payload should have a text.
impl Column for String {
    fn take(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Text(bytes) => Ok(Self::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Integer(number) => Ok(number.to_string()),
            ValueRef::Real(number) => Ok(number.to_string()),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

/// JSON that cannot be parsed becomes a JSON string of its text.
impl Column for Value {
    fn take(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = String::take(value)?;
        Ok(serde_json::from_str(&text).unwrap_or(Self::String(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn taken<T: Column>(sql: &str) -> T {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.query_row(&format!("SELECT {sql}"), [], |row| Row(row).get(0)).unwrap()
    }

    #[test]
    fn odd_text_and_json_are_read_as_the_nearest_thing() {
        assert_eq!(taken::<String>("CAST(x'61ff62' AS TEXT)"), "a\u{fffd}b");
        assert_eq!(taken::<String>("json_extract('[7]', '$[0]')"), "7");
        assert_eq!(taken::<Option<String>>("NULL"), None);
        assert_eq!(taken::<Value>("'{\"a\": 1}'"), serde_json::json!({"a": 1}));
        for odd in [r#""\ud800""#, "1e999"] {
            assert_eq!(taken::<Value>(&format!("'{odd}'")), Value::String(odd.to_owned()));
        }
        let deep = "[".repeat(500) + &"]".repeat(500);
        assert_eq!(taken::<Value>(&format!("'{deep}'")), Value::String(deep));
    }

    #[test]
    fn every_time_that_the_database_takes_can_be_read() {
        for (text, shown) in [
            ("-4713-11-25 12:00:00", "0000-01-01 00:00:00.000"),
            ("0000-01-01 00:00:00", "0000-01-01 00:00:00.000"),
            ("9999-12-31 23:59:59", "9999-12-31 23:59:59.000"),
            ("9999-12-31 23:59:59.999", "9999-12-31 23:59:59.999"),
            ("2026-11-22 00:00:01", "2026-11-22 00:00:01.000"),
        ] {
            let time: Timestamp = taken(&format!("'{text}'"));
            assert_eq!(time.to_sql_text(), shown, "{text}");
        }
    }
}
