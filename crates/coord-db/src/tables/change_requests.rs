//! Requests to change what another loop owns.
//!
//! | from | to | by |
//! | --- | --- | --- |
//! | (asked) | `pending` | the requestor |
//! | `pending` | `approved`, `rejected` | `pm`, the human |
//! | `approved` | `applied` | the requestor, the human |
//!
//! An approved request is permission to lease its resource, and what is below it, until it is applied; it also ends when the
//! resource has another owner or none.

use crate::payload::{ChangeRequested, ChangeResolved};
use crate::{
    ActorId, Error, EventId, LoopId, NewEvent, ReadTx, RequestStatus, RequestType, Resource, Result, TestId, Timestamp,
    WriteTx, new_id,
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
    pub fn change_requests(&self, status: Option<RequestStatus>) -> Result<Vec<ChangeRequest>> {
        self.query(
            select!(ChangeRequest, "FROM change_requests WHERE status = ?1 OR ?1 IS NULL ORDER BY requested_at, id"),
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

    /// The approved requests of a loop whose resources still belong to whom it has asked.
    pub(crate) fn approved_requests_of(&self, loop_id: &LoopId) -> Result<Vec<ChangeRequest>> {
        self.query(
            select!(
                ChangeRequest,
                "FROM change_requests AS c WHERE status = 'approved' AND requestor_loop = ?1
                   AND EXISTS (SELECT 1 FROM resources AS r WHERE r.path = c.resource_path AND r.owner_loop = c.owner_loop)
                 ORDER BY requested_at, id"
            ),
            [loop_id],
            ChangeRequest::from_row,
        )
    }

    /// The last event about a request.
    pub fn last_event_of_change(&self, id: &str) -> Result<Option<EventId>> {
        self.query_opt(
            "SELECT id FROM events WHERE event_type IN ('change_requested', 'change_resolved')
               AND json_extract(payload, '$.request_id') = ?1 ORDER BY rowid DESC LIMIT 1",
            [id],
            |row| row.get(0),
        )
    }

    /// The requests that were made for a test, oldest first.
    pub fn change_requests_for(&self, test: &TestId) -> Result<Vec<ChangeRequest>> {
        self.query(
            select!(
                ChangeRequest,
                "FROM change_requests WHERE id IN (SELECT request_id FROM change_request_tests WHERE test_id = ?1)
                 ORDER BY requested_at, id"
            ),
            [test],
            ChangeRequest::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Requests permission to change a resource, or what is below it. Returns the request's id. The same request again while the
    /// first request is open is the first request.
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
        let resource = self.resource_for(path)?;
        if resource.owner_loop == *requestor {
            return Err(Error::Refused(format!("loop {requestor} owns {:?} itself; no request is needed", resource.path)));
        }
        self.ask_owner(&resource, requestor, request_type, description, None)
    }

    /// As [`WriteTx::request_change`], for a test that cannot land without permission: while the request is pending the
    /// test is not claimed, and it is applied when the test passes.
    pub fn request_change_for(
        &self,
        test: &TestId,
        resource: &Resource,
        requestor: &LoopId,
        description: &str,
        cause: Option<EventId>,
    ) -> Result<String> {
        let id = self.ask_owner(resource, requestor, RequestType::Modify, description, cause)?;
        self.execute(
            "INSERT INTO change_request_tests (request_id, test_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![id, test],
        )?;
        Ok(id)
    }

    fn ask_owner(
        &self,
        resource: &Resource,
        requestor: &LoopId,
        request_type: RequestType,
        description: &str,
        cause: Option<EventId>,
    ) -> Result<String> {
        let open: Option<String> = self.query_opt(
            "SELECT id FROM change_requests
             WHERE resource_path = ?1 AND requestor_loop = ?2 AND owner_loop = ?3 AND request_type = ?4
               AND status IN ('pending', 'approved') ORDER BY requested_at, id LIMIT 1",
            params![resource.path, requestor, resource.owner_loop, request_type],
            |row| row.get(0),
        )?;
        if let Some(id) = open {
            return Ok(id);
        }
        let id = new_id();
        self.execute(
            "INSERT INTO change_requests (id, resource_path, requestor_loop, owner_loop, request_type, description, requested_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![id, resource.path, requestor, resource.owner_loop, request_type, description, self.now()],
        )?;
        let payload = ChangeRequested {
            request_id: id.clone(),
            resource_path: resource.path.clone(),
            requestor_loop: requestor.clone(),
            owner_loop: resource.owner_loop.clone(),
            request_type,
            status: RequestStatus::Pending,
        };
        self.publish(&NewEvent::new(ActorId::from(requestor), payload).caused_by_id(cause))?;
        Ok(id)
    }

    /// Moves a request on: pending to approved or rejected (by `pm` or the human), approved to applied (by its requestor, or
    /// the human for it).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for any other move; [`Error::Refused`] for anyone else, and for a yes in
    /// the name of one who does not own the resource any more.
    pub fn resolve_change(&self, id: &str, to: RequestStatus, by: &ActorId, cause: Option<EventId>) -> Result<()> {
        let request = self.change_request(id)?;
        if !request.status.may_become(to) {
            return Err(Error::illegal("change request", id, request.status, format!("become {to}")));
        }
        let requestor = &request.requestor_loop;
        if to == RequestStatus::Applied {
            if by.as_str() != requestor.as_str() && *by != ActorId::human() {
                return Err(Error::Refused(format!(
                    "change request {id} can be applied only by {requestor}, who made it, or by the human, not by {by}"
                )));
            }
        } else if !matches!(by.as_str(), "human" | "pm") {
            return Err(Error::Refused(format!("{by} cannot answer a change request; pm or the human must")));
        }
        let owner = self.resource(&request.resource_path)?.map(|resource| resource.owner_loop);
        if to == RequestStatus::Approved && owner.as_ref() != Some(&request.owner_loop) {
            return Err(Error::Refused(format!(
                "{:?} is not owned by {} any more; reject change request {id} and let {requestor} create a new one",
                request.resource_path, request.owner_loop
            )));
        }
        if request.status == RequestStatus::Pending {
            self.execute(
                "UPDATE change_requests SET status = ?2, resolved_at = ?3, resolved_by = ?4 WHERE id = ?1",
                params![id, to, self.now(), by],
            )?;
        } else {
            // Who gave permission, and when, does not change.
            self.execute("UPDATE change_requests SET status = ?2 WHERE id = ?1", params![id, to])?;
        }
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

    /// Applies the requests that were made for a test that has passed.
    pub(crate) fn apply_changes_for(&self, test: &TestId, cause: &EventId) -> Result<()> {
        for request in self.change_requests_for(test)? {
            if request.status == RequestStatus::Approved {
                let by = ActorId::from(&request.requestor_loop);
                self.resolve_change(&request.id, RequestStatus::Applied, &by, Some(cause.clone()))?;
            }
        }
        Ok(())
    }
}
