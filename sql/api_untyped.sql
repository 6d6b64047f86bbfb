--
-- Parameters that a client sends without a type, as most drivers do: PREPARE has them
-- analysed as the extended protocol has.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE TYPE api.feeling AS ENUM ('sad', 'happy');
CREATE TYPE api.couple AS (a integer, b text);
CREATE TABLE api.untyped (id integer PRIMARY KEY, n numeric(6,2), d date, t timestamptz, j jsonb, b bytea, a text[], m api.feeling, r api.couple, c char(5), x text, i bigint);
SELECT dtx_attach('api.untyped');
ALTER DATABASE dtx_regression_peer SET datestyle = 'SQL, DMY';
\c dtx_regression
SET client_min_messages = warning;

-- none has a type; dates are read as the peer's database says
PREPARE insert_all AS SELECT dtx_exec($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);
SELECT parameter_types FROM pg_prepared_statements WHERE name = 'insert_all';
EXECUTE insert_all('peer', 'INSERT INTO api.untyped VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)',
  '1', '2.505', '03/04/2024', '2024-01-02 03:04Z', '{"a": 1}', '\x00ff', '{a,"b c",NULL}', 'happy', '(1,"x y")', 'ab', 'it''s', '9999999999');
EXECUTE insert_all('peer', 'INSERT INTO api.untyped VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)',
  '2', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s'', id, n, to_char(d, ''YYYY-MM-DD''), extract(epoch FROM t), j, b, a, m, r, c, x, i) FROM api.untyped ORDER BY id');
