--
-- Parameters travel as parameters: what arrives at the peer is what was
-- given here, of the same type, whatever the session's settings.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

-- Sends a value; says what type the peer saw, and whether what came back
-- is the same to the byte of its binary form. The type of a string is inferred there:
-- pg_typeof gives nothing to infer it from.
CREATE FUNCTION api.round_trip(value anyelement) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  type_there text;
  same boolean;
  back text;
BEGIN
  EXECUTE format('SELECT a, record_image_eq(row(b), row($1)), b::text FROM dtx_query(%L, %L, $1) AS t(a text, b %s)', 'peer',
                 format(CASE WHEN pg_typeof(value) IN ('text'::regtype, 'varchar') THEN 'SELECT pg_typeof($1::%s)::text, $1' ELSE 'SELECT pg_typeof($1)::text, $1' END, pg_typeof(value)),
                 pg_typeof(value)) INTO type_there, same, back USING value;
  RETURN type_there || CASE WHEN back IS NULL AND value IS NULL THEN ' NULL'
    WHEN same THEN ' same' ELSE format(' DIFFERS: %s for %s', back, value) END;
END $$;

SELECT v || ': ' || api.round_trip(v) FROM unnest(ARRAY[0, 1, -1, 2147483647, -2147483648]) v;
SELECT api.round_trip(32767::smallint), api.round_trip(-9223372036854775808), api.round_trip(true), api.round_trip(false);
SELECT v || ': ' || api.round_trip(v) FROM unnest(ARRAY[0, 0.0, 1.10, 1e-100, 123456789012345678901234567890.123456789, 'NaN', 'Infinity', '-Infinity']::numeric[]) v;
SELECT v || ': ' || api.round_trip(v) FROM unnest(ARRAY['0.1', '-0', 1e308, 5e-324, 0.30000000000000004, 'NaN', '-Infinity']::float8[]) v;
SELECT v || ': ' || api.round_trip(v) FROM unnest(ARRAY[0.1, 16777217, 'Infinity']::float4[]) v;
SELECT api.round_trip(''::text), api.round_trip('a''b"c\d$1%s'::text), api.round_trip(E'line\nline\ttab'::text), api.round_trip('Grüße, 世界 🙂'::text);
SELECT api.round_trip('ab'::varchar(10)), api.round_trip('c'::"char"), api.round_trip('n'::name);
-- lengths and scales are the value's, not the type's
SELECT * FROM dtx_query('peer', 'SELECT pg_typeof($1), pg_typeof($2), $1, $2, $3', '{12,3}'::char(8)[], '{1010,01}'::bit(4)[], '{1.5}'::numeric(5,1)[])
    AS t(a text, b text, c char(8)[], d bit varying[], e numeric[]);
