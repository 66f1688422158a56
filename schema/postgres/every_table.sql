-- What every table of ours has; another owner's may be in the same schema. Run after the schema and after each migration, so that a
-- new table has it too.

DO $$
DECLARE
  name text;
BEGIN
  FOR name IN
    SELECT t.tablename FROM pg_tables AS t JOIN pg_tables AS ours USING (schemaname, tableowner)
    WHERE schemaname = current_schema() AND ours.tablename = 'coding_loops_schema'
  LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER begin_to_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
                    FOR EACH STATEMENT EXECUTE FUNCTION begin_to_write()', name);
  END LOOP;
END
$$;
