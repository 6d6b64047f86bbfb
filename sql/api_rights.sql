--
-- Who may do what: plain roles as coordinators and as participants, the
-- password rule, forged calls, and the tables of schema dtx.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_api_plain;
DROP ROLE IF EXISTS dtx_api_other;
CREATE ROLE dtx_api_plain LOGIN;
CREATE ROLE dtx_api_other LOGIN;
GRANT USAGE ON SCHEMA api TO dtx_api_plain, dtx_api_other;
GRANT SELECT ON api.place TO dtx_api_plain, dtx_api_other;
SELECT api.reset_peer() AS ok \gset

-- what only a superuser may call
SET ROLE dtx_api_plain;
SELECT api.try('SELECT dtx_node_adopt()');
SELECT api.try('SELECT dtx_node_reset()');
SELECT api.try('SELECT dtx_node_reset(''mine'')');
SELECT api.try('SELECT dtx_admit(''dtx_api_plain'')');
SELECT api.try('SELECT dtx_resolve(''other.12345678:1.0123456789abcdef'', ''commit'')');
SELECT api.try('SELECT * FROM dtx.peer_hello(1)');
SELECT api.try('SELECT dtx.branch_join(''other.12345678:1.0123456789abcdef/1'', ''at'', 0, 0, 1, 0)');
SELECT api.try('SELECT dtx.branch_join(''other.12345678:1.0123456789abcdef/1/1'', ''at'', 0, 0, 1, 0, ''{other.12345678}'', 1)');
SELECT api.try('SELECT dtx.branch_control(0)');
SELECT api.try('SELECT dtx.branch_enter(0)');
SELECT api.try('SELECT * FROM dtx.branch_settle(''{x.12345678}'', 1, 0, ''{}'', ''{}'', '''', ''{}'')');
SELECT api.try('SELECT dtx.branch_pending(''{}'', 1)');
SELECT api.try('SELECT dtx.branch_register(''other.12345678:1.0123456789abcdef'', ''x.12345678'', ''y'', 0)');
SELECT api.try('SELECT dtx.branch_vote(''{}'')');
SELECT api.try('SELECT dtx.branch_await(''x'', 1)');
SELECT api.try('SELECT dtx.branch_flush()');
SELECT api.try('SELECT dtx.ledger_credit(''1'', 1)');
SELECT api.try('SELECT dtx.ledger_add(''1'', 1)');
SELECT api.try('SELECT dtx.tcc_try(''credit'', ''{}'')');
SELECT api.try('SELECT dtx.not_in_branch()');
SELECT api.try('SELECT dtx.installed()');
SELECT api.try('SELECT dtx.node_changed()');
SELECT api.try('SELECT dtx.node_insert(''mine'')');
SELECT api.try('SELECT dtx.identity_is_trusted()');
SELECT api.try('SET dtx.unattached = ''allow''');
SELECT api.try('SET dtx.fault_point = ''coordinator-before-send:error''');
-- no function of schema dtx is anybody's, but those that views call, and the actions of transfers
RESET ROLE;
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'dtx'::regnamespace AND has_function_privilege('dtx_api_plain', p.oid, 'EXECUTE')
ORDER BY p.oid::regprocedure::text COLLATE "C";
-- nor a table, to read or to write; even with the schema open
GRANT USAGE ON SCHEMA dtx TO dtx_api_plain;
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'dtx'::regnamespace AND relkind IN ('r', 'S', 'v')
  AND has_table_privilege('dtx_api_plain', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER');
SET ROLE dtx_api_plain;
SELECT api.try('SELECT * FROM dtx.undo_log');
SELECT api.try('INSERT INTO dtx.undo_log SELECT 1, 1, 1, 1, 0, 0, ''i'', '''', ''''');
SELECT api.try('INSERT INTO dtx.joined_branch SELECT 1, ''0/0'', 1, now(), 10, 0, ''a'', ''d'', ''x.12345678:1.0123456789abcdef/1''');
SELECT api.try('UPDATE dtx.joined_branch SET role = 10');
SELECT api.try('DELETE FROM dtx.branch');
SELECT api.try('INSERT INTO dtx.node SELECT ''12345678'', ''mine'', 1, 1, now(), NULL, 0');
SELECT api.try('DELETE FROM dtx.history');
SELECT api.try('UPDATE dtx.settled SET decision = ''c''');
SELECT api.try('UPDATE dtx.coordinator SET horizon = 0');
SELECT api.try('DELETE FROM dtx.contact');
SELECT api.try('UPDATE dtx.ledger SET balance = ''x''');
SELECT api.try('DELETE FROM dtx.frozen');
SELECT api.try('UPDATE dtx.global SET state = ''c''');
SELECT api.try('DELETE FROM dtx.resolution');
SELECT api.try('UPDATE dtx.tcc_action SET confirm = 0');
SELECT api.try('DELETE FROM dtx.try_log');
SELECT api.try('DELETE FROM dtx.confirm_log');
SELECT api.try('DELETE FROM dtx.cancel_log');
SELECT api.try('TRUNCATE dtx.undo_log');
SELECT api.try('SELECT * FROM dtx.branch_settle(''{x.12345678}'', 1, 0, ''{}'', ''{}'', '''', ''{}'')');
SELECT api.try('SELECT dtx.branch_join(''other.12345678:1.0123456789abcdef/1'', ''at'', 0, 0, 1, 0)');
SELECT api.try('SELECT dtx.branch_pending(''{}'', 1)');
SELECT api.try('SELECT dtx.branch_register(''other.12345678:1.0123456789abcdef'', ''x.12345678'', ''y'', 0)');
SELECT api.try('SELECT dtx.branch_vote(''{}'')');
SELECT api.try('SELECT dtx.branch_await(''x'', 1)');
SELECT api.try('SELECT dtx.tcc_try(''credit'', ''{}'')');
-- whose actions only run as such
SELECT api.try(format('SELECT dtx.ledger_%s(''1'', 1)', action)) FROM unnest('{check,add,freeze,spend,unfreeze}'::text[]) action;
RESET ROLE;
REVOKE USAGE ON SCHEMA dtx FROM dtx_api_plain;

-- the way of a plain role to a peer: USAGE, a mapping, a password, admission, rights there
SET ROLE dtx_api_plain;
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') $$);
SELECT api.try($$ SELECT dtx_ping('peer') $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(a integer) $$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER peer TO dtx_api_plain, dtx_api_other;
SET ROLE dtx_api_plain;
SELECT split_part(api.try($$ SELECT dtx_ping('peer') $$), ':', 1);
-- it cannot free itself from the password
SELECT api.try($$ CREATE USER MAPPING FOR dtx_api_plain SERVER peer OPTIONS (user 'dtx_api_plain', password_required 'false') $$);
CREATE USER MAPPING FOR dtx_api_plain SERVER peer OPTIONS (user 'dtx_api_plain');
SELECT api.try($$ ALTER USER MAPPING FOR dtx_api_plain SERVER peer OPTIONS (ADD password_required 'false') $$);
SELECT api.try($$ SELECT dtx_ping('peer') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') $$);
-- a password that the server does not ask for is none: somebody else's identity might be lent
ALTER USER MAPPING FOR dtx_api_plain SERVER peer OPTIONS (ADD password 'secret');
SELECT api.try($$ SELECT dtx_ping('peer') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') $$);
ALTER USER MAPPING FOR dtx_api_plain SERVER peer OPTIONS (SET password '');
SELECT split_part(api.try($$ SELECT dtx_ping('peer') $$), E'\n', 1);
RESET ROLE;
-- the rule is judged by who connects, not by whose mapping it is
CREATE SERVER by_public FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR PUBLIC SERVER by_public OPTIONS (user :'USER');
GRANT USAGE ON FOREIGN SERVER by_public TO dtx_api_plain;
SET ROLE dtx_api_plain;
SELECT split_part(api.try($$ SELECT dtx_ping('by_public') $$), E'\n', 1);
RESET ROLE;
DROP SERVER by_public CASCADE;
-- a superuser vouches for the mapping
ALTER USER MAPPING FOR dtx_api_plain SERVER peer OPTIONS (DROP password, ADD password_required 'false');
CREATE USER MAPPING FOR dtx_api_other SERVER peer OPTIONS (user 'dtx_api_other', password_required 'false');
SET ROLE dtx_api_plain;
SELECT api.try($$ SELECT dtx_ping('peer') $$);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') $$);
RESET ROLE;
-- admission there
\c dtx_regression_peer
SET client_min_messages = warning;
SELECT dtx_admit('dtx_api_plain'), dtx_admit('dtx_api_other');
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'dtx'::regnamespace AND has_function_privilege('dtx_api_plain', p.oid, 'EXECUTE')
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT count(*) FROM pg_class c WHERE relnamespace = 'dtx'::regnamespace AND relkind IN ('r', 'S', 'v')
  AND has_table_privilege('dtx_api_plain', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE');
\c dtx_regression
SET client_min_messages = warning;
SET ROLE dtx_api_plain;
SELECT node LIKE 'dtx_regression_peer.%' FROM dtx_ping('peer');
-- the rights there are its own
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') $$);
RESET ROLE;
\c dtx_regression_peer
GRANT USAGE ON SCHEMA api TO dtx_api_plain, dtx_api_other;
GRANT SELECT, INSERT, UPDATE ON api.account TO dtx_api_plain;
GRANT SELECT ON api.account TO dtx_api_other;
\c dtx_regression
SET client_min_messages = warning;
SET ROLE dtx_api_plain;
SELECT api.try($$ SELECT dtx_exec('peer', 'DELETE FROM api.account') $$);
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 100 WHERE no = 1');
ROLLBACK;
RESET ROLE;
CALL api.settle();
SELECT api.peer_accounts();
-- the role counts when the call is made: SET ROLE, SECURITY DEFINER
CREATE FUNCTION api.as_owner() RETURNS text LANGUAGE sql SECURITY DEFINER AS
$$ SELECT a FROM dtx_query('peer', 'SELECT current_user::text') AS t(a text) $$;
SELECT api.as_owner() = current_user;
GRANT EXECUTE ON FUNCTION api.as_owner() TO dtx_api_plain;
BEGIN;
SET LOCAL ROLE dtx_api_plain;
SELECT a FROM dtx_query('peer', 'SELECT current_user::text') AS t(a text);
SELECT api.as_owner() = session_user;
SET LOCAL ROLE dtx_api_other;
SELECT a FROM dtx_query('peer', 'SELECT current_user::text') AS t(a text);
COMMIT;
CALL api.settle();
-- a branch that changes its role on the way is still settled
BEGIN;
SELECT left(api.try($$ SELECT * FROM dtx_query('peer', 'SELECT set_config(''role'', ''dtx_api_plain'', false)') AS t(a text) $$), 0);
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
SELECT a = current_user FROM dtx_query('peer', 'SELECT current_user::text') AS t(a text);
CALL api.settle();
\c dtx_regression
SET client_min_messages = warning;

-- a role that does not own a branch neither sees nor settles it
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT dblink_exec('holder', 'BEGIN') AS ok \gset
SELECT * FROM dblink('holder', $$SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1000 WHERE no = 1')$$) AS t(n bigint);
SELECT xid || '/1' AS gid FROM dblink('holder', 'SELECT dtx_xid()') AS t(xid text) \gset
SELECT regexp_replace(:'gid', ':.*', '') AS node \gset
-- as plain, at the peer
SELECT dblink_connect('plain', api.dsn('dtx_regression_peer', 'dtx_api_plain')) AS ok \gset
SELECT * FROM dblink('plain', 'SELECT current_user') AS t(who text);
SELECT * FROM dblink('plain', format('SELECT gid, n, node FROM dtx.branch_pending(%L, 1)', ARRAY[:'node'])) AS t(gid text, n bigint, node text);
-- as the superuser: who has begun it, and in which transaction of that node
SELECT api.mask(gid), n = split_part(split_part(gid, ':', 2), '.', 1)::bigint, node = :'node' FROM dblink(api.dsn('dtx_regression_peer'),
  format('SELECT gid, n, node FROM dtx.branch_pending(%L, 1)', ARRAY['nowhere.12345678', :'node'])) AS t(gid text, n bigint, node text);
SELECT count(*) FROM dblink(api.dsn('dtx_regression_peer'), $$SELECT gid FROM dtx.branch_pending('{nowhere.12345678}', 1)$$) AS t(gid text);
SELECT count(*) FROM dblink('plain', 'SELECT gid FROM dtx_branches') AS t(gid text);
SELECT outcome, api.mask(replace(detail, current_user, 'OWNER')) FROM dblink('plain',
  format('SELECT outcome, detail FROM dtx.branch_settle(%L, 1, 0, %L, %L, ''a'', ''{}'') WHERE outcome IS NOT NULL', ARRAY[:'node'], ARRAY[:'gid'], '{t}')) AS t(outcome text, detail text);
SELECT outcome, api.mask(replace(detail, current_user, 'OWNER')) FROM dblink('plain',
  format('SELECT outcome, detail FROM dtx.branch_settle(%L, 1, 0, %L, %L, ''a'', ''{}'') WHERE outcome IS NOT NULL', ARRAY[:'node'], ARRAY[:'gid'], '{f}')) AS t(outcome text, detail text);
SELECT api.in_doubt_at_peer();
SELECT api.peer_accounts();
-- nor joins it again
SELECT split_part(api.try(format('SELECT * FROM dblink(%L, %L) AS t(a text)', 'plain', format('SELECT dtx.branch_join(%L, ''at'', 0, 0, 1, 0)', :'gid'))), E'\n', 1);
SELECT dblink_exec('holder', 'COMMIT');
CALL api.settle();
SELECT api.peer_accounts();
-- what the plain role says of branches that nobody knows
SELECT outcome, detail FROM dblink('plain', $$SELECT outcome, detail FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, '{nowhere.12345678:7.0123456789abcdef/1}', '{t}', 'a', '{}') WHERE outcome IS NOT NULL$$) AS t(outcome text, detail text);
SELECT outcome, detail FROM dblink('plain', $$SELECT outcome, detail FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, '{nowhere.12345678:7.0123456789abcdef/1}', '{f}', 'a', '{}') WHERE outcome IS NOT NULL$$) AS t(outcome text, detail text);
-- the rollback came first: phase 1 is refused, and so is a commit
SELECT split_part(api.try($$ SELECT * FROM dblink('plain', $q$SELECT dtx.branch_join('nowhere.12345678:7.0123456789abcdef/1', 'at', 0, 0, 1, 0)$q$) AS t(a text) $$), E'\n', 1);
SELECT outcome, detail FROM dblink('plain', $$SELECT outcome, detail FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, '{nowhere.12345678:7.0123456789abcdef/1}', '{t}', 'a', '{}') WHERE outcome IS NOT NULL$$) AS t(outcome text, detail text);
SELECT outcome, detail FROM dblink('plain', $$SELECT outcome, detail FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, '{nowhere.12345678:7.0123456789abcdef/1}', '{f}', 'a', '{}') WHERE outcome IS NOT NULL$$) AS t(outcome text, detail text);
-- nor can it make the participant believe that a coordinator has forgotten its transactions
CREATE DATABASE dtx_regression_forged;
\c dtx_regression_forged
SET client_min_messages = warning;
CREATE EXTENSION dtx;
CREATE EXTENSION dblink;
CREATE SERVER peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (user :'USER');
SELECT dtx_exec('peer', 'UPDATE api.account SET note = ''before''');
SELECT dblink_connect('plain', format('host=%s port=%s dbname=dtx_regression_peer user=dtx_api_plain', :'HOST', :'PORT')) AS ok \gset
CREATE FUNCTION forge(statement text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM * FROM dtx.node n, dblink('plain', format(statement, n.name || '.' || n.tag)) AS t(outcome text);
EXCEPTION
  WHEN undefined_function THEN RAISE;
  -- refused or without effect: either will do
  WHEN OTHERS THEN NULL;
END $$;
SELECT forge($$ SELECT outcome FROM dtx.branch_settle(ARRAY[%1$L], 1, 9000000000000000000, ARRAY[%1$L || ':1.0123456789abcdef/1'], '{f}', 'a', '{}') $$);
SELECT forge($$ SELECT outcome FROM dtx.branch_settle(ARRAY[%1$L], 1, -1, ARRAY[%1$L || ':1.0123456789abcdef/1'], '{f}', 'a', '{}') $$);
-- nor that it has been replaced
SELECT forge($$ SELECT outcome FROM dtx.branch_settle(ARRAY[%1$L], 1000000, 9000000000000000000, ARRAY[%1$L || ':1.0123456789abcdef/2'], '{f}', 'a', '{1}') $$);
SELECT forge($$ SELECT gid FROM dtx.branch_pending(ARRAY[%1$L], 1000001) $$);
SELECT dblink_exec('plain', 'BEGIN') AS ok \gset
SELECT forge($$ SELECT dtx.branch_join(%1$L || ':9000000000000000000.0123456789abcdef/1', 'at', 0, 0, 1000002, 0) $$);
SELECT dblink_exec('plain', 'ROLLBACK') AS ok \gset
-- that it can for its own branches only
\set VERBOSITY sqlstate
SELECT t.gid FROM dtx.node n, dblink('plain', format('SELECT gid FROM dtx.branch_pending(ARRAY[%L], 1)', n.name || '.' || n.tag)) AS t(gid text);
\set VERBOSITY default
SELECT dblink_disconnect('plain') AS ok \gset
SELECT dtx_exec('peer', 'UPDATE api.account SET note = ''after''');
\c dtx_regression
SET client_min_messages = warning;
CALL api.settle();
SELECT DISTINCT api.at_peer('SELECT DISTINCT note FROM api.account');
DROP DATABASE dtx_regression_forged WITH (FORCE);

-- views: a role sees what is its own, pg_monitor sees all
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT api.hold() IS NOT NULL;
SELECT dblink_connect('plain', api.dsn('dtx_regression_peer', 'dtx_api_plain')) AS ok \gset
SELECT * FROM dblink('plain', 'SELECT count(*) FROM dtx_branches') AS t(n bigint);
SELECT * FROM dblink('plain', 'SELECT count(*) FROM dtx_transactions') AS t(n bigint);
GRANT pg_monitor TO dtx_api_plain;
SELECT * FROM dblink('plain', 'SELECT count(*) FROM dtx_branches') AS t(n bigint);
SELECT * FROM dblink('plain', 'SELECT count(*) FROM dtx_transactions') AS t(n bigint);
REVOKE pg_monitor FROM dtx_api_plain;
SELECT * FROM dblink('plain', 'SELECT count(*) FROM dtx_branches') AS t(n bigint);
SELECT api.in_doubt_at_peer();
SELECT dblink_disconnect('plain') AS ok \gset
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dblink_disconnect('holder') AS ok \gset
CALL api.settle();
-- here: peers and history of its own
SET ROLE dtx_api_plain;
SELECT DISTINCT server, role FROM dtx_peers;
SELECT DISTINCT role FROM dtx_history;
SET ROLE dtx_api_other;
SELECT DISTINCT role FROM dtx_history;
RESET ROLE;
SELECT count(DISTINCT role) FROM dtx_history;
SELECT count(DISTINCT role) FROM dtx_peers;
-- sessions' global transactions: its own only
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT dblink_exec('holder', 'BEGIN') AS ok \gset
SELECT began FROM dblink('holder', 'SELECT dtx_begin() IS NOT NULL') AS t(began boolean);
SELECT count(*) FROM dtx_transactions WHERE state = 'active';
SET ROLE dtx_api_plain;
SELECT count(*) FROM dtx_transactions WHERE state = 'active';
RESET ROLE;
SELECT dblink_disconnect('holder') AS ok \gset
SELECT dblink_connect('holder', api.dsn('dtx_regression', 'dtx_api_plain')) AS ok \gset
SELECT dblink_exec('holder', 'BEGIN') AS ok \gset
SELECT began FROM dblink('holder', 'SELECT dtx_begin() IS NOT NULL') AS t(began boolean);
SET ROLE dtx_api_plain;
SELECT count(*) FROM dtx_transactions WHERE state = 'active';
SET ROLE dtx_api_other;
SELECT count(*) FROM dtx_transactions WHERE state = 'active';
RESET ROLE;
SELECT dblink_disconnect('holder') AS ok \gset

-- whom dtx_admit admits
DROP ROLE IF EXISTS "dtx_api Quoted";
CREATE ROLE "dtx_api Quoted";
SELECT dtx_admit('"dtx_api Quoted"');
SELECT has_schema_privilege('dtx_api Quoted', 'dtx', 'USAGE'), has_function_privilege('dtx_api Quoted', 'dtx.branch_flush()', 'EXECUTE');
-- twice does no harm
SELECT dtx_admit('"dtx_api Quoted"');
SELECT left(api.try($$ SELECT dtx_admit('dtx_api_nobody') $$), 5);
SELECT left(api.try($$ SELECT dtx_admit(0::regrole) $$), 2) <> 'ok', left(api.try($$ SELECT dtx_admit(NULL) $$), 5) IN ('22004', 'ok: N');
DROP OWNED BY "dtx_api Quoted";
DROP ROLE "dtx_api Quoted";

-- calls that no coordinator makes
-- Joins a branch at the peer, and leaves it again.
CREATE FUNCTION api.join_peer(gid text, rest text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  PERFORM dblink_connect('joiner', api.dsn('dtx_regression_peer')), dblink_exec('joiner', 'BEGIN');
  answer := api.try(format('SELECT * FROM dblink(''joiner'', %L) AS t(a text)', format('SELECT dtx.branch_join(%L, %s)', gid, rest)));
  PERFORM dblink_exec('joiner', 'ROLLBACK'), dblink_disconnect('joiner');
  RETURN answer;
END $$;
SELECT api.at_peer('SELECT name || ''.'' || tag FROM dtx.node') AS self \gset
-- its own transactions need no branch
SELECT api.join_peer(:'self' || ':1.0123456789abcdef/1', $$'at', 0, 0, 1, 0$$);
SELECT api.join_peer(:'self' || ':1.0123456789abcdef/1', $$'xa', 0, 0, 1, 0$$);
SELECT api.join_peer(:'self' || ':1.0123456789abcdef/1', $$'tcc', 0, 0, 1, 0$$);
-- not even on a detour: nobody is above itself
SELECT api.join_peer(:'self' || ':1.0123456789abcdef/1/1', format($$'at', 0, 0, 1, 0, ARRAY[%L, 'y.12345678'], 1$$, :'self'));
SELECT api.join_peer('x.12345678:1.0123456789abcdef/1/1', format($$'at', 0, 0, 1, 0, ARRAY['x.12345678', %L], 1$$, :'self'));
SELECT api.join_peer('x.12345678:1.0123456789abcdef/1/1/1', format($$'at', 0, 0, 1, 0, ARRAY['x.12345678', %L, 'y.12345678'], 1$$, :'self'));
-- whoever the superiors are, the coordinator is the one of the gid
SELECT api.join_peer(:'self' || ':1.0123456789abcdef/1/1', $$'at', 0, 0, 1, 0, '{x.12345678,y.12345678}', 1$$);
SELECT api.join_peer('x.12345678:1.0123456789abcdef/1/1', $$'at', 0, 0, 1, 0, '{x.12345678,NULL}', 1$$);
-- an id has an end
SELECT left(api.join_peer('x.12345678:1.0123456789abcdef' || repeat('/1', 200), $$'at', 0, 0, 1, 0$$), 5) IN ('22023', '54001');
DROP FUNCTION api.join_peer(text, text);
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE FUNCTION api.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text; detail text; hint text;
BEGIN
  EXECUTE statement INTO answer;
  RETURN 'ok: ' || coalesce(answer, 'NULL');
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN regexp_replace(concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, 'DETAIL: ' || nullif(detail, ''),
                   'HINT: ' || nullif(hint, '')), '[[:alnum:]_]+\.[0-9a-f]{8}:[0-9]+\.[0-9a-f]{16}', 'XID', 'g');
END $$;
SELECT name || '.' || tag AS self FROM dtx.node \gset
SELECT dtx.branch_join('', 'at', 0, 0, 1, 0);
SELECT dtx.branch_join('nonsense', 'at', 0, 0, 1, 0);
SELECT api.try(format('SELECT dtx.branch_join(%L, ''at'', 0, 0, 1, 0)', g)) FROM unnest(ARRAY[
  'x.12345678:1.0123456789abcdef', 'x.12345678:1.0123456789abcdef/', 'x.12345678:1.0123456789abcdef/0', 'x.12345678:1.0123456789abcdef/01',
  'x.12345678:1.0123456789abcdef/4294967296', 'x.12345678:1.0123456789abcdef/1/x', 'x.12345678:0.0123456789abcdef/1', 'x.12345678:01.0123456789abcdef/1', 'x.12345678:-1.0123456789abcdef/1',
  'x.12345678:1.0123456789ABCDEF/1', 'x.12345678:1.123456789abcdef/1', 'x.1234567:1.0123456789abcdef/1', '.12345678:1.0123456789abcdef/1',
  'x.12345678:18446744073709551616.0123456789abcdef/1', 'x.12345678:1.0123456789abcdef/1 ', repeat('x', 64) || '.12345678:1.0123456789abcdef/1',
  -- a branch of a branch
  'x.12345678:1.0123456789abcdef/1/', 'x.12345678:1.0123456789abcdef//1', 'x.12345678:1.0123456789abcdef/1/0', 'x.12345678:1.0123456789abcdef/0/1',
  'x.12345678:1.0123456789abcdef/1/01', 'x.12345678:1.0123456789abcdef/2147483648/1', 'x.12345678:1.0123456789abcdef/1/-1']) g;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'paper', 0, 0, 1, 0);
-- NULL joins nothing
SELECT dtx.branch_join(NULL, 'at', 0, 0, 1, 0) IS NULL;
-- once a transaction, before it writes, at its top
BEGIN;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'at', 0, 0, 1, 0) = :'self';
SELECT dtx_xid();
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/2', 'at', 0, 0, 1, 0);
ROLLBACK;
-- who controls a branch tells the token of its join, if it had one
SELECT dtx.branch_control(0);
BEGIN;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'at', 0, 0, 1, 0) = :'self';
SELECT dtx.branch_control(0);
ROLLBACK;
BEGIN;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'xa', 0, 0, 1, 7) = :'self';
SELECT dtx.branch_control(8);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'at', 0, 0, 1, 0);
ROLLBACK;
BEGIN;
SELECT pg_current_xact_id() IS NOT NULL;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'at', 0, 0, 1, 0);
ROLLBACK;
BEGIN READ ONLY;
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'at', 0, 0, 1, 0);
ROLLBACK;
-- settling: one decision, one mode and maybe one N a branch, none of them NULL
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{}', 'a', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{}', '', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{}', '{t}', '', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{}', '{}', 'a', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{t}', '', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{t}', 'aa', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{t}', 'a', '{1,1}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{NULL}', '{t}', 'a', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{NULL}', 'a', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{t}', 'a', '{NULL}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{nonsense}', '{t}', 'a', '{}');
-- a mode that nobody knows
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1}', '{f}', '!', '{}');
-- somebody asks, and forgets nothing that is yet to come
SELECT * FROM dtx.branch_settle('{}', 1, 0, '{}', '{}', '', '{}');
SELECT * FROM dtx.branch_settle('{NULL}', 1, 0, '{}', '{}', '', '{}');
SELECT * FROM dtx.branch_settle('{x.12345678}', 1, -1, '{}', '{}', '', '{}');
SELECT outcome, detail FROM dtx.branch_settle('{x.12345678}', 1, 0, '{}', '{}', '', '{}');
SELECT count(*) FROM dtx.branch_settle(NULL, 1, 0, '{}', '{}', '', '{}');
SELECT count(*) FROM dtx.branch_settle('{x.12345678}', 1, 0, NULL, '{}', '', '{}');
SELECT outcome, detail FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/1,x.12345678:1.0123456789abcdef/1}', '{t,t}', 'aa', '{}');
-- a rollback of a branch that nobody here knows, not even by its mode; then the branch cannot come
SELECT outcome, detail FROM dtx.branch_settle('{x.12345678}', 1, 0, '{x.12345678:1.0123456789abcdef/9}', '{f}', '?', '{}');
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/9', 'at', 0, 0, 1, 0);
-- who has spoken on a timeline is not obeyed on an earlier one
SELECT outcome, detail FROM dtx.branch_settle('{z.12345678}', 5, 0, '{}', '{}', '', '{}');
SELECT outcome, detail FROM dtx.branch_settle('{z.12345678}', 4, 0, '{}', '{}', '', '{}');
SELECT dtx.branch_pending('{z.12345678,x.12345678}', 4);
SELECT dtx.branch_join('z.12345678:1.0123456789abcdef/1', 'at', 0, 0, 4, 0);
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1/1', 'at', 0, 0, 4, 0, '{x.12345678,z.12345678}', 1);
SELECT dtx.branch_pending('{z.12345678}', 5);
SELECT dtx.branch_pending('{x.12345678}', 1);
SELECT dtx.branch_pending('{}', 1);
SELECT dtx.branch_pending('{x.12345678,NULL}', 1);
-- dtx.capture is a trigger of dtx_attach's
SELECT api.try('SELECT dtx.capture()');
SELECT api.try('SELECT dtx.guard_rewrite()');
CREATE TABLE api.triggered (a integer PRIMARY KEY);
CREATE TRIGGER t BEFORE INSERT ON api.triggered FOR EACH ROW EXECUTE FUNCTION dtx.capture();
CREATE TRIGGER dtx_capture AFTER INSERT ON api.triggered FOR EACH STATEMENT EXECUTE FUNCTION dtx.capture();
CREATE TRIGGER dtx_capture AFTER INSERT ON api.triggered FOR EACH ROW EXECUTE FUNCTION dtx.capture();
INSERT INTO api.triggered VALUES (1);
SELECT dtx_attach('api.triggered');
CREATE TRIGGER zz AFTER INSERT OR UPDATE OR DELETE ON api.triggered FOR EACH ROW EXECUTE FUNCTION dtx.capture();
DROP TABLE api.triggered;
DROP FUNCTION api.try(text);
SELECT count(*) FROM dtx.joined_branch WHERE state = 'd';
DROP OWNED BY dtx_api_plain, dtx_api_other;

\c dtx_regression
SET client_min_messages = warning;
-- a role with a mapping and a past can be dropped once nothing is pending
CALL api.settle();
DROP OWNED BY dtx_api_plain, dtx_api_other;
DROP USER MAPPING IF EXISTS FOR dtx_api_plain SERVER peer;
DROP USER MAPPING IF EXISTS FOR dtx_api_other SERVER peer;
DROP ROLE dtx_api_plain, dtx_api_other;
