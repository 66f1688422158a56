-- What monitor has read of each agent's output: whether it still says anything new, and which errors it shows again.

CREATE TABLE agent_outputs (
  loop_id    TEXT PRIMARY KEY NOT NULL,
  log        TEXT NOT NULL,
  read_bytes INTEGER NOT NULL CHECK (read_bytes >= 0),
  read_at    TEXT NOT NULL CHECK (read_at IS datetime(read_at, '+0 days') OR read_at IS strftime('%Y-%m-%d %H:%M:%f', read_at, '+0 days')),
  news_at    TEXT NOT NULL CHECK (news_at IS datetime(news_at, '+0 days') OR news_at IS strftime('%Y-%m-%d %H:%M:%f', news_at, '+0 days')),
  errors     TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(errors))
) STRICT, WITHOUT ROWID;
