-- Functions of SQLite that the statements of coord-db use, for PostgreSQL. Each does what SQLite's does for what the tables hold;
-- none is needed by anything else. Bodies in SQL are parsed when they are made (BEGIN ATOMIC), so that constraints and generated
-- columns mean the same while a dump is restored, whose search path is empty.

-- ---------------------------------------------------------------------------------------------------------------
-- Time

-- Now, in the form of every column with a time.
CREATE FUNCTION utc_now() RETURNS text LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
  SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS');
END;

-- A time in the form of a column, or NULL where the text is none: 'YYYY-MM-DD HH:MM:SS', with or without milliseconds.
CREATE FUNCTION utc(at text) RETURNS timestamp LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  day date;
BEGIN
  IF at !~ '^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]) ([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{3})?$' THEN
    RETURN NULL;
  END IF;
  -- Year 0 is 1 BC, which make_date knows by another number.
  IF left(at, 4) = '0000' THEN
    day := make_date(-1, substr(at, 6, 2)::int, 1) + (substr(at, 9, 2)::int - 1);
  ELSE
    day := make_date(left(at, 4)::int, substr(at, 6, 2)::int, 1) + (substr(at, 9, 2)::int - 1);
  END IF;
  -- SQLite moves a 31st of February into March, and so finds that it is none.
  IF extract(month FROM day) <> substr(at, 6, 2)::int THEN
    RETURN NULL;
  END IF;
  RETURN day + substr(at, 12)::time;
END
$$;