SELECT * FROM dtx_query('peer', 'SELECT $1, $2, $3::char(8)', '12'::char(8), '1010'::bit(4), '12'::text) AS t(a char(8), b bit(4), c bpchar);
SELECT api.round_trip(repeat('1 MB ', 200000));
SELECT api.round_trip('\x'::bytea), api.round_trip('\x00ff27225c'::bytea);
SELECT api.round_trip(decode(repeat('00010203', 50000), 'hex'));
SELECT api.round_trip('{"a": [1, 2.50, null, "x"]}'::jsonb), api.round_trip('null'::jsonb);
SELECT api.round_trip('2024-02-29'::date), api.round_trip('infinity'::date), api.round_trip('0044-03-15 BC'::date);
SELECT api.round_trip('2024-02-29 12:34:56.789012'::timestamp), api.round_trip('-infinity'::timestamp);
SELECT api.round_trip('2024-02-29 12:34:56.789012+05:30'::timestamptz), api.round_trip('4713-01-01 00:00:00+00 BC'::timestamptz);
SELECT api.round_trip('12:34:56.000001'::time), api.round_trip('24:00'::time), api.round_trip('12:34:56+03'::timetz);
SELECT api.round_trip('1 year 2 months -3 days 04:05:06.789'::interval), api.round_trip('-1 year +1 day'::interval);
SELECT api.round_trip('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid), api.round_trip('192.168.1.5/24'::inet), api.round_trip('10/8'::cidr), api.round_trip('08:00:2b:01:02:03'::macaddr);
SELECT api.round_trip('1'::bit), api.round_trip('10101'::varbit), api.round_trip('[1,10)'::int4range), api.round_trip('empty'::numrange), api.round_trip('{[1,3),[5,7)}'::int4multirange);
SELECT api.round_trip('(1.5,2)'::point), api.round_trip('pg_class'::regclass), api.round_trip('a & b'::tsquery), api.round_trip('0/1'::pg_lsn);
SELECT api.round_trip('$a$'::text), api.round_trip('$1'::text);
-- arrays: empty, with NULLs, quotes and several dimensions
SELECT api.round_trip('{}'::integer[]), api.round_trip(ARRAY[1, NULL, 3]), api.round_trip(ARRAY[[1, 2], [3, 4]]), api.round_trip('[0:1]={7,8}'::integer[]);
SELECT api.round_trip(ARRAY['', NULL, 'NULL', 'a,b', '{', '"', '\', ' ']), api.round_trip(ARRAY['\x00'::bytea]), api.round_trip(ARRAY['2024-01-01 00:00+00'::timestamptz]);
-- NULL of every kind
SELECT api.round_trip(NULL::integer), api.round_trip(NULL::text), api.round_trip(NULL::numeric[]), api.round_trip(NULL::timestamptz);

-- under settings that change how values look here
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET extra_float_digits = -10;
SET timezone = 'Asia/Kolkata';
SET bytea_output = 'escape';
SET lc_monetary = 'C';
SET quote_all_identifiers = on;
SELECT api.round_trip('2024-03-04'::date), api.round_trip('2024-03-04 05:06:07.08'::timestamp), api.round_trip('2024-03-04 05:06:07.08+00'::timestamptz);
SELECT api.round_trip('1 year -2 months 3 days -04:05:06'::interval), api.round_trip(0.1::float8 + 0.2), api.round_trip(1.1::float4), api.round_trip('\x00ff5c'::bytea);
SELECT api.round_trip(ARRAY['2024-03-04'::date, NULL]), api.round_trip('[2024-03-04,2024-04-03)'::daterange);
-- they are still what they were
SHOW datestyle;
SHOW intervalstyle;
SHOW extra_float_digits;
-- after an error in between, too
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT now()') AS t(a integer) $$) LIKE '22P02: %';
SHOW datestyle;
SHOW intervalstyle;
-- a value of the peer with settings of its own, read with these
SELECT a = '2024-03-04 00:00:00+00' FROM dtx_query('peer', $$SELECT '2024-03-04 00:00:00+00'::timestamptz$$) AS t(a timestamptz);
SELECT a = '1 year -2 days' FROM dtx_query('peer', $$SELECT '1 year -2 days'::interval$$) AS t(a interval);
-- the connection was opened under other settings; new ones do not matter to it
RESET datestyle;
RESET intervalstyle;
RESET extra_float_digits;
SELECT api.round_trip('2024-03-04'::date), api.round_trip('1 year -2 months'::interval), api.round_trip(0.1::float8 + 0.2);
RESET timezone;
RESET bytea_output;
RESET lc_monetary;
RESET quote_all_identifiers;
-- the peer's database sets others
\c dtx_regression_peer
ALTER DATABASE dtx_regression_peer SET datestyle = 'German';
ALTER DATABASE dtx_regression_peer SET intervalstyle = 'iso_8601';
ALTER DATABASE dtx_regression_peer SET extra_float_digits = -5;
ALTER DATABASE dtx_regression_peer SET bytea_output = 'escape';
ALTER DATABASE dtx_regression_peer SET timezone = 'America/New_York';
\c dtx_regression
SET client_min_messages = warning;
SET datestyle = 'ISO, MDY';
SELECT api.round_trip('2024-03-04'::date), api.round_trip('2024-03-04 05:06:07.08+00'::timestamptz), api.round_trip('2024-03-04 05:06'::timestamp);
SELECT api.round_trip('1 year -2 months 3 days -04:05:06'::interval), api.round_trip(0.1::float8 + 0.2), api.round_trip('\x00ff5c'::bytea);
RESET datestyle;
ALTER DATABASE dtx_regression_peer RESET ALL;

-- a literal without a type is the peer's to infer; so is NULL
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE TYPE api.mood AS ENUM ('sad', 'happy');
CREATE DOMAIN api.positive AS integer CHECK (VALUE > 0);
CREATE TYPE api.pair AS (a integer, b text);
CREATE TABLE api.typed (id integer PRIMARY KEY, m api.mood, p api.positive, r api.pair, n numeric(6,2), t timestamptz, j jsonb, x text);
SELECT dtx_attach('api.typed');
\c dtx_regression
SET client_min_messages = warning;
SET timezone = 'UTC';
SELECT dtx_exec('peer', 'INSERT INTO api.typed VALUES ($1, $2, $3, $4, $5, $6, $7, $8)', 1, 'happy', '7', '(1,"x y")', '12.345', '2024-01-01 00:00Z', '{"a": 1}', 'text');
SELECT dtx_exec('peer', 'INSERT INTO api.typed VALUES ($1, $2, $3, $4, $5, $6, $7, $8)', 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s|%s|%s|%s|%s|%s|%s|%s'', id, m, p, r, n, t AT TIME ZONE ''UTC'', j, x) FROM api.typed ORDER BY id');
-- types that only this database knows
CREATE TYPE api.mood AS ENUM ('happy', 'glum');
CREATE DOMAIN api.positive AS integer;
CREATE TYPE api.pair AS (a integer, b text);
SELECT dtx_exec('peer', 'UPDATE api.typed SET m = $1, p = $2, r = $3 WHERE id = 2', 'happy'::api.mood, 3::api.positive, ROW(4, 'f''"')::api.pair);
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s|%s|%s|%s'', id, m, p, r) FROM api.typed WHERE id = 2');
-- what the type there does not take
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.typed SET m = $1', 'glum'::api.mood) $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.typed SET p = $1', -1) $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.typed SET n = $1', 'x') $$);
-- a type that a parameter cannot get
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.typed SET n = $1', '2024-01-01'::date) $$);
-- VARIADIC: an array's elements are the parameters
SELECT dtx_exec('peer', 'UPDATE api.typed SET x = $1 || $2 || $3', VARIADIC ARRAY['a', 'b', 'c']);
SELECT dtx_exec('peer', 'UPDATE api.typed SET x = NULL WHERE id = $1', VARIADIC ARRAY[1]);
SELECT dtx_exec('peer', 'UPDATE api.typed SET n = coalesce($1, $2, 9)', VARIADIC ARRAY[NULL, NULL]::numeric[]);
SELECT dtx_exec('peer', 'UPDATE api.typed SET n = n', VARIADIC ARRAY[]::integer[]);
SELECT dtx_exec('peer', 'UPDATE api.typed SET n = n', VARIADIC NULL::integer[]);
SELECT a, b FROM dtx_query('peer', 'SELECT $1 + $2, $3', VARIADIC ARRAY[1, 2, 3]) AS t(a integer, b integer);
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s|%s|%s'', id, n, x) FROM api.typed ORDER BY id');
-- an array as one parameter is an array
SELECT a FROM dtx_query('peer', 'SELECT cardinality($1)', ARRAY[1, 2, 3]) AS t(a integer);
-- the same text with other types is another statement
SELECT a FROM dtx_query('peer', 'SELECT pg_typeof($1)::text', 1) AS t(a text);
SELECT a FROM dtx_query('peer', 'SELECT pg_typeof($1)::text', 1.5) AS t(a text);
SELECT a FROM dtx_query('peer', 'SELECT pg_typeof($1)::text', 'x'::name) AS t(a text);
SELECT a FROM dtx_query('peer', 'SELECT pg_typeof($1)::text', 1) AS t(a text);
-- many parameters
SELECT a FROM dtx_query('peer', (SELECT 'SELECT ' || string_agg('$' || g, ' + ') FROM generate_series(1, 1000) g), VARIADIC ARRAY(SELECT g FROM generate_series(1, 1000) g)) AS t(a integer);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.typed SET n = n', VARIADIC ARRAY(SELECT g FROM generate_series(1, 65536) g)) $$);
-- parameters are data: nothing in them is read as SQL
SELECT dtx_exec('peer', 'UPDATE api.typed SET x = $1 WHERE id = 1', $$'; DELETE FROM api.typed; --$$);
SELECT a FROM dtx_query('peer', 'SELECT x FROM api.typed WHERE x = $1', $$'; DELETE FROM api.typed; --$$) AS t(a text);
-- more statements than a connection keeps prepared
SELECT sum(a) FROM generate_series(1, 600) g, dtx_query('peer', 'SELECT ' || g) AS t(a integer);
SELECT sum(a) FROM generate_series(1, 600) g, dtx_query('peer', 'SELECT ' || g) AS t(a integer);
-- a table that is altered between two calls of the same statement
SELECT * FROM dtx_query('peer', 'SELECT * FROM api.typed WHERE id = 99') AS t(a integer, m text, p integer, r text, n numeric, t timestamptz, j jsonb, x text);
SELECT dblink_exec(api.dsn('dtx_regression_peer'), 'ALTER TABLE api.typed DROP COLUMN x, DROP COLUMN j');
SELECT * FROM dtx_query('peer', 'SELECT * FROM api.typed WHERE id = 99') AS t(a integer, m text, p integer, r text, n numeric, t timestamptz);
CALL api.settle();
DROP TYPE api.mood, api.positive, api.pair;
