--
-- The identity of a node: a copy of a database, a restored dump and a moved
-- one do not coordinate, nor take part, before they are adopted or reset.
--
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset
DROP DATABASE IF EXISTS dtx_regression_renamed WITH (FORCE);
DROP DATABASE IF EXISTS dtx_regression_original WITH (FORCE);
DROP DATABASE IF EXISTS dtx_regression_copy WITH (FORCE);
DROP DATABASE IF EXISTS dtx_regression_copy2 WITH (FORCE);
DROP DATABASE IF EXISTS dtx_regression_restored WITH (FORCE);

-- one identity, of this database in this cluster
SELECT name, tag ~ '^[0-9a-f]{8}$', database = (SELECT oid FROM pg_database WHERE datname = current_database()),
  system_identifier = (SELECT system_identifier FROM pg_control_system()), retired_at FROM dtx.node;
SELECT api.at_peer('SELECT tag FROM dtx.node') <> tag FROM dtx.node;
-- it is not in doubt, so there is nothing to adopt
SELECT dtx_node_adopt();
-- nor can it be given up while branches are pending, as a participant or here
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT api.hold() AS xid \gset
SELECT api.try($$ SELECT dblink_exec(api.dsn('dtx_regression_peer'), 'BEGIN; DO $x$ BEGIN PERFORM dtx_node_reset(); END $x$; ROLLBACK') $$);
SELECT api.try($$ SELECT dblink_exec(api.dsn('dtx_regression_peer'), 'BEGIN; DO $x$ BEGIN PERFORM dtx_node_reset(''other''); END $x$; ROLLBACK') $$);
CALL api.close_peer();
SELECT dblink_exec('holder', 'COMMIT');
BEGIN;
SELECT dtx_node_reset();
ROLLBACK;
CALL api.open_peer();
SELECT dtx_wait(:'xid', '3min');
-- a branch in an open transaction counts as well
SELECT api.hold() AS xid \gset
SET lock_timeout = '100ms';
BEGIN;
SELECT left(api.try('SELECT dtx_node_reset()'), 5) IN ('55006', '55P03');
ROLLBACK;
RESET lock_timeout;
SELECT dblink_exec('holder', 'COMMIT');
SELECT dtx_wait(:'xid', '3min');
SELECT dblink_disconnect('holder') AS ok \gset

-- a database to copy
CREATE DATABASE dtx_regression_original;
\c dtx_regression_original
SET client_min_messages = warning;
CREATE EXTENSION dtx;
CREATE TABLE account (no integer PRIMARY KEY, balance numeric);
INSERT INTO account VALUES (1, 100);
SELECT dtx_attach('account');
CREATE SERVER peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (user :'USER');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 2 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT name || '.' || tag AS original FROM dtx.node \gset
\c dtx_regression
SET client_min_messages = warning;
-- the copy works although dtx's worker runs in the template
CALL api.wait_until($$ EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'dtx_regression_original' AND backend_type LIKE 'dtx%') $$);
CREATE DATABASE dtx_regression_copy TEMPLATE dtx_regression_original;
CREATE DATABASE dtx_regression_copy2 TEMPLATE dtx_regression_original;
CREATE SERVER copy FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_copy');
CREATE USER MAPPING FOR CURRENT_USER SERVER copy OPTIONS (user :'USER');
-- it takes no part
SELECT dtx_ping('copy');
\echo :LAST_ERROR_SQLSTATE
SELECT api.try($$ SELECT dtx_exec('copy', 'UPDATE account SET balance = 0') $$);
\c dtx_regression_copy
-- it does not coordinate
SELECT dtx_begin();
\echo :LAST_ERROR_SQLSTATE
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0');
SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(a integer);
SELECT dtx_transfer(NULL, '1', '2', 1);
SELECT dtx.branch_join('x.12345678:1.0123456789abcdef/1', 'at', 0, 0, 1, 0);
SELECT * FROM dtx.peer_hello(1);
-- reading and plain work go on
UPDATE account SET balance = 50;
SELECT dtx_xid() IS NULL;
SELECT count(*) FROM dtx_branches;
-- adopted, it is the same node, with a new tag, and the old one is still its own
SELECT dtx_node_adopt() AS adopted \gset
SELECT :'adopted' LIKE 'dtx_regression_original.%', :'adopted' <> :'original';
SELECT count(*), count(retired_at) FROM dtx.node;
SELECT dtx_begin() LIKE :'adopted' || ':%';
SELECT dtx_status(:'xid');
\set VERBOSITY sqlstate
SELECT dtx.branch_join(:'xid' || '/1', 'at', 0, 0, 1, 0);
\set VERBOSITY default
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 3 WHERE no = 1');
-- there is nothing to adopt again
SELECT dtx_node_adopt();
-- the original has noticed nothing
\c dtx_regression_original
SELECT dtx_begin() LIKE :'original' || ':%';
TABLE account;
\c dtx_regression
SET client_min_messages = warning;
-- an open session of another node learns of it
SELECT node = :'adopted' FROM dtx_ping('copy');
SELECT dtx_exec('copy', 'UPDATE account SET balance = balance + 1');
CALL api.settle();

