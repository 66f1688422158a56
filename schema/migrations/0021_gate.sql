-- ---------------------------------------------------------------------------------------------------------------
-- The gate: in which way a check fails at the base

-- JSON array of the lines of its output that state a failure, the first 500; NULL: not known.
ALTER TABLE base_runs ADD COLUMN failures TEXT CHECK (failures IS NULL OR json_valid(failures));
