//! Who owns what. The first to claim a resource owns it.

use crate::{Error, LoopId, ReadTx, ResourceType, Result, Timestamp, WriteTx};

row! {
    /// An owned resource.
    Resource { path: String, owner_loop: LoopId, resource_type: ResourceType, description: Option<String>, created_at: Timestamp }
}

impl ReadTx<'_> {
    /// One resource, if anyone owns it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn resource(&self, path: &str) -> Result<Option<Resource>> {
        self.query_opt(select!(Resource, "FROM resources WHERE path = ?1"), [path], Resource::from_row)
    }

    /// All resources, by path.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn resources(&self) -> Result<Vec<Resource>> {
        self.query(select!(Resource, "FROM resources ORDER BY path"), [], Resource::from_row)
    }
}

impl WriteTx<'_> {
    /// A loop takes ownership of what nobody owns. Owning it twice is owning it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop; [`Error::Refused`] if another owns it.
    pub fn own(&self, path: &str, loop_id: &LoopId, resource_type: ResourceType, description: Option<&str>) -> Result<()> {
        self.loop_row(loop_id)?;
        if let Some(resource) = self.resource(path)? {
            if resource.owner_loop == *loop_id {
                return Ok(());
            }
            return Err(Error::Refused(format!(
                "{path:?} is owned by loop {}; ask with loopctl request create {path} --loop {loop_id}",
                resource.owner_loop
            )));
        }
        self.execute(
            "INSERT INTO resources (path, owner_loop, resource_type, description, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            rusqlite::params![path, loop_id, resource_type, description, self.now()],
        )?;
        Ok(())
    }
}
