--
-- dtx_query in a read-only transaction: a read that writes nothing at the peer and leaves no branch.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE TABLE api.read (id integer PRIMARY KEY, n integer);
INSERT INTO api.read VALUES (1, 10), (2, 20);
SELECT dtx_attach('api.read');
CREATE FUNCTION api.writes() RETURNS integer LANGUAGE sql AS 'UPDATE api.read SET n = n + 1 RETURNING n';
CREATE FUNCTION api.cheats() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('transaction_read_only', 'off', true);
  RETURN api.writes();
END $$;
CREATE FUNCTION api.leaves() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('search_path', 'nowhere', false), set_config('dtx_test.left', 'here', false), pg_advisory_lock(4711);
  RETURN current_setting('search_path');
END $$;
CREATE FUNCTION api.runs_it(statement text) RETURNS text LANGUAGE plpgsql AS 'BEGIN EXECUTE statement; RETURN ''done''; END';
CREATE FUNCTION api.how() RETURNS text LANGUAGE sql AS
$$ SELECT concat_ws(', ', current_setting('transaction_isolation'), 'read-only ' || current_setting('transaction_read_only'), 'deferrable ' || current_setting('transaction_deferrable'), 'branch ' || dtx_xid()) $$;
\c dtx_regression
SET client_min_messages = warning;

BEGIN READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT id, n FROM api.read WHERE id = $1', 1) AS t(id integer, n integer);
SELECT * FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
SELECT * FROM dtx_query('peer', 'EXPLAIN (COSTS OFF) SELECT * FROM api.read') AS t(line text);
SELECT * FROM dtx_query('peer', 'SHOW transaction_read_only') AS t(setting text);
-- what writes, there or here, and what ends or changes more than itself
SELECT statement, left(api.try(format('SELECT * FROM dtx_query(''peer'', %L) AS t(a text)', statement)), 5) FROM unnest(ARRAY[
  'UPDATE api.read SET n = n + 1 RETURNING n', 'WITH w AS (DELETE FROM api.read RETURNING n) SELECT n FROM w', 'SELECT n FROM api.read FOR UPDATE',
  'SELECT api.writes()', 'SELECT api.cheats()', 'SELECT lo_creat(-1)', 'SELECT txid_current()', 'EXPLAIN ANALYZE DELETE FROM api.read',
  'CREATE TEMP TABLE t AS SELECT 1', 'SET search_path = nowhere', 'SET LOCAL search_path = nowhere', 'SET TRANSACTION READ WRITE', 'BEGIN', 'COMMIT', 'ROLLBACK AND CHAIN', 'PREPARE TRANSACTION ''t''',
  'SAVEPOINT s', 'LISTEN channel', 'NOTIFY channel', 'VACUUM api.read', 'COPY api.read TO STDOUT', 'PREPARE p AS SELECT 1', 'DISCARD ALL', 'LOCK TABLE api.read', 'DO ''BEGIN COMMIT; END''', '',
  'SELECT api.runs_it(''PREPARE p AS SELECT 1'')', 'SELECT api.runs_it(''LISTEN channel'')', 'SELECT api.runs_it(''NOTIFY channel'')', 'SELECT api.runs_it(''COMMIT'')', 'SELECT api.runs_it(''DO $d$ BEGIN COMMIT; END $d$'')',
  'SELECT 1 / 0', 'SELECT nothing']) AS statement;
SELECT left(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.read SET n = 0') $$), 5), left(api.try('SELECT dtx_begin()'), 5);
-- what a function sets there ends with the call
SELECT * FROM dtx_query('peer', 'SELECT api.leaves()') AS t(a text);
SELECT * FROM dtx_query('peer', 'SELECT current_setting(''search_path''), current_setting(''dtx_test.left'', true), (SELECT count(*) FROM pg_locks WHERE locktype = ''advisory'' AND objid = 4711)') AS t(a text, b text, c integer);
-- it is a statement like others, in savepoints and functions
SAVEPOINT s;
SELECT left(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT n FROM api.read ORDER BY id') AS t(a date) $$), 5);
ROLLBACK TO s;
SELECT sum(n) FROM generate_series(1, 3) AS i, dtx_query('peer', 'SELECT n FROM api.read WHERE id <= $1', i) AS t(n integer);
-- no branch, no global transaction, no transaction id
SELECT dtx_xid(), pg_current_xact_id_if_assigned();
COMMIT;
SELECT count(*) FROM dtx_branches;
SELECT api.at_peer('SELECT n::text FROM api.read ORDER BY id');
-- as isolated as the local one
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT * FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
COMMIT;
-- whatever the peer's database says
SELECT api.at_peer($$ ALTER DATABASE dtx_regression_peer SET default_transaction_isolation = 'serializable' $$);
SELECT api.at_peer($$ ALTER DATABASE dtx_regression_peer SET default_transaction_deferrable = on $$);
\c dtx_regression
SET client_min_messages = warning;
SET default_transaction_read_only = on;
SELECT * FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
RESET default_transaction_read_only;
SELECT api.at_peer($$ ALTER DATABASE dtx_regression_peer RESET ALL $$);
\c dtx_regression
SET client_min_messages = warning;
-- the same connection takes branches again, with the settings of its own
SELECT regexp_replace(how, ', branch .*', ', a branch') FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
BEGIN READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT api.how()') AS t(how text);
COMMIT;
SELECT * FROM dtx_query('peer', 'UPDATE api.read SET n = n + 1 RETURNING n') AS t(n integer);
CALL api.settle();
-- what is in doubt there is read too
SELECT dblink_connect('holder', api.dsn('dtx_regression'));
SELECT dblink_exec('holder', 'BEGIN');
SELECT * FROM dblink('holder', $$ SELECT dtx_exec('peer', 'UPDATE api.read SET n = 100 WHERE id = 1') $$) AS t(n bigint);
BEGIN READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT n FROM api.read WHERE id = 1') AS t(n integer);
COMMIT;
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dblink_disconnect('holder');
-- a transaction that has begun a global one is told so, also when it becomes read-only afterwards
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SET TRANSACTION READ ONLY;
SELECT left(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(n integer) $$), 5);
ROLLBACK;
-- the rights are those of a branch
CREATE ROLE dtx_api_reader LOGIN;
CREATE ROLE dtx_api_there LOGIN;
GRANT USAGE ON SCHEMA api TO dtx_api_reader;
CREATE USER MAPPING FOR dtx_api_reader SERVER peer OPTIONS (user 'dtx_api_there', password_required 'false');
SET ROLE dtx_api_reader;
BEGIN READ ONLY;
SELECT left(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(n integer) $$), 5);
COMMIT;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER peer TO dtx_api_reader;
SET ROLE dtx_api_reader;
BEGIN READ ONLY;
SELECT left(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(n integer) $$), 5);
COMMIT;
RESET ROLE;
SELECT api.at_peer($$ SELECT dtx_admit('dtx_api_there')::text $$);
SET ROLE dtx_api_reader;
BEGIN READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT current_user::text') AS t(who text);
SELECT left(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT n FROM api.read') AS t(n integer) $$), 5);
COMMIT;
RESET ROLE;
CALL api.settle();
DROP USER MAPPING FOR dtx_api_reader SERVER peer;
DROP OWNED BY dtx_api_reader;
DROP ROLE dtx_api_reader;
\c dtx_regression_peer
SET client_min_messages = warning;
DROP OWNED BY dtx_api_there;
DROP ROLE dtx_api_there;
SELECT dtx_detach('api.read');
DROP TABLE api.read CASCADE;
DROP FUNCTION api.writes, api.cheats, api.leaves, api.runs_it, api.how;
