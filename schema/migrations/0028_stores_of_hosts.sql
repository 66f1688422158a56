-- Each host has a store of its own. NULL: written by an earlier version, on this host.
ALTER TABLE stores ADD COLUMN host TEXT;
