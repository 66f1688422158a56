//! Who owns what. The first to claim a resource owns it; the rest ask.
//!
//! Files, subtrees and names under a scheme are one namespace, compared as leases are: owning `dir/` is owning what is below,
//! and nobody takes a part, or the whole around a part, of what another loop owns. A lease that a loop without leave asks
//! for is refused; one that stands already when its path becomes owned stands until it ends. Ownership is never given
//! automatically.

use crate::model::lease_path::{bare, overlap};
use crate::{ActorId, Error, LeasePath, LoopId, ReadTx, ResourceType, Result, Timestamp, WriteTx};

row! {
    /// An owned resource.
    Resource { path: String, owner_loop: LoopId, resource_type: ResourceType, description: Option<String>, created_at: Timestamp }
}

/// What every loop needs to land its work: nobody owns it.
const COMMON: &str = "git:integration";

/// A wanted path that another loop owns, as a whole or in part.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedByOther {
    /// What is wanted.
    pub wanted: LeasePath,
    /// What stands in the way, with its owner.
    pub resource: Resource,
}

/// True if owning `resource` is owning `path`.
fn covers(resource: &str, path: &str) -> bool {
    bare(resource) == bare(path) || (resource.ends_with('/') && path.starts_with(resource))
}

impl ReadTx<'_> {
    /// One resource, if anyone owns it.
    pub fn resource(&self, path: &str) -> Result<Option<Resource>> {
        self.query_opt(select!(Resource, "FROM resources WHERE path = ?1"), [path], Resource::from_row)
    }

    /// All resources, by path.
    pub fn resources(&self) -> Result<Vec<Resource>> {
        self.query(select!(Resource, "FROM resources ORDER BY path"), [], Resource::from_row)
    }

    /// What decides over a path: the nearest owned resource at or above it, then everything owned below it. Rows that
    /// other tools wrote may overlap; the nearest one counts.
    fn resources_over(&self, path: &LeasePath) -> Result<Vec<Resource>> {
        let mut above = Vec::new();
        for candidate in path.equal_or_above() {
            above.extend(self.resource(&candidate)?);
        }
        above.retain(|resource| covers(&resource.path, path.as_str()) || overlap(&resource.path, path.as_str()));
        let nearest = above.iter().map(|resource| bare(&resource.path).len()).max();
        above.retain(|resource| Some(bare(&resource.path).len()) == nearest);
        if let Some((low, high)) = path.subtree_range() {
            above.extend(self.query(
                select!(Resource, "FROM resources WHERE path > ?1 AND path < ?2 ORDER BY path"),
                [low, high],
                Resource::from_row,
            )?);
        }
        Ok(above)
    }

    /// What keeps a loop from these paths: other loops own them, what is above or a part of them, and no approved request of
    /// the loop covers it. An approved request is leave for its whole resource, until it is applied or the resource has
    /// another owner.
    pub fn owned_by_others(&self, loop_id: &LoopId, paths: &[LeasePath]) -> Result<Vec<OwnedByOther>> {
        // Two ranges of an index, where `<>` would read every row that the loop owns itself.
        let anything: bool = self.value(
            "SELECT EXISTS (SELECT 1 FROM resources WHERE owner_loop < ?1)
                 OR EXISTS (SELECT 1 FROM resources WHERE owner_loop > ?1)",
            [loop_id],
        )?;
        if !anything {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut leave = None;
        for wanted in paths.iter().filter(|path| path.as_str() != COMMON) {
            for resource in self.resources_over(wanted)? {
                if resource.owner_loop == *loop_id {
                    continue;
                }
                if leave.is_none() {
                    leave = Some(self.approved_requests_of(loop_id)?);
                }
                let granted = leave
                    .iter()
                    .flatten()
                    .any(|request| request.owner_loop == resource.owner_loop && covers(&request.resource_path, &resource.path));
                if !granted {
                    found.push(OwnedByOther { wanted: wanted.clone(), resource });
                }
            }
        }
        Ok(found)
    }

    /// The owned resource that covers `path`: the one to name in a change request.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody owns it or what is above.
    pub fn resource_for(&self, path: &str) -> Result<Resource> {
        if let Some(resource) = self.resource(path)? {
            return Ok(resource);
        }
        // A name that is no path stands only for itself.
        let covering = match path.parse::<LeasePath>() {
            Ok(path) => self.resources_over(&path)?.into_iter().find(|resource| covers(&resource.path, path.as_str())),
            Err(_) => None,
        };
        covering.ok_or_else(|| Error::not_found("resource", path))
    }
}

