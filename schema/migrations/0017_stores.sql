-- ---------------------------------------------------------------------------------------------------------------
-- The store

-- Each making of the store, which holds integration, checkpoints and saved work. `cause`: new; brought_over from the user's
-- repository, where an older version kept them; rebuilt after it was lost. `integration` is where integration was then.
CREATE TABLE stores (
  made_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
    CHECK (made_at IS datetime(made_at, '+0 days') OR made_at IS strftime('%Y-%m-%d %H:%M:%f', made_at, '+0 days')),
  cause       TEXT NOT NULL CHECK (cause IN ('new', 'brought_over', 'rebuilt')),
  path        TEXT NOT NULL,
  integration TEXT
) STRICT;
