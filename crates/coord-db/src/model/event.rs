//! An event to be published.

use serde_json::Value;

use crate::{ActorId, Event, EventId, Payload, Result};

/// An event that is about to be published. Its id and time are given when it is inserted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub(crate) source: ActorId,
    pub(crate) payload: Payload,
    pub(crate) priority: i64,
    pub(crate) correlation_id: Option<String>,
    pub(crate) caused_by: Option<EventId>,
}

impl NewEvent {
    /// `source` says `payload`, with the priority that its type has by default.
    #[must_use]
    pub fn new(source: ActorId, payload: impl Into<Payload>) -> Self {
        let payload = payload.into();
        Self { source, priority: payload.default_priority(), payload, correlation_id: None, caused_by: None }
    }

    /// A new event from a JSON payload, validated against the event catalog. Fields that the catalog does not define are kept.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the type is unknown or the payload does not fit.
    pub fn from_json(source: ActorId, event_type: &str, payload: Value) -> Result<Self> {
        let priority = Payload::parse(event_type, &payload)?.default_priority();
        let payload = Payload::Custom { event_type: event_type.to_owned(), value: payload };
        Ok(Self::new(source, payload).priority(priority))
    }

    /// 1 is the most urgent.
    #[must_use]
    pub fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    /// Says which event led to this one; the story goes on.
    #[must_use]
    pub fn caused_by(mut self, cause: &Event) -> Self {
        self.caused_by = Some(cause.id.clone());
        self.correlation_id = Some(cause.correlation_id.clone().unwrap_or_else(|| cause.id.to_string()));
        self
    }

    /// Says which event led to this one, if one did.
    #[must_use]
    pub fn caused_by_opt(self, cause: Option<&Event>) -> Self {
        match cause {
            Some(cause) => self.caused_by(cause),
            None => self,
        }
    }

    /// Says which event led to this one by its id alone; the story is found in the database at publishing.
    #[must_use]
    pub fn caused_by_id(mut self, cause: Option<EventId>) -> Self {
        self.caused_by = cause;
        self
    }

    /// Joins the story with this id.
    #[must_use]
    pub fn correlation(mut self, id: Option<String>) -> Self {
        self.correlation_id = id;
        self
    }
}
