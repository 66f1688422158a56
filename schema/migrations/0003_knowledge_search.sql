-- Knowledge that is found by its words and by the files that it is about, and questions that are found by their matter.

-- A number for each item of knowledge: what the two indexes below know it by. Row numbers of `knowledge` itself would do,
-- if they outlived a dump and were promised to outlive a VACUUM. None is given twice.
CREATE TABLE knowledge_numbers (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  knowledge_id TEXT NOT NULL UNIQUE
) STRICT;

-- The files that each item which stands is about. `prefix` is the beginning of the glob that holds no wildcard, up to its
-- last slash (the whole of it if it has none), so that what touches a file is found by its folders. An item about no file
-- in particular has one row, with an empty area under the prefix '/', which no path in the repository has.
CREATE TABLE knowledge_areas (
  prefix TEXT NOT NULL,
  seq    INTEGER NOT NULL,
  area   TEXT NOT NULL,
  PRIMARY KEY (prefix, seq, area)
) STRICT, WITHOUT ROWID;
CREATE INDEX knowledge_areas_seq ON knowledge_areas (seq);

-- It keeps its own copy of the texts: an index over another table's is damaged by any hand that replaces a row
-- without its delete trigger (INSERT OR REPLACE does).
CREATE VIRTUAL TABLE knowledge_words USING fts5 (topic, content, evidence, tokenize = 'porter unicode61 remove_diacritics 2');

CREATE INDEX knowledge_standing ON knowledge (topic COLLATE NOCASE, item_type) WHERE superseded_by IS NULL;
CREATE INDEX knowledge_superseded_by ON knowledge (superseded_by) WHERE superseded_by IS NOT NULL;

-- What an item is found by, as it should be: from here the triggers fill the indexes, and `loopctl check` compares.
CREATE VIEW knowledge_index AS
  SELECT n.seq AS seq, k.id AS knowledge_id, coalesce(k.topic, '') AS topic, k.content AS content,
    coalesce(k.evidence, '') AS evidence
  FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id;

CREATE VIEW knowledge_scopes AS
  SELECT seq, knowledge_id, area,
    CASE WHEN area = '' THEN '/' WHEN head = area THEN area ELSE rtrim(head, replace(head, '/', '')) END AS prefix
  FROM (
    SELECT seq, knowledge_id, area,
      substr(area, 1, min(instr(area || '*', '*'), instr(area || '?', '?'), instr(area || '[', '['),
        instr(area || '{', '{'), instr(area || '\', '\')) - 1) AS head
    FROM (
      SELECT n.seq AS seq, n.knowledge_id AS knowledge_id, a.value AS area
      FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id,
        json_each(CASE json_type(k.affected_areas) WHEN 'array' THEN k.affected_areas ELSE '[]' END) AS a
      WHERE k.superseded_by IS NULL AND a.type = 'text'
      UNION ALL
      SELECT n.seq, n.knowledge_id, ''
      FROM knowledge_numbers AS n JOIN knowledge AS k ON k.id = n.knowledge_id
      WHERE k.superseded_by IS NULL AND NOT EXISTS (
        SELECT 1 FROM json_each(CASE json_type(k.affected_areas) WHEN 'array' THEN k.affected_areas ELSE '[]' END) AS a
        WHERE a.type = 'text')
    )
  );

CREATE TRIGGER knowledge_insert AFTER INSERT ON knowledge
BEGIN
  INSERT INTO knowledge_numbers (knowledge_id)
    SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT INTO knowledge_words (rowid, topic, content, evidence)
    SELECT seq, topic, content, evidence FROM knowledge_index WHERE knowledge_id = NEW.id;
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT OR IGNORE INTO knowledge_areas (prefix, seq, area)
    SELECT prefix, seq, area FROM knowledge_scopes WHERE knowledge_id = NEW.id;
END;

CREATE TRIGGER knowledge_update AFTER UPDATE OF id, topic, content, evidence, affected_areas, superseded_by ON knowledge
BEGIN
  UPDATE knowledge_numbers SET knowledge_id = NEW.id WHERE knowledge_id = OLD.id AND NEW.id <> OLD.id;
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT INTO knowledge_words (rowid, topic, content, evidence)
    SELECT seq, topic, content, evidence FROM knowledge_index WHERE knowledge_id = NEW.id;
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = NEW.id);
  INSERT OR IGNORE INTO knowledge_areas (prefix, seq, area)
    SELECT prefix, seq, area FROM knowledge_scopes WHERE knowledge_id = NEW.id;
END;

CREATE TRIGGER knowledge_delete AFTER DELETE ON knowledge
BEGIN
  DELETE FROM knowledge_words WHERE rowid = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = OLD.id);
  DELETE FROM knowledge_areas WHERE seq = (SELECT seq FROM knowledge_numbers WHERE knowledge_id = OLD.id);
  DELETE FROM knowledge_numbers WHERE knowledge_id = OLD.id;
END;

INSERT INTO knowledge_numbers (knowledge_id) SELECT id FROM knowledge ORDER BY created_at, id;
INSERT INTO knowledge_words (rowid, topic, content, evidence) SELECT seq, topic, content, evidence FROM knowledge_index;
INSERT OR IGNORE INTO knowledge_areas (prefix, seq, area) SELECT prefix, seq, area FROM knowledge_scopes;

-- The last question about a matter, and questions that another hand has settled.
CREATE INDEX decisions_about ON decisions (fingerprint, requested_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX decisions_decided_at ON decisions (decided_at) WHERE decided_at IS NOT NULL;
CREATE INDEX decisions_type ON decisions (decision_type, requested_by);

-- What a day, and a stretch of time, has cost.
CREATE INDEX usage_recorded_at ON usage (recorded_at);
