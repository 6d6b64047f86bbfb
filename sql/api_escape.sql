--
-- A branch's statement is one statement, that leaves neither the branch nor
-- traces on its connection. What tries to is refused, and changes nothing.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE PROCEDURE api.commits() LANGUAGE plpgsql AS $$
BEGIN UPDATE api.account SET balance = 0; COMMIT; UPDATE api.account SET balance = 1; END $$;
CREATE PROCEDURE api.rolls_back() LANGUAGE plpgsql AS $$
BEGIN UPDATE api.account SET balance = 0; ROLLBACK; UPDATE api.account SET balance = 1; END $$;
CREATE PROCEDURE api.calls(what text) LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CALL ' || what || '()'; END $$;
CREATE PROCEDURE api.calls_commits() LANGUAGE plpgsql AS $$ BEGIN CALL api.commits(); END $$;
CREATE PROCEDURE api.catches() LANGUAGE plpgsql AS $$
BEGIN
  UPDATE api.account SET balance = 0;
  BEGIN
    CALL api.commits();
  EXCEPTION WHEN invalid_transaction_termination THEN NULL;
  END;
END $$;
CREATE PROCEDURE api.behaves(INOUT n integer) LANGUAGE plpgsql AS $$
BEGIN UPDATE api.account SET note = 'behaved'; n := n + 1; END $$;
CREATE FUNCTION api.runs(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; RETURN 'done'; END $$;
CREATE FUNCTION api.runs_returning(what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text; BEGIN EXECUTE what INTO answer; RETURN answer; END $$;
\c dtx_regression
SET client_min_messages = warning;

-- Runs a statement through dtx_exec; the call must fail.
CREATE FUNCTION api.exec(statement text) RETURNS text LANGUAGE sql AS $$
  SELECT api.try(format('SELECT dtx_exec(%L, %L)', 'peer', statement))
$$;
CREATE FUNCTION api.query(statement text) RETURNS text LANGUAGE sql AS $$
  SELECT api.try(format('SELECT * FROM dtx_query(%L, %L) AS t(a text)', 'peer', statement))
$$;

-- dtx_exec takes nothing that returns rows, and the statement does nothing
SELECT api.exec('SELECT 1');
SELECT api.exec('SELECT api.runs(''UPDATE api.account SET balance = 0'')');
SELECT api.exec('SELECT FROM api.account');
SELECT api.exec('TABLE api.account');
SELECT api.exec('VALUES (1)');
SELECT api.exec('INSERT INTO api.account VALUES (3, 3) RETURNING no');
SELECT api.exec('UPDATE api.account SET balance = 0 RETURNING *');
SELECT api.exec('DELETE FROM api.account RETURNING 1');
SELECT api.exec('WITH gone AS (DELETE FROM api.account RETURNING *) SELECT * FROM gone');
SELECT api.exec('SHOW work_mem');
SELECT api.exec('EXPLAIN DELETE FROM api.account');
SELECT api.exec('EXPLAIN ANALYZE DELETE FROM api.account');
SELECT api.exec('CALL api.behaves(1)');
SELECT api.in_doubt_at_peer();
SELECT api.peer_accounts();
-- with parameters too
SELECT api.try($$ SELECT dtx_exec('peer', 'SELECT $1', 1) $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = $1 RETURNING no', 1) $$);
-- dtx_query takes them
SELECT api.query('CALL api.behaves(1)');
SELECT api.query('UPDATE api.account SET note = NULL WHERE no = 1 RETURNING no');

-- not a statement, two of them, none
SELECT api.exec('nonsense');
SELECT api.exec('UPDATE api.account SET balance = 0; UPDATE api.account SET balance = 1');
SELECT api.query('SELECT 1; SELECT 2');
SELECT api.exec('COMMIT; UPDATE api.account SET balance = 0');
SELECT left(api.exec(''), 5);
SELECT left(api.exec(' -- nothing'), 5);
SELECT left(api.exec(';'), 5);
SELECT left(api.query(''), 5);
-- a semicolon at the end is none too many
SELECT api.exec('UPDATE api.account SET note = NULL;');
-- parameters that are not there, and too many of them
SELECT regexp_replace(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = $1') $$), 'dtx_[0-9a-f]{16}', 'NAME');
SELECT regexp_replace(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = $2', 1) $$), 'dtx_[0-9a-f]{16}', 'NAME');
SELECT regexp_replace(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = $2 WHERE no = $1', 1) $$), 'dtx_[0-9a-f]{16}', 'NAME');

-- transaction control
SELECT api.exec('COMMIT');
SELECT api.exec('COMMIT AND CHAIN');
SELECT api.exec('END');
SELECT api.exec('ROLLBACK');
SELECT api.exec('ABORT');
SELECT api.exec('BEGIN');
SELECT api.exec('START TRANSACTION READ ONLY');
SELECT api.exec('SAVEPOINT a');
SELECT api.exec('RELEASE a');
SELECT api.exec('ROLLBACK TO a');
SELECT api.exec($$PREPARE TRANSACTION 'a'$$);
SELECT api.exec($$COMMIT PREPARED 'a'$$);
SELECT api.exec($$ROLLBACK PREPARED 'a'$$);
SELECT api.query('COMMIT');
SELECT api.query('ROLLBACK');
SELECT api.in_doubt_at_peer();

-- in DO and CALL, however deep
SELECT api.exec('DO $do$ BEGIN UPDATE api.account SET balance = 0; COMMIT; END $do$');
SELECT api.exec('DO $do$ BEGIN UPDATE api.account SET balance = 0; ROLLBACK; UPDATE api.account SET balance = 1; END $do$');
SELECT api.exec('DO $do$ BEGIN CALL api.commits(); END $do$');
SELECT api.exec('DO $do$ BEGIN EXECUTE ''CALL api.rolls_back()''; END $do$');
SELECT api.exec('DO $do$ BEGIN EXECUTE ''DO $x$ BEGIN COMMIT; END $x$''; END $do$');
SELECT api.exec('DO $do$ BEGIN EXECUTE ''COMMIT''; END $do$');
SELECT api.exec('CALL api.commits()');
SELECT api.exec('CALL api.rolls_back()');
SELECT api.exec('CALL api.calls(''api.commits'')');
SELECT api.exec('CALL api.calls(''api.rolls_back'')');
SELECT api.exec('CALL api.calls_commits()');
SELECT api.query('SELECT api.runs(''CALL api.commits()'')');
SELECT api.query('SELECT api.runs(''COMMIT'')');
SELECT api.query('SELECT api.runs(''SAVEPOINT a'')');
SELECT api.query('SELECT api.runs(''PREPARE TRANSACTION $a$a$a$'')');
-- refused inside an exception block: what the block did is undone, the branch goes on
BEGIN;
SELECT dtx_exec('peer', 'CALL api.catches()');
SELECT api.peer_accounts();
ROLLBACK;
CALL api.settle();
-- nothing of all that is left
SELECT api.in_doubt_at_peer();
SELECT api.peer_accounts();
-- exception blocks inside a branch are its own business
SELECT api.exec('DO $do$ BEGIN BEGIN INSERT INTO api.account VALUES (1, 1); EXCEPTION WHEN unique_violation THEN UPDATE api.account SET note = ''caught'' WHERE no = 1; END; END $do$');
CALL api.settle();
SELECT api.at_peer('SELECT note FROM api.account WHERE no = 1');

-- the session's settings: SET without LOCAL, in a function too
SELECT api.exec('SET work_mem = ''1MB''');
SELECT api.exec('SET SESSION work_mem = ''1MB''');
SELECT api.exec('RESET work_mem');
SELECT api.exec('RESET ALL');
SELECT api.exec('SET ROLE postgres');
SELECT api.exec('SET SESSION AUTHORIZATION postgres');
SELECT api.exec('RESET ROLE');
SELECT api.exec('SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY');
SELECT api.query('SELECT api.runs(''SET work_mem = 1000'')');
SELECT split_part(api.exec('DISCARD ALL'), E'\n', 1);
SELECT split_part(api.exec('DISCARD PLANS'), E'\n', 1);
SELECT split_part(api.exec('PREPARE p AS SELECT 1'), E'\n', 1);
SELECT split_part(api.exec('DEALLOCATE ALL'), E'\n', 1);
SELECT split_part(api.exec('LISTEN a'), E'\n', 1);
SELECT split_part(api.exec('UNLISTEN *'), E'\n', 1);
SELECT split_part(api.exec('LOAD ''dtx'''), E'\n', 1);
SELECT split_part(api.query('SELECT api.runs(''DEALLOCATE ALL'')'), E'\n', 1);
-- LOCAL it may: for the statement, which is the transaction
SELECT api.query('SELECT api.runs_returning(''SELECT set_config($a$work_mem$a$, $a$123kB$a$, true)'')');
SELECT api.query('SHOW work_mem') <> 'ok: 123kB';
-- set_config for the session is seen by nobody after the branch
SELECT left(api.query('SELECT set_config(''work_mem'', ''123kB'', false)'), 0);
SELECT api.query('SHOW work_mem') <> 'ok: 123kB';
SELECT left(api.query('DO $do$ BEGIN PERFORM set_config(''work_mem'', ''124kB'', false); END $do$'), 0);
SELECT api.query('SHOW work_mem') <> 'ok: 124kB';

-- the settings of dtx: not in any way
SELECT api.exec('SET LOCAL dtx.unattached = ''allow''');
SELECT api.exec('SET LOCAL dtx.lock_timeout = 0');
SELECT api.exec('SET LOCAL dtx.call_timeout = 1');
SELECT api.exec('SET LOCAL dtx.fault_point = ''coordinator-before-send:error''');
SELECT api.query('SELECT set_config(''dtx.unattached'', ''allow'', true)');
SELECT api.query('SELECT set_config(''dtx.lock_timeout'', ''0'', true)');
SELECT api.query('SELECT api.runs(''SET LOCAL dtx.unattached = allow'')');
SELECT api.exec('DO $do$ BEGIN PERFORM set_config(''dtx.unattached'', ''allow'', false); END $do$');
SELECT api.query('UPDATE pg_settings SET setting = ''allow'' WHERE name = ''dtx.unattached''');
-- nor settings that the branch lives by
SELECT api.query('SHOW dtx.unattached');

-- what the undo log cannot undo; at any depth
SELECT api.exec('CREATE TABLE api.new (a integer)');
SELECT api.exec('ALTER TABLE api.account ADD COLUMN more text');
SELECT api.exec('DROP TABLE api.account');
SELECT api.exec('TRUNCATE api.account');
SELECT api.exec('CREATE TEMP TABLE new (a integer)');
SELECT api.exec('CREATE INDEX ON api.account (balance)');
SELECT api.exec('VACUUM api.account');
SELECT api.exec('GRANT SELECT ON api.account TO PUBLIC');
SELECT api.exec('CREATE ROLE api_nobody');
SELECT api.exec('COMMENT ON TABLE api.account IS ''x''');
SELECT api.query('SELECT api.runs(''TRUNCATE api.account'')');
SELECT api.query('SELECT api.runs(''CREATE TABLE api.new (a integer)'')');
SELECT api.query('SELECT * INTO api.new FROM api.account');
-- COPY has no place in a pipeline, from a client; the connection is usable after it
SELECT left(api.exec('COPY api.account FROM STDIN'), 5);
SELECT left(api.exec('COPY api.account TO STDOUT'), 5);
SELECT api.query('SELECT 1');

-- a branch of a branch
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE SERVER back FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression');
CREATE USER MAPPING FOR CURRENT_USER SERVER back OPTIONS (user :'USER');
CREATE SERVER self FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER self OPTIONS (user :'USER');
CREATE FUNCTION api.goes_back(mode text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN PERFORM dtx_begin(mode); RETURN dtx_exec('back', 'DELETE FROM pg_class'); END $$;
SELECT dtx_ledger('api.account', 'no', 'balance');
\c dtx_regression
SET client_min_messages = warning;
-- it does not go back to a node that is above it
SELECT api.query('SELECT dtx_exec(''back'', ''SELECT 1'')');
SELECT api.query('SELECT a FROM dtx_query(''back'', ''SELECT 1'') AS t(a integer)');
SELECT api.exec('DO $do$ BEGIN PERFORM dtx_exec(''back'', ''SELECT 1''); END $do$');
SELECT api.query('SELECT dtx_try(''back'', ''credit'', ''{}'')');
SELECT api.query('SELECT dtx_exec(''self'', ''SELECT 1'')');
SELECT api.query('SELECT api.goes_back(''at'')');
SELECT api.query('SELECT api.goes_back(''xa'')');
-- dtx_begin begins no other global transaction in it
BEGIN;
SELECT a = dtx_xid() FROM dtx_query('peer', 'SELECT dtx_begin()') AS t(a text);
COMMIT;
SELECT api.query('SELECT api.runs_returning(''SELECT dtx_begin() || dtx_begin()'')');
-- a transfer inside it is its own change, undone with it
BEGIN;
SELECT a = dtx_xid() FROM dtx_query('peer', 'SELECT dtx_transfer(NULL, ''1'', ''2'', 1)') AS t(a text);
SELECT api.peer_accounts();
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();
-- nor other doings of dtx
SELECT api.query('SELECT dtx_attach(''api.account'')');
SELECT api.query('SELECT dtx_detach(''api.account'')');
SELECT api.query('SELECT dtx_attach_all(''api'')');
SELECT left(api.query('SELECT dtx_ledger(''api.account'', ''no'', ''balance'')'), 5);
SELECT api.query('SELECT dtx_node_reset()') NOT LIKE 'ok%';
SELECT api.query('SELECT * FROM dtx.branch_settle(''{x.12345678}'', 1, 0, ''{}'', ''{}'', '''', ''{}'')');
SELECT api.query('SELECT dtx.branch_join(''other.12345678:1.0123456789abcdef/1'', ''at'', 0, 0, 1, 0)');
SELECT api.query('SELECT dtx.branch_control(0)');
SELECT api.query('SELECT dtx.branch_control(1)');
SELECT api.query('SELECT dtx.tcc_try(''credit'', ''{}'')');
SELECT api.query('DELETE FROM dtx.undo_log');
SELECT api.query('INSERT INTO dtx.joined_branch DEFAULT VALUES');
-- dtx_xid says whose branch this is, and there is nothing to wait for
BEGIN;
SELECT a = dtx_xid() FROM dtx_query('peer', 'SELECT dtx_xid()') AS t(a text);
COMMIT;

-- after all that: no branch, no change, no setting, and the same connection still works
CALL api.settle();
SELECT api.in_doubt_at_peer();
SELECT api.peer_accounts();
SELECT api.exec('UPDATE api.account SET balance = balance');
CALL api.settle();

-- a deferred constraint fails at the peer's commit: an error of the call, that names the server
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE TABLE api.parent (id integer PRIMARY KEY);
CREATE TABLE api.child (id integer PRIMARY KEY,
  parent integer REFERENCES api.parent DEFERRABLE INITIALLY DEFERRED,
  code text UNIQUE DEFERRABLE INITIALLY DEFERRED);
SELECT dtx_attach('api.parent'), dtx_attach('api.child');
\c dtx_regression
SET client_min_messages = warning;
SELECT dtx_exec('peer', 'INSERT INTO api.child VALUES (1, 1, ''a'')');
SELECT dtx_exec('peer', 'INSERT INTO api.child VALUES (1, NULL, ''a''), (2, NULL, ''a'')');
SELECT * FROM dtx_query('peer', 'INSERT INTO api.child VALUES (1, 1, ''a'') RETURNING id') AS t(id integer);
SELECT api.exec('INSERT INTO api.child VALUES (1, 1, ''a'')');
SELECT api.in_doubt_at_peer();
SELECT api.at_peer('SELECT count(*)::text FROM api.child');
-- caught, the transaction goes on without it
DO $$
BEGIN
  PERFORM dtx_exec('peer', 'INSERT INTO api.parent VALUES (7)');
  BEGIN
    PERFORM dtx_exec('peer', 'INSERT INTO api.child VALUES (1, 1, ''a'')');
  EXCEPTION WHEN foreign_key_violation THEN
    PERFORM dtx_exec('peer', 'INSERT INTO api.child VALUES (1, 7, ''b'')');
  END;
END $$;
CALL api.settle();
SELECT api.at_peer('SELECT format(''%s of %s, %s'', id, parent, code) FROM api.child');
\c dtx_regression_peer
SET client_min_messages = warning;
DROP TABLE api.child, api.parent;
DROP SERVER back CASCADE;
DROP SERVER self CASCADE;
DELETE FROM dtx.ledger;
