//! What goes into a statement and comes out of a row: the same for each engine.
//!
//! Of the rows that another tool has written: the database refuses what it can, but SQLite lets pass what Rust's own types do
//! not take: text that is no UTF-8 (an escaped lone surrogate that `json_extract` has unpacked is one), JSON that
//! `json_valid` takes and a stricter parser does not (`"\ud800"`, `1e999`, five hundred brackets), times outside the years 0
//! to 9999. One such value must not keep a supervisor from reading all the others, so each becomes the nearest thing that can
//! be read.

use std::borrow::Cow;

use serde_json::Value as Json;

/// A value for a parameter of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Parameter<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(Cow<'a, str>),
}

/// What can be a parameter.
pub(crate) trait ToParameter {
    fn to_parameter(&self) -> Parameter<'_>;
}

impl ToParameter for Parameter<'_> {
    fn to_parameter(&self) -> Parameter<'_> {
        match self {
            Self::Null => Parameter::Null,
            Self::Integer(number) => Parameter::Integer(*number),
            Self::Real(number) => Parameter::Real(*number),
            Self::Text(text) => Parameter::Text(Cow::Borrowed(text)),
        }
    }
}

impl<T: ToParameter + ?Sized> ToParameter for &T {
    fn to_parameter(&self) -> Parameter<'_> {
        (*self).to_parameter()
    }
}

impl<T: ToParameter> ToParameter for Option<T> {
    fn to_parameter(&self) -> Parameter<'_> {
        self.as_ref().map_or(Parameter::Null, ToParameter::to_parameter)
    }
}

impl ToParameter for str {
    fn to_parameter(&self) -> Parameter<'_> {
        Parameter::Text(Cow::Borrowed(self))
    }
}

impl ToParameter for String {
    fn to_parameter(&self) -> Parameter<'_> {
        self.as_str().to_parameter()
    }
}

impl ToParameter for f64 {
    fn to_parameter(&self) -> Parameter<'_> {
        Parameter::Real(*self)
    }
}

macro_rules! as_an_integer {
    ($($type:ty),+) => {$(
        impl ToParameter for $type {
            fn to_parameter(&self) -> Parameter<'_> {
                Parameter::Integer(i64::from(*self))
            }
        }
    )+};
}

as_an_integer!(bool, u16, i32, u32, i64);

/// The parameters of a statement, in order.
pub(crate) trait Params {
    fn with<R>(&self, run: impl FnOnce(&[&dyn ToParameter]) -> R) -> R;
}

impl Params for &[&dyn ToParameter] {
    fn with<R>(&self, run: impl FnOnce(&[&dyn ToParameter]) -> R) -> R {
        run(self)
    }
}

impl<const N: usize> Params for &[&dyn ToParameter; N] {
    fn with<R>(&self, run: impl FnOnce(&[&dyn ToParameter]) -> R) -> R {
        run(*self)
    }
}

// Not for each length at once: an empty array would have no type.
macro_rules! array {
    ($($length:literal),+) => {$(
        impl<T: ToParameter> Params for [T; $length] {
            fn with<R>(&self, run: impl FnOnce(&[&dyn ToParameter]) -> R) -> R {
                run(&self.each_ref().map(|value| value as &dyn ToParameter))
            }
        }
    )+};
}

array!(1, 2, 3, 4, 8);

impl Params for [&dyn ToParameter; 0] {
    fn with<R>(&self, run: impl FnOnce(&[&dyn ToParameter]) -> R) -> R {
        run(self)
    }
}

/// Parameters of several types.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$(&$value as &dyn $crate::engine::ToParameter),*] };
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ValueRef<'a> {
    Null,
    Integer(i64),
    Real(f64),
    /// Text, which may be no UTF-8.
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// Why a value cannot be read as the type of its column.
#[derive(Debug)]
pub(crate) struct Unreadable(pub(crate) String);

impl Unreadable {
    fn expected(what: &str, found: ValueRef<'_>) -> Self {
        let found = match found {
            ValueRef::Null => "nothing",
            ValueRef::Integer(_) => "an integer",
            ValueRef::Real(_) => "a number",
            ValueRef::Text(_) => "a text",
            ValueRef::Blob(_) => "bytes",
        };
        Self(format!("{found} where {what} is expected"))
    }
}

impl ValueRef<'_> {
    /// A text that has to be one.
    pub(crate) fn as_str(&self) -> Result<&str, Unreadable> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).map_err(|error| Unreadable(error.to_string())),
            other => Err(Unreadable::expected("a text", *other)),
        }
    }

    /// A text of a closed list or form.
    pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Result<T, Unreadable> {
        self.as_str()?.parse().map_err(|error: T::Err| Unreadable(error.to_string()))
    }
}

/// A type that a column is read as, however odd its value is, as long as it is of the column's own type in the database.
pub(crate) trait Column: Sized {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable>;
}

macro_rules! an_integer {
    ($($type:ty),+) => {$(
        impl Column for $type {
            fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
                match value {
                    ValueRef::Integer(number) => {
                        Self::try_from(number).map_err(|_| Unreadable(format!("{number} is out of range")))
                    }
                    other => Err(Unreadable::expected("an integer", other)),
                }
            }
        }
    )+};
}

an_integer!(u16, i32, u32, i64);

impl Column for bool {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        i64::take(value).map(|number| number != 0)
    }
}

impl Column for f64 {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        match value {
            ValueRef::Real(number) => Ok(number),
            ValueRef::Integer(number) => Ok(number as Self),
            other => Err(Unreadable::expected("a number", other)),
        }
    }
}

impl<T: Column> Column for Option<T> {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        if value == ValueRef::Null { Ok(None) } else { T::take(value).map(Some) }
    }
}

/// Bytes that are no UTF-8 become U+FFFD. What `json_extract` gives may be a number where a payload should have a text.
impl Column for String {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        match value {
            ValueRef::Text(bytes) => Ok(Self::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Integer(number) => Ok(number.to_string()),
            ValueRef::Real(number) => Ok(number.to_string()),
            other => Err(Unreadable::expected("a text", other)),
        }
    }
}

/// JSON that cannot be parsed becomes a JSON string of its text.
impl Column for Json {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        let text = String::take(value)?;
        Ok(serde_json::from_str(&text).unwrap_or(Self::String(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn taken<T: Column>(sql: &str) -> T {
        let db = crate::Database::in_memory(std::sync::Arc::new(crate::SystemClock)).unwrap();
        db.read(|tx| tx.value(&format!("SELECT {sql}"), [])).unwrap()
    }

    #[test]
    fn odd_text_and_json_are_read_as_the_nearest_thing() {
        assert_eq!(taken::<String>("CAST(x'61ff62' AS TEXT)"), "a\u{fffd}b");
        assert_eq!(taken::<String>("json_extract('[7]', '$[0]')"), "7");
        assert_eq!(taken::<Option<String>>("NULL"), None);
        assert_eq!(taken::<Json>("'{\"a\": 1}'"), serde_json::json!({"a": 1}));
        for odd in [r#""\ud800""#, "1e999"] {
            assert_eq!(taken::<Json>(&format!("'{odd}'")), Json::String(odd.to_owned()));
        }
        let deep = "[".repeat(500) + &"]".repeat(500);
        assert_eq!(taken::<Json>(&format!("'{deep}'")), Json::String(deep));
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