-- some have one
PREPARE mixed AS SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1, x = $2 WHERE id = $3 AND c = $4', $1::smallint, $2, $3, $4::varchar);
SELECT parameter_types FROM pg_prepared_statements WHERE name = 'mixed';
EXECUTE mixed(1, 'mixed', '1', 'ab');
PREPARE declared (smallint, unknown, text, varchar) AS SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1, x = $2 WHERE id = $3 AND c = $4', $1, $2, $3, $4);
EXECUTE declared(1, 'declared', '1', 'ab');
-- and the same when the plan is made, or analysed, anew
SET plan_cache_mode = force_generic_plan;
EXECUTE declared(1, 'generic', '1', 'ab');
RESET plan_cache_mode;
DISCARD PLANS;
EXECUTE declared(1, 'again', '1', 'ab');
CREATE TABLE api.search_path_changes ();
DROP TABLE api.search_path_changes;
SET search_path = public, api;
EXECUTE declared(1, 'analysed again', '1', 'ab');
EXECUTE mixed(1, 'analysed again', '1', 'ab');
RESET search_path;
-- rows; what this database takes from them is declared
PREPARE rows AS SELECT * FROM dtx_query($1, $2, $3, $4) AS t(id integer, n numeric, x text);
EXECUTE rows('peer', 'SELECT id, n, x FROM api.untyped WHERE id = $1 AND i > $2', '1', '5');
-- anywhere in a statement: a subquery, a CTE, a join, a parameter used twice
PREPARE subquery AS SELECT (SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1 WHERE id = $2', $1, v) FROM (VALUES (1)) AS t(v));
EXECUTE subquery('1');
PREPARE cte AS WITH a AS (SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1 WHERE id = $2', $2, $1) AS rows) SELECT rows FROM a;
EXECUTE cte('1', '1');
PREPARE twice AS SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1 WHERE id = $2', $1, $1);
EXECUTE twice('1');
PREPARE here_too AS WITH here AS (SELECT $1::integer + 1) SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1 WHERE id = $2', $1, $2);
SELECT parameter_types FROM pg_prepared_statements WHERE name = 'here_too';
EXECUTE here_too('1', '1');
PREPARE by_join AS SELECT v, q.n > 0 FROM (VALUES ('1')) AS t(v), dtx_query('peer', 'SELECT n FROM api.untyped WHERE id = $1 AND c = $2', v, $1) AS q(n numeric);
EXECUTE by_join('ab');
-- an array of strings has values of any type
PREPARE all_in_one AS SELECT dtx_exec($1, $2, VARIADIC $3::text[]);
EXECUTE all_in_one('peer', 'UPDATE api.untyped SET n = $1, d = $2, m = $3 WHERE id = $4', '{7,01/02/2024,sad,1}');
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s|%s|%s|%s'', n, to_char(d, ''YYYY-MM-DD''), m, x) FROM api.untyped WHERE id = 1');
-- PL/pgSQL: strings are inferred there as well, other types are sent
DO $$
DECLARE
  amount text := '1'; id varchar := '1'; day date := '2024-05-06';
BEGIN
  PERFORM dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1, d = $3 WHERE id = $2', amount, id, day);
  EXECUTE 'SELECT dtx_exec($1, $2, $3, $4)' USING 'peer', 'UPDATE api.untyped SET n = n + $1 WHERE id = $2', amount, 1;
END $$;
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s|%s'', n, to_char(d, ''YYYY-MM-DD'')) FROM api.untyped WHERE id = 1');
-- the same text with and without types is two statements
SELECT a FROM dtx_query('peer', 'SELECT $1 / 2', 3) AS t(a text);
SELECT a FROM dtx_query('peer', 'SELECT $1 / 2', 3.0) AS t(a numeric(3, 1));
SELECT a FROM dtx_query('peer', 'SELECT $1 / 2', '3') AS t(a text);
SELECT a FROM dtx_query('peer', 'SELECT $1 / 2', '3'::text) AS t(a text);
-- casts that somebody has made implicit change nothing
CREATE CAST (integer AS text) WITH INOUT AS IMPLICIT;
SELECT a FROM dtx_query('peer', 'SELECT $1 / 2', 3) AS t(a text);
PREPARE under_cast AS SELECT a FROM dtx_query('peer', 'SELECT $1 / $2', $1::integer, $2) AS t(a text);
EXECUTE under_cast(7, '2');
DROP CAST (integer AS text);
-- others' functions are not touched, whatever they are called; nor are types that are found otherwise
CREATE FUNCTION api.dtx_exec(name, text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_concat_ws';
SELECT left(api.try('PREPARE strange AS SELECT api.dtx_exec(''a'', ''b'', $1)'), 5);
DROP FUNCTION api.dtx_exec;
-- what nobody can infer
SELECT regexp_replace(api.try($$ SELECT a FROM dtx_query('peer', 'SELECT jsonb_build_object(''by'', $1)', 'me') AS t(a jsonb) $$), '^(42P18).*?\n', E'\\1\n');
SELECT a FROM dtx_query('peer', 'SELECT jsonb_build_object(''by'', $1::text)', 'me') AS t(a jsonb);
SELECT left(api.try($$ PREPARE later AS SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1', $1), $1 + 1 $$), 5);
SELECT left(api.try($$ PREPARE no_array AS SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = n + $1', VARIADIC $1) $$), 5);
-- a column's type is changed after a type was inferred for it: what is sent is not what it was when it was prepared
SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = 5 WHERE id = $1', '1');
CALL api.settle();
SELECT api.at_peer('ALTER TABLE api.untyped ALTER id TYPE bigint');
SELECT left(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = 5 WHERE id = $1', '3000000000') $$), 5);
SELECT left(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = 5 WHERE id = $1', '3000000000') $$), 5);
SELECT api.at_peer('ALTER TABLE api.untyped ALTER id TYPE text');
SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = 6 WHERE id = $1', 'two');
SELECT dtx_exec('peer', 'UPDATE api.untyped SET n = 5 WHERE id = $1', 'two');
-- no values at all
PREPARE none AS SELECT dtx_exec($1, $2);
EXECUTE none('peer', 'UPDATE api.untyped SET n = 0');
DEALLOCATE ALL;
CALL api.settle();
\c dtx_regression_peer
ALTER DATABASE dtx_regression_peer RESET datestyle;
SET client_min_messages = warning;
SELECT dtx_detach('api.untyped');
DROP TABLE api.untyped;
DROP TYPE api.feeling, api.couple;
