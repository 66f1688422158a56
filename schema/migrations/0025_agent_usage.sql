-- What a run of an agent has cost, by kind of token and by model, and the session that it can be continued in.
ALTER TABLE usage ADD COLUMN agent TEXT;
ALTER TABLE usage ADD COLUMN model TEXT;
ALTER TABLE usage ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0 CHECK (input_tokens >= 0);
ALTER TABLE usage ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0 CHECK (output_tokens >= 0);
ALTER TABLE usage ADD COLUMN cache_read_tokens INTEGER NOT NULL DEFAULT 0 CHECK (cache_read_tokens >= 0);
ALTER TABLE usage ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0);
ALTER TABLE usage ADD COLUMN cost_microusd INTEGER CHECK (cost_microusd >= 0);
ALTER TABLE runs ADD COLUMN session TEXT;
-- JSON: what the whole session has used by the end of the run.
ALTER TABLE runs ADD COLUMN session_used TEXT CHECK (session_used IS NULL OR json_valid(session_used));
-- What the agent does at the moment, in a few words.
ALTER TABLE runs ADD COLUMN progress TEXT;
