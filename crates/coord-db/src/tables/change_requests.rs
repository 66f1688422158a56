//! Requests to change what another loop owns: pending, then approved or rejected, an approved one applied.

use crate::payload::{ChangeRequested, ChangeResolved};
use crate::{
    ActorId, Error, EventId, LoopId, NewEvent, ReadTx, RequestStatus, RequestType, Result, Timestamp, WriteTx, new_id,
};

row! {
    /// A request.
    ChangeRequest {
        id: String, resource_path: String, requestor_loop: LoopId, owner_loop: LoopId, request_type: RequestType,
        description: String, status: RequestStatus, requested_at: Timestamp, resolved_at: Option<Timestamp>,
        resolved_by: Option<String>,
    }
}

impl ReadTx<'_> {
    /// Requests, with one status or any, oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn change_requests(&self, status: Option<RequestStatus>) -> Result<Vec<ChangeRequest>> {
        self.query(
            select!(ChangeRequest, "FROM change_requests WHERE ?1 IS NULL OR status = ?1 ORDER BY requested_at, id"),
            [status],
            ChangeRequest::from_row,
        )
    }

    /// One request.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn change_request(&self, id: &str) -> Result<ChangeRequest> {
        self.query_opt(select!(ChangeRequest, "FROM change_requests WHERE id = ?1"), [id], ChangeRequest::from_row)?
            .ok_or_else(|| Error::not_found("change request", id))
    }
}

impl WriteTx<'_> {
    /// Asks the owner of a resource for leave to change it. Gives the request's id.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody owns the path; [`Error::Refused`] if the asker does.
    pub fn request_change(
        &self,
        path: &str,
        requestor: &LoopId,
        request_type: RequestType,
        description: &str,
    ) -> Result<String> {
        self.loop_row(requestor)?;
        let resource = self.resource(path)?.ok_or_else(|| Error::not_found("resource", path))?;
        if resource.owner_loop == *requestor {
            return Err(Error::Refused(format!("loop {requestor} owns {path:?} itself; no request is needed")));
        }
        let id = new_id();
        self.execute(
            "INSERT INTO change_requests (id, resource_path, requestor_loop, owner_loop, request_type, description, requested_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            rusqlite::params![id, path, requestor, resource.owner_loop, request_type, description, self.now()],
        )?;
        let payload = ChangeRequested {
            request_id: id.clone(),
            resource_path: path.to_owned(),
            requestor_loop: requestor.clone(),
            owner_loop: resource.owner_loop,
            request_type,
            status: RequestStatus::Pending,
        };
        self.publish(&NewEvent::new(ActorId::from(requestor), payload))?;
        Ok(id)
    }

    /// Moves a request on: pending to approved or rejected (by `pm` or the human), approved to applied (by its requestor).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] for any other move.
    pub fn resolve_change(&self, id: &str, to: RequestStatus, by: &ActorId) -> Result<()> {
        self.resolve_change_because(id, to, by, None)
    }

    /// As [`WriteTx::resolve_change`], led to by an event.
    ///
    /// # Errors
    /// As [`WriteTx::resolve_change`].
    pub fn resolve_change_because(&self, id: &str, to: RequestStatus, by: &ActorId, cause: Option<EventId>) -> Result<()> {
        let request = self.change_request(id)?;
        let legal = matches!(
            (request.status, to),
            (RequestStatus::Pending, RequestStatus::Approved | RequestStatus::Rejected)
                | (RequestStatus::Approved, RequestStatus::Applied)
        );
        if !legal {
            return Err(Error::Refused(format!("change request {id} is {}; it cannot become {to}", request.status)));
        }
        let judge = if by.as_str() == "pm" { "pm" } else { "human" };
        self.execute(
            "UPDATE change_requests SET status = ?2, resolved_at = coalesce(resolved_at, ?3), resolved_by = coalesce(resolved_by, ?4)
             WHERE id = ?1",
            rusqlite::params![id, to, self.now(), judge],
        )?;
        let payload = ChangeResolved {
            request_id: id.to_owned(),
            resource_path: request.resource_path,
            requestor_loop: request.requestor_loop,
            owner_loop: request.owner_loop,
            request_type: request.request_type,
            status: to,
        };
        self.publish(&NewEvent::new(by.clone(), payload).caused_by_id(cause))?;
        Ok(())
    }
}
