-- What every table has. Run after the schema and after each migration, so that a new table has it too.

DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER begin_to_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
                    FOR EACH STATEMENT EXECUTE FUNCTION begin_to_write()', name);
  END LOOP;
END
$$;