impl WriteTx<'_> {
    /// Gives a loop ownership of a resource without an owner; a second call changes nothing. Files and migrations are written as leases
    /// spell them, anything else unchanged.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop; [`Error::Owned`] if another owns it, what is above or a part of it;
    /// [`Error::Refused`] for what is everyone's; [`Error::Invalid`] for a file that is no path within the repository.
    pub fn own(&self, path: &str, loop_id: &LoopId, resource_type: ResourceType, description: Option<&str>) -> Result<()> {
        self.loop_row(loop_id)?;
        let is_path = matches!(resource_type, ResourceType::File | ResourceType::Migration);
        let path = if is_path { path.parse::<LeasePath>()?.to_string() } else { path.to_owned() };
        if path.trim().is_empty() {
            return Err(Error::Invalid("a resource needs a name".to_owned()));
        }
        if overlap(&path, COMMON) {
            return Err(Error::Refused(format!("{COMMON} cannot be owned: every loop needs it to land")));
        }
        let overlapping = self.resources_over(&LeasePath::trusted(path.as_str()))?;
        if let Some(other) = overlapping.into_iter().find(|resource| resource.owner_loop != *loop_id) {
            return Err(Error::Owned { path: other.path, owner: other.owner_loop.to_string(), asker: loop_id.to_string() });
        }
        self.execute(
            "INSERT INTO resources (path, owner_loop, resource_type, description, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![path, loop_id, resource_type, description, self.now()],
        )?;
        Ok(())
    }

    /// Gives up the ownership of a resource: by its owner, or by the human for it. The requests about it go with the row, an
    /// approved one as well, as nobody is left to ask; the events keep their story.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] for anyone else, and while a request about it waits for an answer.
    pub fn disown(&self, path: &str, by: &ActorId) -> Result<Resource> {
        let resource = self.resource(path)?.ok_or_else(|| Error::not_found("resource", path))?;
        if by.as_str() != resource.owner_loop.as_str() && *by != ActorId::human() {
            let owner = &resource.owner_loop;
            return Err(Error::Refused(format!("{path:?} is owned by loop {owner}; only {owner} or the human can give it up")));
        }
        let pending: Option<String> = self.query_opt(
            "SELECT id FROM change_requests WHERE resource_path = ?1 AND status = 'pending' ORDER BY requested_at, id LIMIT 1",
            [path],
            |row| row.get(0),
        )?;
        if let Some(id) = pending {
            return Err(Error::Refused(format!(
                "change request {id} about {path:?} is pending; answer it with loopctl request approve or reject"
            )));
        }
        self.execute("DELETE FROM change_requests WHERE resource_path = ?1", [path])?;
        self.execute("DELETE FROM resources WHERE path = ?1", [path])?;
        Ok(resource)
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_subtree_covers_what_is_below_and_a_file_only_itself() {
        for (resource, path, expected) in [
            ("dir/", "dir/a", true),
            ("dir/", "dir", true),
            ("dir", "dir/", true),
            ("dir", "dir/a", false),
            ("dir/", "dirt", false),
            ("port:5432", "port:5432", true),
            ("port:", "port:5432", false),
        ] {
            assert_eq!(covers(resource, path), expected, "{resource} {path}");
        }
    }
}
