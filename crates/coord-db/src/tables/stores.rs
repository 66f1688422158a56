//! Creations of the store, which holds integration, checkpoints and saved work outside the database.

use crate::{ReadTx, Result, Timestamp, WriteTx};

row! {
    /// One creation. `cause` is `new`, `brought_over` from the user's repository, or `rebuilt` after it was lost.
    StoreMaking { made_at: Timestamp, cause: String, path: String, integration: Option<String> }
}

impl ReadTx<'_> {
    /// The creations, oldest first; none if the store was never completed.
    pub fn store_makings(&self) -> Result<Vec<StoreMaking>> {
        self.query(select!(StoreMaking, "FROM stores ORDER BY rowid"), [], StoreMaking::from_row)
    }
}

impl WriteTx<'_> {
    /// Records that the store was created, and the commit of integration then.
    pub fn record_store(&self, cause: &str, path: &str, integration: Option<&str>) -> Result<()> {
        self.execute(
            "INSERT INTO stores (made_at, cause, path, integration) VALUES (?1, ?2, ?3, ?4)",
            params![self.now(), cause, path, integration],
        )?;
        Ok(())
    }
}
