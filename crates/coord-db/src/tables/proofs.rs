//! Proofs: what a check showed about a commit, and the run behind each proof.

use crate::{CheckOutcome, ProofStage, ReadTx, Result, RunKind, TestId, Timestamp, WriteTx};

row! {
    /// What one run of one check showed about a test's commit.
    Proof {
        id: String, test_id: TestId, attempt: i64, commit_hash: String, tree_hash: String, check_name: String,
        outcome: CheckOutcome, exit_code: Option<i64>, duration_ms: i64, output_sha256: String, output_tail: String,
        created_at: Timestamp,
    }
}

row! {
    /// The run behind a proof. Proofs of other clients and of older versions have none.
    ProofRun {
        proof_id: String, kind: RunKind, why: String, check_hash: String, reused_from: Option<String>, stage: ProofStage,
        base_tree: Option<String>, let_through: bool,
    }
}

impl ReadTx<'_> {
    /// The proofs of a test, of one attempt or all, oldest first.
    pub fn proofs(&self, test: &TestId, attempt: Option<i64>) -> Result<Vec<Proof>> {
        self.query(
            select!(Proof, "FROM proofs WHERE test_id = ?1 AND (attempt = ?2 OR ?2 IS NULL) ORDER BY created_at, rowid"),
            params![test, attempt],
            Proof::from_row,
        )
    }

    /// Whether a proof has this id.
    pub fn has_proof(&self, id: &str) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM proofs WHERE id = ?1)", [id])
    }

    /// The runs behind a test's proofs, in the order of the proofs.
    pub fn proof_runs(&self, test: &TestId) -> Result<Vec<ProofRun>> {
        self.query(
            select!(ProofRun, "FROM proof_runs WHERE proof_id IN (SELECT id FROM proofs WHERE test_id = ?1) ORDER BY proof_id"),
            [test],
            ProofRun::from_row,
        )
    }

    /// The newest proof that exactly this command has passed on exactly these files for this test, if there is one.
    pub fn proven(&self, tree: &str, check: &str, check_hash: &str, test: &TestId) -> Result<Option<Proof>> {
        self.query_opt(
            select!(
                Proof,
                "FROM proofs WHERE tree_hash = ?1 AND check_name = ?2 AND test_id = ?4 AND outcome = 'pass'
                   AND EXISTS (SELECT 1 FROM proof_runs AS r WHERE r.proof_id = proofs.id AND r.kind = 'passed' AND r.check_hash = ?3
                               AND r.stage = 'alone')
                 ORDER BY created_at DESC, id DESC LIMIT 1"
            ),
            params![tree, check, check_hash, test],
            Proof::from_row,
        )
    }

    /// Whether exactly this command has failed on a commit, put on files of this tree, and was let through.
    pub fn was_let_through(&self, commit: &str, base_tree: &str, check_hash: &str, test: &TestId) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM proofs AS p JOIN proof_runs AS r ON r.proof_id = p.id
                            WHERE p.commit_hash = ?1 AND p.test_id = ?4 AND r.base_tree = ?2 AND r.check_hash = ?3
                              AND r.let_through = 1)",
            params![commit, base_tree, check_hash, test],
        )
    }

    /// The newest proof that exactly this command has failed for this test before its work, on exactly these files.
    pub fn red_before(&self, check_hash: &str, test: &TestId, tree: &str) -> Result<Option<Proof>> {
        self.query_opt(
            select!(
                Proof,
                "FROM proofs WHERE test_id = ?2 AND tree_hash = ?3 AND outcome = 'fail'
                   AND EXISTS (SELECT 1 FROM proof_runs AS r WHERE r.proof_id = proofs.id AND r.check_hash = ?1
                               AND r.stage = 'red_before')
                 ORDER BY created_at DESC, id DESC LIMIT 1"
            ),
            params![check_hash, test, tree],
            Proof::from_row,
        )
    }

    /// The proofs whose ids begin so (a `Proof:` trailer is the beginning of its proofs' ids), in order; at most 100.
    pub fn proofs_beginning(&self, prefix: &str) -> Result<Vec<Proof>> {
        self.query(
            select!(Proof, "FROM proofs WHERE id >= ?1 AND id < ?1 || '\u{10ffff}' ORDER BY id LIMIT 100"),
            [prefix],
            Proof::from_row,
        )
    }

    /// The proofs of a commit by its full hash or the beginning of it, in the order they were made; at most 100.
    pub fn proofs_of_commit(&self, prefix: &str) -> Result<Vec<Proof>> {
        self.query(
            select!(Proof, "FROM proofs WHERE commit_hash >= ?1 AND commit_hash < ?1 || 'g' ORDER BY created_at, id LIMIT 100"),
            [prefix],
            Proof::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Records what a check showed, with the run behind it if it is known.
    pub fn add_proof(&self, proof: &Proof, run: Option<&ProofRun>) -> Result<()> {
        self.execute(
            "INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, exit_code, duration_ms,
               output_sha256, output_tail, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                proof.id,
                proof.test_id,
                proof.attempt,
                proof.commit_hash,
                proof.tree_hash,
                proof.check_name,
                proof.outcome,
                proof.exit_code,
                proof.duration_ms,
                proof.output_sha256,
                proof.output_tail,
                proof.created_at
            ],
        )?;
        let Some(run) = run else { return Ok(()) };
        self.execute(
            "INSERT INTO proof_runs (proof_id, kind, why, check_hash, reused_from, stage, base_tree, let_through)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![proof.id, run.kind, run.why, run.check_hash, run.reused_from, run.stage, run.base_tree, run.let_through],
        )?;
        Ok(())
    }
}
