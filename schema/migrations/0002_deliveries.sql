-- A delivery costs a publisher one row and one index entry, found by its event and subscription; its seq is its event's
-- place in the order of commits (one number for all deliveries of an event). What subscriptions ask for is found by type alone.

CREATE TABLE deliveries_before AS
  SELECT coalesce((SELECT rowid FROM events WHERE id = event_id), 0) AS event_seq, * FROM deliveries;
DROP TABLE deliveries;
CREATE TABLE deliveries (
  event_id        TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  seq             INTEGER NOT NULL,
  priority        INTEGER NOT NULL,
  status          TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'acknowledged', 'set_aside')),
  tries           INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
  last_error      TEXT,
  settled_at      TEXT CHECK (settled_at IS NULL OR settled_at IS datetime(settled_at, '+0 days') OR settled_at IS strftime('%Y-%m-%d %H:%M:%f', settled_at, '+0 days')),
  PRIMARY KEY (event_id, subscription_id),
  CHECK ((status = 'pending') = (settled_at IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO deliveries (event_id, subscription_id, seq, priority, status, tries, last_error, settled_at)
  SELECT event_id, subscription_id, event_seq, priority, status, tries, last_error, settled_at FROM deliveries_before;
DROP TABLE deliveries_before;
CREATE INDEX deliveries_pending ON deliveries (subscription_id, priority, seq) WHERE status = 'pending';
CREATE TRIGGER deliveries_settle AFTER UPDATE OF status ON deliveries
WHEN OLD.status = 'pending' AND NEW.status = 'acknowledged'
BEGIN
  UPDATE events SET acknowledged = 1, acknowledged_at = NEW.settled_at,
    acknowledged_by = (SELECT subscriber FROM subscriptions WHERE id = NEW.subscription_id)
  WHERE id = NEW.event_id AND acknowledged = 0
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'pending');
END;
CREATE TRIGGER deliveries_set_aside AFTER UPDATE OF status ON deliveries
WHEN OLD.status = 'pending' AND NEW.status = 'set_aside'
BEGIN
  UPDATE events SET acknowledged = 1, acknowledged_at = NEW.settled_at,
    acknowledged_by = (SELECT s.subscriber FROM deliveries AS d JOIN subscriptions AS s ON s.id = d.subscription_id
                       WHERE d.event_id = NEW.event_id AND d.status = 'acknowledged'
                       ORDER BY d.settled_at DESC, d.seq DESC LIMIT 1)
  WHERE id = NEW.event_id AND acknowledged = 0
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'pending')
    AND EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.event_id AND status = 'acknowledged');
END;

CREATE TABLE matches_before AS SELECT * FROM subscription_matches;
DROP TABLE subscription_matches;
CREATE TABLE subscription_matches (
  event_type      TEXT NOT NULL,
  source          TEXT NOT NULL,
  subscription_id TEXT NOT NULL,
  max_priority    INTEGER NOT NULL,
  PRIMARY KEY (event_type, subscription_id, source)
) STRICT, WITHOUT ROWID;
INSERT INTO subscription_matches (event_type, source, subscription_id, max_priority)
  SELECT event_type, source, subscription_id, max_priority FROM matches_before;
DROP TABLE matches_before;
CREATE INDEX subscription_matches_subscription ON subscription_matches (subscription_id);

DROP TRIGGER events_deliver;
DROP TRIGGER events_deliver_custom;
CREATE TRIGGER events_deliver AFTER INSERT ON events
WHEN NEW.acknowledged = 0 AND NOT (NEW.event_type >= 'custom.' AND NEW.event_type < 'custom/')
BEGIN
  INSERT INTO deliveries (event_id, subscription_id, seq, priority)
  SELECT NEW.id, subscription_id, NEW.rowid, NEW.priority FROM subscription_matches
  WHERE event_type = NEW.event_type AND (source = '' OR source = NEW.source) AND max_priority >= NEW.priority;
END;
CREATE TRIGGER events_deliver_custom AFTER INSERT ON events
WHEN NEW.acknowledged = 0 AND NEW.event_type >= 'custom.' AND NEW.event_type < 'custom/'
BEGIN
  INSERT INTO deliveries (event_id, subscription_id, seq, priority)
  SELECT DISTINCT NEW.id, subscription_id, NEW.rowid, NEW.priority FROM subscription_matches
  WHERE event_type IN (NEW.event_type, 'custom.*') AND (source = '' OR source = NEW.source) AND max_priority >= NEW.priority;
END;

-- A type that is named twice is one wish, also where the statement around has another way with conflicts.
DROP TRIGGER subscriptions_insert;
DROP TRIGGER subscriptions_update;
CREATE TRIGGER subscriptions_insert AFTER INSERT ON subscriptions
BEGIN
  DELETE FROM subscription_matches WHERE subscription_id = NEW.id;
  INSERT INTO subscription_matches (event_type, source, subscription_id, max_priority)
  SELECT DISTINCT t.value, s.value, NEW.id, coalesce(NEW.max_priority, 9223372036854775807)
  FROM json_each(NEW.event_types) AS t, json_each(coalesce(NEW.filter_sources, '[""]')) AS s
  WHERE NEW.active = 1 AND t.type = 'text' AND s.type = 'text';
END;

CREATE TRIGGER subscriptions_update AFTER UPDATE OF id, event_types, filter_sources, active, max_priority ON subscriptions
BEGIN
  DELETE FROM subscription_matches WHERE subscription_id IN (OLD.id, NEW.id);
  INSERT INTO subscription_matches (event_type, source, subscription_id, max_priority)
  SELECT DISTINCT t.value, s.value, NEW.id, coalesce(NEW.max_priority, 9223372036854775807)
  FROM json_each(NEW.event_types) AS t, json_each(coalesce(NEW.filter_sources, '[""]')) AS s
  WHERE NEW.active = 1 AND t.type = 'text' AND s.type = 'text';
  UPDATE deliveries SET status = 'set_aside', last_error = 'subscription ended',
    settled_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE subscription_id = OLD.id AND status = 'pending' AND (NEW.active = 0 OR NEW.id <> OLD.id);
END;