-- Whether a text is a time in the form of a column.
CREATE FUNCTION is_utc(at text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT at IS NULL OR utc(at) IS NOT NULL;
END;

-- A moment or now, moved by '+1 minute' or the like, without milliseconds.
CREATE FUNCTION datetime(at text, shift text DEFAULT '0 seconds') RETURNS text LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT to_char(CASE WHEN at = 'now' THEN clock_timestamp() AT TIME ZONE 'UTC' ELSE utc(at) END + shift::interval,
    'YYYY-MM-DD HH24:MI:SS');
END;

-- A moment or now in the form of a column: the only form that is asked for.
CREATE FUNCTION strftime(form text, at text) RETURNS text LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE WHEN at = 'now' THEN utc_now() ELSE to_char(utc(at), 'YYYY-MM-DD HH24:MI:SS.MS') END;
END;

-- ---------------------------------------------------------------------------------------------------------------
-- JSON, which columns hold as text

CREATE FUNCTION json_valid(document text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
  PERFORM document::json;
  RETURN true;
EXCEPTION WHEN OTHERS THEN
  RETURN false;
END
$$;

-- JSON whose strings PostgreSQL can hold: an escaped NUL, and half of a surrogate pair, become U+FFFD.
CREATE FUNCTION readable_json(document text) RETURNS json LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE WHEN document !~ '\\u(0000|[dD][89a-fA-F])' THEN document::json
    ELSE regexp_replace(document, '(?<!\\)((?:\\\\)*)(?:\\u0000|\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])'
      '|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..)', '\1\\ufffd', 'g')::json
  END;
END;

-- '$.a.b' and '$[0]' as PostgreSQL has paths.
CREATE FUNCTION json_path(path text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT string_to_array(nullif(ltrim(replace(replace(substr(path, 2), '[', '.'), ']', ''), '.'), ''), '.');
END;

-- A value of a document as text: a string without its quotes, all else as it is written.
CREATE FUNCTION json_extract(document text, path text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT readable_json(document) #>> coalesce(json_path(path), '{}');
END;

-- A value of a document with its type, by SQLite's names for types.
CREATE FUNCTION json_value_type(document json) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE json_typeof(document)
    WHEN 'string' THEN 'text'
    WHEN 'number' THEN CASE WHEN document::text ~ '[.eE]' THEN 'real' ELSE 'integer' END
    WHEN 'boolean' THEN document::text
    ELSE json_typeof(document)
  END;
END;

CREATE FUNCTION json_type(document text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT json_value_type(document::json);
END;

CREATE FUNCTION json_type(document text, path text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT json_value_type(readable_json(document) #> coalesce(json_path(path), '{}'));
END;

CREATE FUNCTION json_array_length(document text) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE json_typeof(document::json) WHEN 'array' THEN json_array_length(document::json) ELSE 0 END;
END;

-- The elements of a list, or the values of an object.
CREATE FUNCTION json_each(document text) RETURNS TABLE (key text, value text, type text)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 8
BEGIN ATOMIC
  SELECT (at - 1)::text, element #>> '{}', json_value_type(element)
    FROM json_array_elements(CASE json_typeof(document::json) WHEN 'array' THEN readable_json(document) ELSE '[]' END)
      WITH ORDINALITY AS list (element, at)
  UNION ALL
  SELECT name, element #>> '{}', json_value_type(element)
    FROM json_each(CASE json_typeof(document::json) WHEN 'object' THEN readable_json(document) ELSE '{}' END) AS fields (name, element);
END;

-- A JSON list of texts.
CREATE FUNCTION json_group_step(list text[], value text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT list || value;
END;
CREATE FUNCTION json_group_final(list text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT array_to_json(list)::text;
END;
CREATE AGGREGATE json_group_array (text) (SFUNC = json_group_step, STYPE = text[], INITCOND = '{}', FINALFUNC = json_group_final);

CREATE FUNCTION json_each(document text, path text) RETURNS TABLE (key text, value text, type text)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 8
BEGIN ATOMIC
  SELECT * FROM json_each((readable_json(document) #> coalesce(json_path(path), '{}'))::text);
END;

-- A document with another merged into it, as RFC 7396 has it; keys keep their order.
CREATE FUNCTION json_patch(document text, patch text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
  IF json_typeof(patch::json) <> 'object' THEN
    RETURN patch;
  END IF;
  IF json_typeof(document::json) <> 'object' THEN
    document := '{}';
  END IF;
  RETURN (
    SELECT '{' || coalesce(string_agg(to_json(key) || ':' ||
      CASE json_typeof(new.value)
        WHEN 'object' THEN json_patch(coalesce(old.value, '{}')::text, new.value::text)
        ELSE coalesce(new.value, old.value)::text
      END, ',' ORDER BY old.at, new.at), '') || '}'
    FROM json_each(readable_json(document)) WITH ORDINALITY AS old (key, value, at)
      FULL JOIN json_each(readable_json(patch)) WITH ORDINALITY AS new (key, value, at) USING (key)
    WHERE json_typeof(new.value) IS DISTINCT FROM 'null');
END
$$;

-- A document with one text put under a key of its own.
CREATE FUNCTION json_set(document text, path text, value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT json_patch(document, json_build_object(substr(path, 3), value)::text);
END;

-- ---------------------------------------------------------------------------------------------------------------
-- Text and numbers

-- Whether a text fits a pattern in which `*` stands for any characters and `?` for one. There are no [classes] in ours.
CREATE FUNCTION glob(pattern text, value text) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT value LIKE translate(regexp_replace(pattern, '([\\%_])', '\\\1', 'g'), '*?', '%_');
END;

CREATE FUNCTION max(one bigint, other bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT greatest(one, other);
END;

CREATE FUNCTION max(one text, two text, three text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT greatest(one COLLATE "C", two COLLATE "C", three COLLATE "C");
END;

CREATE FUNCTION min(one bigint, other bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT least(one, other);
END;

CREATE FUNCTION total_step(sum double precision, value bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT sum + coalesce(value, 0);
END;
-- A sum that is too large for an integer is the largest one, as when SQLite casts it.
CREATE FUNCTION total_end(sum double precision) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT CASE
    WHEN sum >= 9223372036854775807 THEN 9223372036854775807
    WHEN sum <= -9223372036854775808 THEN -9223372036854775808
    ELSE sum::bigint
  END;
END;
CREATE AGGREGATE total (bigint) (SFUNC = total_step, STYPE = double precision, INITCOND = '0', FINALFUNC = total_end);

-- What keeps SQLite from an index says nothing here.
CREATE FUNCTION itself(value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT value;
END;
CREATE OPERATOR + (RIGHTARG = text, FUNCTION = itself);
