-- ---------------------------------------------------------------------------------------------------------------
-- Leases that were granted together

-- What a fencing token was granted for, where that is more than one path: a set of which a path is lost is not renewed.
-- What its holder releases leaves the set.
CREATE TABLE lease_sets (
  fencing_token INTEGER NOT NULL,
  file_path     TEXT NOT NULL,
  PRIMARY KEY (fencing_token, file_path)
) STRICT, WITHOUT ROWID;
