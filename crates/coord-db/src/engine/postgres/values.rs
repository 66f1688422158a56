//! Values as PostgreSQL has them: parameters in the type that a statement gives each, columns as one of ours.

use std::error::Error as StdError;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

use crate::engine::value::{Parameter, ToParameter, ValueRef};
use crate::{Error, Result};

type Wrong = Box<dyn StdError + Sync + Send>;

/// A parameter that waits to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl Value {
    /// PostgreSQL's text holds no NUL; what has one is kept with U+FFFD in its place.
    pub(super) fn of(parameter: &dyn ToParameter) -> Self {
        match parameter.to_parameter() {
            Parameter::Null => Self::Null,
            Parameter::Integer(number) => Self::Integer(number),
            Parameter::Real(number) => Self::Real(number),
            Parameter::Text(text) if text.contains('\0') => Self::Text(text.replace('\0', "\u{fffd}")),
            Parameter::Text(text) => Self::Text(text.into_owned()),
        }
    }
}

impl ToParameter for Value {
    fn to_parameter(&self) -> Parameter<'_> {
        match self {
            Self::Null => Parameter::Null,
            Self::Integer(number) => Parameter::Integer(*number),
            Self::Real(number) => Parameter::Real(*number),
            Self::Text(text) => Parameter::Text(text.into()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Wrong> {
        let integer = match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Integer(number) => Some(*number),
            Self::Text(text) if [Type::INT8, Type::INT4, Type::INT2].contains(kind) => Some(text.parse()?),
            _ => None,
        };
        match (kind, integer, self) {
            (&Type::INT8, Some(number), _) => number.to_sql(kind, out),
            (&Type::INT4, Some(number), _) => i32::try_from(number)?.to_sql(kind, out),
            (&Type::INT2, Some(number), _) => i16::try_from(number)?.to_sql(kind, out),
            (&Type::BOOL, Some(number), _) => (number != 0).to_sql(kind, out),
            (&Type::FLOAT8, Some(number), _) => (number as f64).to_sql(kind, out),
            (&Type::FLOAT8, _, Self::Real(number)) => number.to_sql(kind, out),
            (&Type::TEXT | &Type::VARCHAR | &Type::UNKNOWN, _, Self::Text(text)) => text.to_sql(&Type::TEXT, out),
            (&Type::TEXT | &Type::VARCHAR | &Type::UNKNOWN, Some(number), _) => number.to_string().to_sql(&Type::TEXT, out),
            (&Type::TEXT | &Type::VARCHAR | &Type::UNKNOWN, _, Self::Real(number)) => {
                number.to_string().to_sql(&Type::TEXT, out)
            }
            _ => Err(format!("{self:?} is not of the type {kind}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A column's value as it came.
struct Raw<'a>(ValueRef<'a>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Wrong> {
        Ok(Self(match *kind {
            Type::INT8 => ValueRef::Integer(i64::from_sql(kind, raw)?),
            Type::INT4 => ValueRef::Integer(i32::from_sql(kind, raw)?.into()),
            Type::INT2 => ValueRef::Integer(i16::from_sql(kind, raw)?.into()),
            Type::BOOL => ValueRef::Integer(bool::from_sql(kind, raw)?.into()),
            Type::FLOAT8 => ValueRef::Real(f64::from_sql(kind, raw)?),
            Type::TEXT | Type::VARCHAR | Type::NAME | Type::JSON | Type::UNKNOWN => ValueRef::Text(raw),
            _ => return Err(format!("a value of the type {kind}").into()),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Wrong> {
        Ok(Self(ValueRef::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A row of a result.
pub(crate) struct Row<'a>(pub(super) &'a tokio_postgres::Row);

impl Row<'_> {
    /// The value of a column, as it is.
    pub(crate) fn value(&self, at: usize) -> Result<ValueRef<'_>> {
        let raw = self.0.try_get::<_, Raw<'_>>(at);
        raw.map(|raw| raw.0).map_err(|error| Error::Unreadable { column: self.name(at), detail: crate::error_chain(&error) })
    }

    /// The number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn name(&self, at: usize) -> String {
        self.0.columns().get(at).map(|column| column.name().to_owned()).unwrap_or_default()
    }
}
