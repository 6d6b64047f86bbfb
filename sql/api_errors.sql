--
-- Errors: those of the peer arrive whole, and servers that cannot be peers
-- are refused with a reason.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT api.reset_peer() AS ok \gset

-- an error of the peer: SQLSTATE, message, detail, hint; the server in the context
\c dtx_regression_peer
SET client_min_messages = error;
CREATE FUNCTION api.complains() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
  RAISE 'the message, 100%%' USING ERRCODE = 'ZZ123', DETAIL = 'the detail', HINT = 'the %s hint';
END $$;
CREATE FUNCTION api.complains_shortly() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'P0001'; END $$;
CREATE FUNCTION api.warns() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'a warning of the peer'; RETURN 1; END $$;
\c dtx_regression
SET client_min_messages = error;
SELECT * FROM dtx_query('peer', 'SELECT api.complains()') AS t(a integer);
\echo :LAST_ERROR_SQLSTATE
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT api.complains()') AS t(a integer) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT api.complains_shortly()') AS t(a integer) $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = -1 WHERE no = 1') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'INSERT INTO api.account VALUES (1, 1)') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'INSERT INTO api.account VALUES (3)') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'DELETE FROM api.nothing') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET nothing = 1') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 1/0') $$);
-- what a client would take for the end of its own connection, transaction or statement does
-- not keep its SQLSTATE; all else does
\c dtx_regression_peer
SET client_min_messages = error;
CREATE FUNCTION api.raises(state text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'as %', state USING ERRCODE = state; END $$;
\c dtx_regression
SET client_min_messages = error;
CREATE FUNCTION api.state_of(peers text, OUT state text, OUT message text, OUT detail text, OUT there text) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM a FROM dtx_query('peer', format('SELECT api.raises(%L)', peers)) AS t(a integer);
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, there = PG_EXCEPTION_CONTEXT;
  there = substring(there, 'call to server[^\n]*');
END $$;
SELECT peers, r.* FROM unnest('{08000,08001,08003,08004,08006,08007,57P01,57P02,57P03,57P04,57P05,57000,57014,53300,DX006}'::text[]) peers, api.state_of(peers) r;
SELECT peers, r.* FROM unnest('{08P01,0A000,25P02,25P03,26000,28000,28P01}'::text[]) peers, api.state_of(peers) r;
SELECT peers, r.* FROM unnest('{22012,23505,40001,40P01,42P01,53100,53200,55006,55P03,P0001,DX001,DX003,DX004,DX005}'::text[]) peers, api.state_of(peers) r;
DROP FUNCTION api.state_of;
-- nor is the object lost that an error is about
CREATE FUNCTION api.object_of(sql text, OUT state text, OUT schema text, OUT of_table text, OUT of_column text, OUT of_constraint text) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dtx_exec('peer', sql);
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, schema = SCHEMA_NAME, of_table = TABLE_NAME, of_column = COLUMN_NAME,
    of_constraint = CONSTRAINT_NAME;
END $$;
SELECT r.* FROM unnest(ARRAY['UPDATE api.account SET balance = -1 WHERE no = 1', 'INSERT INTO api.account VALUES (1, 1)',
  'INSERT INTO api.account VALUES (3)']) sql, api.object_of(sql) r;
DROP FUNCTION api.object_of;
-- where it happened there is in the context too, before the server
\set VERBOSITY terse
DO $$
DECLARE context text;
BEGIN
  PERFORM a FROM dtx_query('peer', 'SELECT api.complains()') AS t(a integer);
EXCEPTION WHEN SQLSTATE 'ZZ123' THEN
  GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
  RAISE EXCEPTION USING MESSAGE = (SELECT string_agg(line, ' / ') FROM
    (SELECT line FROM regexp_split_to_table(context, E'\n') line LIMIT 2) l), ERRCODE = 'ZZ999';
END $$;
\set VERBOSITY default
-- warnings do no harm
SELECT * FROM dtx_query('peer', 'SELECT api.warns()') AS t(a integer);
-- an error inside a branch is the end of that branch only
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 101 WHERE no = 1');
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT api.complains()') AS t(a integer) $$) IS NOT NULL;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 202 WHERE no = 2');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
-- the peer's backend ends in the middle of a call
SELECT split_part(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT pg_terminate_backend(pg_backend_pid())') AS t(a boolean) $$), E'\n', 1);
-- the next call gets a new connection
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 100 WHERE no = 1');
-- a connection that died while it was idle is replaced before it is used
SELECT count(*) > 0 FROM (SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
  WHERE datname = 'dtx_regression_peer' AND application_name = 'dtx' AND backend_type = 'client backend') t;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 200 WHERE no = 2');
-- also inside a global transaction
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
SELECT count(*) > 0 FROM (SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
  WHERE datname = 'dtx_regression_peer' AND application_name = 'dtx' AND backend_type = 'client backend') t;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();

-- a server that does not exist; the name is quoted in the hint as SQL needs it
SELECT dtx_exec('nowhere', 'SELECT 1');
SELECT api.try($$ SELECT dtx_exec('No Where', 'SELECT 1') $$);
SELECT api.try($$ SELECT * FROM dtx_query('nowhere', 'SELECT 1') AS t(a integer) $$);
SELECT api.try($$ SELECT dtx_ping('nowhere') $$);
SELECT api.try($$ SELECT dtx_ping('') $$);
SELECT api.try($$ SELECT dtx_ping(NULL) $$);
-- a call that could not be made does not begin a global transaction
BEGIN;
SELECT api.try($$ SELECT dtx_exec('nowhere', 'SELECT 1') $$) IS NOT NULL;
SELECT dtx_xid() IS NULL;
COMMIT;

-- dtx_ping
SELECT node ~ '^dtx_regression_peer\.[0-9a-f]{8}$', version = current_setting('server_version') FROM dtx_ping('peer');
-- what the peer says it is
SELECT node = api.at_peer($$SELECT name || '.' || tag FROM dtx.node$$) FROM dtx_ping('peer');
-- inside a transaction it makes no branch
BEGIN READ ONLY;
SELECT node IS NOT NULL FROM dtx_ping('peer');
SELECT dtx_xid() IS NULL;
COMMIT;

-- no user mapping
CREATE SERVER unmapped FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
SELECT split_part(api.try($$ SELECT dtx_exec('unmapped', 'SELECT 1') $$), ':', 1);
SELECT split_part(api.try($$ SELECT dtx_ping('unmapped') $$), ':', 1);

-- a database that is not there
CREATE SERVER wrong_database FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_nowhere');
CREATE USER MAPPING FOR CURRENT_USER SERVER wrong_database OPTIONS (user :'USER');
SELECT split_part(api.try($$ SELECT dtx_exec('wrong_database', 'SELECT 1') $$), E'\n', 1);
SELECT api.try($$ SELECT dtx_ping('wrong_database') $$) LIKE '%DETAIL: %database "dtx_regression_nowhere" does not exist%';
-- a user who is not there
CREATE SERVER wrong_user FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER wrong_user OPTIONS (user 'api_nobody');
SELECT split_part(api.try($$ SELECT dtx_ping('wrong_user') $$), E'\n', 1);
-- nobody listens there
CREATE SERVER wrong_host FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '/nonexistent', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER wrong_host OPTIONS (user :'USER');
SELECT split_part(api.try($$ SELECT dtx_exec('wrong_host', 'SELECT 1') $$), E'\n', 1);
SELECT split_part(api.try($$ SELECT * FROM dtx_query('wrong_host', 'SELECT 1') AS t(a integer) $$), E'\n', 1);
-- options that libpq refuses
CREATE SERVER wrong_option FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port 'x', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER wrong_option OPTIONS (user :'USER');
SELECT split_part(api.try($$ SELECT dtx_ping('wrong_option') $$), E'\n', 1);
-- a database without the extension
CREATE SERVER no_extension FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'template1');
CREATE USER MAPPING FOR CURRENT_USER SERVER no_extension OPTIONS (user :'USER');
SELECT dtx_exec('no_extension', 'SELECT 1');
SELECT api.try($$ SELECT dtx_ping('no_extension') $$);
-- this very database
CREATE SERVER self FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression');
CREATE USER MAPPING FOR CURRENT_USER SERVER self OPTIONS (user :'USER');
SELECT dtx_exec('self', 'SELECT 1');
-- a ping is well enough
SELECT node LIKE 'dtx_regression.%' FROM dtx_ping('self');

-- failures to connect leave the transaction as it was
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 1 WHERE no = 1');
SELECT split_part(api.try(format('SELECT dtx_exec(%L, ''DELETE FROM api.account'')', s)), ':', 1)
  FROM unnest('{nowhere,unmapped,wrong_database,wrong_host,no_extension,self}'::text[]) s;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 2 WHERE no = 2');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();

-- when the server changes, the next call goes by its new options; and back
ALTER SERVER peer OPTIONS (SET dbname 'dtx_regression_nowhere');
SELECT split_part(api.try($$ SELECT dtx_exec('peer', 'SELECT 1') $$), E'\n', 1);
ALTER SERVER peer OPTIONS (SET dbname 'dtx_regression_peer');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 3 WHERE no = 2');
ALTER USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (SET user 'api_nobody');
SELECT split_part(api.try($$ SELECT dtx_exec('peer', 'SELECT 1') $$), E'\n', 1);
ALTER USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (SET user :'USER');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 4 WHERE no = 2');
CALL api.settle();
SELECT api.peer_accounts();
DROP SERVER unmapped, wrong_database, wrong_user, wrong_host, wrong_option, no_extension, self CASCADE;
