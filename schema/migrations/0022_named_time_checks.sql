-- The constraint on each time column gets a name, TABLE_COLUMN_is_utc, which an error then quotes instead of the expression.
-- A name changes nothing that is stored, so the text of the schema is edited and no table is rebuilt
-- (https://www.sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes").
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = (
  WITH RECURSIVE
    checks (at, name, old, new) AS (
      SELECT row_number() OVER (ORDER BY cid), sqlite_schema.name || '_' || name || '_is_utc', name || ' IS NULL OR ' || name,
        replace('CHECK (? IS datetime(?, ''+0 days'') OR ? IS strftime(''%Y-%m-%d %H:%M:%f'', ?, ''+0 days''))', '?', name)
      FROM pragma_table_info(sqlite_schema.name)),
    named (at, sql) AS (
      SELECT 1, sqlite_schema.sql
      UNION ALL
      -- NULL is the time of NULL; one column has said so twice.
      SELECT at + 1, replace(replace(named.sql, old || ' IS datetime(', substr(old, instr(old, ' OR ') + 4) || ' IS datetime('),
        new, 'CONSTRAINT ' || name || ' ' || new)
      FROM named JOIN checks USING (at))
  SELECT named.sql FROM named ORDER BY at DESC LIMIT 1)
WHERE type = 'table' AND sql LIKE '%IS datetime(%';
PRAGMA writable_schema = RESET;
-- Other connections read the schema again only when its number changes, as it does here.
CREATE TABLE schema_has_changed (at TEXT);
DROP TABLE schema_has_changed;
