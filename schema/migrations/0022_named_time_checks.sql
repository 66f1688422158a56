-- The constraint on each time column gets a name, TABLE_COLUMN_is_utc, which an error then quotes instead of the expression.
-- A name changes nothing that is stored, so the text of the schema is edited and no table is rebuilt
-- (https://www.sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes").
PRAGMA writable_schema = ON;
UPDATE sqlite_schema AS object SET sql = (
  WITH RECURSIVE
    checks (at, time, text, name) AS (
      SELECT row_number() OVER (ORDER BY cid), name,
        replace('CHECK (? IS datetime(?, ''+0 days'') OR ? IS strftime(''%Y-%m-%d %H:%M:%f'', ?, ''+0 days''))', '?', name),
        object.name || '_' || name || '_is_utc'
      FROM pragma_table_info(object.name)),
    named (at, sql) AS (
      SELECT 1, object.sql
      UNION ALL
      -- One check also lets NULL pass by a condition of its own, which is not needed.
      SELECT at + 1, replace(replace(sql, time || ' IS NULL OR ' || time || ' IS datetime(', time || ' IS datetime('),
        text, 'CONSTRAINT ' || name || ' ' || text)
      FROM named JOIN checks USING (at))
  SELECT sql FROM named ORDER BY at DESC LIMIT 1)
WHERE type = 'table' AND sql LIKE '%IS datetime(%';
PRAGMA writable_schema = RESET;
-- Other connections read the schema again only when its number changes, as it does here.
CREATE TABLE schema_has_changed (at TEXT);
DROP TABLE schema_has_changed;