-- reset, a copy is a node of its own, without a past
\c dtx_regression_copy2
SELECT dtx_node_reset() AS reset \gset
SELECT :'reset' LIKE 'dtx_regression_copy2.%';
SELECT count(*), count(retired_at) FROM dtx.node;
SELECT count(*) FROM dtx_history;
SELECT dtx_status(:'xid');
SELECT dtx_begin() LIKE :'reset' || ':%';
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 4 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
-- with a name; also when the identity is not in doubt, and nothing is pending
SELECT dtx_node_reset('Bank "9"') AS reset2 \gset
SELECT :'reset2' LIKE 'Bank\%20\%229\%22.%', :'reset2' <> :'reset';
SELECT name FROM dtx.node;
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 5 WHERE no = 1');
SELECT starts_with(dtx_xid(), :'reset2' || ':');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
-- whatever it is, ids of it go through a header of HTTP, and back
CREATE FUNCTION name_tried() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    xid text := dtx_begin();
BEGIN
    RETURN concat_ws(' ', regexp_replace(xid, '\.[0-9a-f]{8}:[0-9]+\.[0-9a-f]{16}$', ''), xid ~ '^[-A-Za-z0-9._~%:]+$', length(xid) < 120, dtx_status(xid));
END $$;
SELECT format('SELECT dtx_node_reset(%L) IS NULL', name) AS reset, 'SELECT name_tried()' AS try
FROM unnest(ARRAY['a b', 'x,y;z="1"', '50%', '%41', 'a.b-c_d~e', 'a:b/c@d', E'tab\tand\nnew: line', '银行', repeat('银', 21), repeat('"', 63), E'caf\u00e9 1']::name[]) AS name \gexec
SELECT count(*) FROM dtx.node;
-- ... and in a gid of a prepared transaction
SELECT dtx_node_reset(repeat(' ', 62) || 'k') AS reset3 \gset
BEGIN;
SELECT dtx_begin('xa') AS xid \gset
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 6 WHERE no = 1');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT outcome FROM dtx_history WHERE xid = :'xid' AND server = 'peer';
-- a service joins with it
SELECT dtx_node_reset('Bank 9') AS reset4 \gset
SELECT dtx_open() AS xid \gset
BEGIN;
SELECT dtx_join(:'xid') = :'xid';
COMMIT;
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
-- one form of it only: ids are compared whole
\set VERBOSITY sqlstate
SELECT dtx_status(replace(:'xid', '%20', ' '));
SELECT dtx_status(replace(:'xid', 'k', '%6B'));
SELECT dtx_status('b%c3%a9.8c41f2d0:1.9f86d081884c7d65');
SELECT dtx_status('b%C3%A9.8c41f2d0:1.9f86d081884c7d65');
SELECT dtx_status('b%2.8c41f2d0:1.9f86d081884c7d65');
SELECT dtx_status('b%00.8c41f2d0:1.9f86d081884c7d65');
-- not a name
SELECT dtx_node_reset('');
\set VERBOSITY default
SELECT dtx_node_reset(repeat('x', 100)) ~ '^x{63}\.[0-9a-f]{8}$';
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 5 WHERE no = 2');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');

-- two identities: a dump of another database was restored, whose row of
-- dtx.node came along beside the one that CREATE EXTENSION made
\c dtx_regression
SET client_min_messages = warning;
CREATE DATABASE dtx_regression_restored;
\c dtx_regression_restored
SET client_min_messages = warning;
SELECT count(*) FROM pg_extension, unnest(extconfig) config WHERE extname = 'dtx';
CREATE EXTENSION dtx;
SELECT config::regclass FROM pg_extension, unnest(extconfig) config WHERE extname = 'dtx';
SELECT name || '.' || tag AS fresh FROM dtx.node \gset
INSERT INTO dtx.node (tag, name, system_identifier, database, created_at, memory_from) VALUES ('0badcafe', 'moved', 1, 1, now() - interval '1 year', 0);
\c dtx_regression_restored
SELECT dtx_begin();
\echo :LAST_ERROR_SQLSTATE
SELECT dtx_node_adopt() LIKE 'moved.%';
SELECT dtx_begin() LIKE 'moved.%';
-- what the former identity decided is not known here: nobody is told "rolled back"
SELECT dtx_status('moved.0badcafe:3.0123456789abcdef');
-- not even when a transaction of that number was rolled back here
BEGIN;
SELECT pg_current_xact_id() AS n \gset
ROLLBACK;
SELECT dtx_status('moved.0badcafe:' || :'n' || '.0123456789abcdef');
-- none at all
DELETE FROM dtx.node;
\c dtx_regression_restored
SELECT dtx_begin();
\set VERBOSITY sqlstate
SELECT dtx_node_adopt();
\set VERBOSITY default
SELECT dtx_node_reset('again') LIKE 'again.%';
SELECT dtx_begin() LIKE 'again.%';

\c dtx_regression
SET client_min_messages = warning;
-- with workers running, a database is renamed and is the same node
CALL api.wait_until($$ EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'dtx_regression_original' AND backend_type LIKE 'dtx%') $$);
ALTER DATABASE dtx_regression_original RENAME TO dtx_regression_renamed;
\c dtx_regression_renamed
SET client_min_messages = warning;
BEGIN;
SELECT dtx_begin() LIKE :'original' || ':%';
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 6 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression
SET client_min_messages = warning;
CALL api.settle();
SELECT api.peer_accounts();
DROP SERVER copy CASCADE;
-- and dropped
CALL api.wait_until($$ EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'dtx_regression_renamed' AND backend_type LIKE 'dtx%') $$);
DROP DATABASE dtx_regression_renamed;
DROP DATABASE dtx_regression_copy2;
DROP DATABASE dtx_regression_restored;
-- other nodes' connections go by force
DROP DATABASE dtx_regression_copy WITH (FORCE);
SELECT datname FROM pg_database WHERE datname LIKE 'dtx_regression%' AND datname NOT IN ('dtx_regression', 'dtx_regression_peer');
