//! Creations of the store, which holds integration, checkpoints and saved work outside the database.

use crate::{ReadTx, Result, Timestamp, WriteTx};

row! {
    /// One creation. `cause` is `new`, `brought_over` from the user's repository, or `rebuilt` after it was lost.
    StoreMaking { made_at: Timestamp, cause: String, path: String, integration: Option<String>, host: Option<String> }
}

impl ReadTx<'_> {
    /// The creations of this host's store, oldest first; none if it was never completed.
    pub fn store_makings(&self) -> Result<Vec<StoreMaking>> {
        let sql = select!(StoreMaking, "FROM stores WHERE host IS NULL OR host = ?1 ORDER BY rowid");
        self.query(sql, [self.host()], StoreMaking::from_row)
    }

    /// True if any host has a store.
    pub fn has_stores(&self) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM stores)", [])
    }
}

impl WriteTx<'_> {
    /// Records that the store was created, and the commit of integration then.
    pub fn record_store(&self, cause: &str, path: &str, integration: Option<&str>) -> Result<()> {
        self.execute(
            "INSERT INTO stores (made_at, cause, path, integration, host) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![self.now(), cause, path, integration, self.host()],
        )?;
        Ok(())
    }
}
