--
-- What pending branches need cannot be dropped; once nothing is pending it
-- can, with workers running.
--
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS dtx_regression_drop WITH (FORCE);
DROP DATABASE IF EXISTS dtx_regression_drop2 WITH (FORCE);
DROP ROLE IF EXISTS dtx_api_dropped;
SELECT api.reset_peer() AS ok \gset
CREATE ROLE dtx_api_dropped LOGIN;
CREATE DATABASE dtx_regression_drop;
\c dtx_regression_drop
SET client_min_messages = warning;
CREATE EXTENSION dtx;
CREATE TABLE account (no integer PRIMARY KEY, balance numeric);
INSERT INTO account VALUES (1, 100);
SELECT dtx_attach('account');
CREATE SERVER peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE SERVER unused FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (user :'USER');
CREATE USER MAPPING FOR CURRENT_USER SERVER unused OPTIONS (user :'USER');
CREATE USER MAPPING FOR dtx_api_dropped SERVER peer OPTIONS (user :'USER', password_required 'false');
GRANT USAGE ON FOREIGN SERVER peer TO dtx_api_dropped;
\c dtx_regression
SET client_min_messages = warning;
CREATE SERVER participant FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_drop');
CREATE USER MAPPING FOR CURRENT_USER SERVER participant OPTIONS (user :'USER');

SELECT dblink_connect('admin', api.dsn('dtx_regression_drop')) AS ok \gset
CREATE FUNCTION api.admin(statement text) RETURNS text LANGUAGE sql AS $$ SELECT api.try(format('SELECT dblink_exec(%L, %L)', 'admin', statement)) $$;
SELECT dblink_connect('holder', api.dsn('dtx_regression_drop', 'dtx_api_dropped')) AS ok \gset
CREATE FUNCTION api.hold_drop(server text DEFAULT 'peer', change text DEFAULT 'UPDATE api.account SET balance = balance + 1 WHERE no = 1') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dblink_exec('holder', 'BEGIN');
  PERFORM * FROM dblink('holder', format('SELECT dtx_exec(%L, %L)', server, change)) AS t(n bigint);
  RETURN (SELECT xid FROM dblink('holder', 'SELECT dtx_xid()') AS t(xid text));
END $$;

-- committed, and not settled: the peer lets nobody in
SELECT api.hold_drop() AS xid \gset
CALL api.close_peer();
SELECT dblink_exec('holder', 'COMMIT');
SELECT status FROM dblink('admin', format('SELECT dtx_status(%L)', :'xid')) AS t(status text);
SELECT left(api.admin('DROP SERVER peer'), 5);
SELECT left(api.admin('DROP SERVER peer CASCADE'), 5);
SELECT api.admin('DROP USER MAPPING FOR dtx_api_dropped SERVER peer');
SELECT left(api.admin('DROP FOREIGN DATA WRAPPER dtx_fdw CASCADE'), 5);
SELECT left(api.admin('DROP EXTENSION dtx'), 5);
SELECT left(api.admin('DROP EXTENSION dtx CASCADE'), 5);
SELECT left(api.admin('DROP SCHEMA dtx CASCADE'), 5);
SELECT api.admin('DROP ROLE dtx_api_dropped') NOT LIKE 'ok%';
SELECT api.admin('DROP TABLE dtx.branch') NOT LIKE 'ok%';
-- what it does not need can go
SELECT api.admin('DROP USER MAPPING FOR CURRENT_USER SERVER unused');
SELECT api.admin('DROP SERVER unused');
-- nothing is lost by the attempts
CALL api.open_peer();
SELECT status FROM dblink('admin', format('SELECT dtx_wait(%L, ''30 s'')', :'xid')) AS t(status text);
SELECT api.peer_accounts();

-- the same for a rollback that the peer has not heard of
SELECT api.hold_drop() AS xid \gset
CALL api.close_peer();
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT status FROM dblink('admin', format('SELECT dtx_status(%L)', :'xid')) AS t(status text);
SELECT left(api.admin('DROP SERVER peer CASCADE'), 5);
SELECT api.admin('DROP USER MAPPING FOR dtx_api_dropped SERVER peer');
SELECT left(api.admin('DROP EXTENSION dtx CASCADE'), 5);
CALL api.open_peer();
SELECT status FROM dblink('admin', format('SELECT dtx_wait(%L, ''30 s'')', :'xid')) AS t(status text);
SELECT api.peer_accounts();
SELECT api.in_doubt_at_peer();

-- a participant with a branch in doubt
SELECT dblink_connect('caller', api.dsn('dtx_regression')) AS ok \gset
SELECT dblink_exec('caller', 'BEGIN') AS ok \gset
SELECT * FROM dblink('caller', $$SELECT dtx_exec('participant', 'UPDATE account SET balance = 0')$$) AS t(n bigint);
SELECT left(api.admin('DROP EXTENSION dtx CASCADE'), 5);
SELECT left(api.admin('DROP TABLE account'), 5);
SELECT api.admin('TRUNCATE account');
SELECT dblink_exec('caller', 'ROLLBACK');
SELECT dblink_disconnect('caller') AS ok \gset
CALL api.wait_until($$ (SELECT n FROM dblink('admin', 'SELECT count(*) FROM dtx_branches') AS t(n bigint)) = 0 $$);
SELECT * FROM dblink('admin', 'TABLE account') AS t(no integer, balance numeric);

-- nothing is pending: all of it can go
SELECT dblink_disconnect('holder') AS ok \gset
SELECT api.admin('BEGIN');
SELECT left(api.admin('DROP EXTENSION dtx CASCADE'), 5);
SELECT api.admin('ROLLBACK');
-- (rolled back: everything works as before)
SELECT * FROM dblink('admin', $$SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2')$$) AS t(n bigint);
CALL api.settle();
CALL api.wait_until($$ (SELECT n FROM dblink('admin', 'SELECT count(*) FROM dtx_branches') AS t(n bigint)) = 0 $$);
SELECT tag AS tag1 FROM dblink('admin', 'SELECT tag FROM dtx.node') AS t(tag text) \gset
SELECT api.admin('DROP USER MAPPING FOR dtx_api_dropped SERVER peer');
SELECT left(api.admin('DROP EXTENSION dtx'), 5);
SELECT left(api.admin('DROP SERVER peer CASCADE'), 5);
SELECT left(api.admin('DROP EXTENSION dtx CASCADE'), 5);
SELECT * FROM dblink('admin', $$SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dtx%'$$) AS t(n bigint);
SELECT * FROM dblink('admin', $$SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'dtx%'$$) AS t(n bigint);
-- the worker goes too
CALL api.wait_until($$ NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'dtx_regression_drop' AND backend_type = 'dtx worker') $$);
-- a node that is gone is no peer
SELECT api.try($$ SELECT dtx_ping('participant') $$);
SELECT split_part(api.try($$ SELECT dtx_exec('participant', 'UPDATE account SET balance = 0') $$), ':', 1) IN ('55000', '3F000', '42883');
-- functions are gone for sessions that knew them
SELECT split_part(api.admin('DO $x$ BEGIN PERFORM dtx_begin(); END $x$'), ':', 1);
SELECT api.admin('UPDATE account SET balance = 99');
-- created again it is another node, in the same sessions
SELECT api.admin('CREATE EXTENSION dtx');
SELECT tag <> :'tag1' FROM dblink('admin', 'SELECT tag FROM dtx.node') AS t(tag text);
SELECT api.admin(format('CREATE SERVER peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host %L, port %L, dbname ''dtx_regression_peer'')', host, port)) FROM api.place;
SELECT api.admin(format('CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (user %L)', username)) FROM api.place;
SELECT api.admin('DO $x$ BEGIN PERFORM dtx_attach(''account''); END $x$');
SELECT api.admin('BEGIN');
SELECT * FROM dblink('admin', $$SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2')$$) AS t(n bigint);
SELECT xid FROM dblink('admin', 'SELECT dtx_xid()') AS t(xid text) \gset
SELECT api.admin('COMMIT');
SELECT status FROM dblink('admin', format('SELECT dtx_wait(%L)', :'xid')) AS t(status text);
SELECT api.peer_accounts();
SELECT dtx_exec('participant', 'UPDATE account SET balance = balance + 1');
CALL api.wait_until($$ (SELECT n FROM dblink('admin', 'SELECT count(*) FROM dtx_branches') AS t(n bigint)) = 0 $$);
SELECT * FROM dblink('admin', 'TABLE account') AS t(no integer, balance numeric);

-- a branch in an open transaction of another session: whoever drops what it
-- needs is refused, or waits until it is over
CREATE DATABASE dtx_regression_drop2;
\c dtx_regression_drop2
SET client_min_messages = warning;
CREATE EXTENSION dtx;
CREATE TABLE account (no integer PRIMARY KEY, balance numeric);
INSERT INTO account VALUES (1, 100);
SELECT dtx_attach('account');
\c dtx_regression_drop
SET client_min_messages = warning;
CREATE SERVER peer2 FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_drop2');
CREATE USER MAPPING FOR dtx_api_dropped SERVER peer2 OPTIONS (user :'USER', password_required 'false');
GRANT USAGE ON FOREIGN SERVER peer2 TO dtx_api_dropped;
\c dtx_regression
SET client_min_messages = warning;
SELECT dblink_connect('admin', api.dsn('dtx_regression_drop')) AS ok \gset
SELECT dblink_connect('holder', api.dsn('dtx_regression_drop', 'dtx_api_dropped')) AS ok \gset
SELECT api.admin('SET lock_timeout = ''100ms''');
SELECT api.hold_drop('peer2', 'UPDATE account SET balance = balance + 1') AS xid \gset
SELECT split_part(api.admin('DROP USER MAPPING FOR dtx_api_dropped SERVER peer2'), ':', 1) IN ('55006', '55P03');
SELECT split_part(api.admin('DROP SERVER peer2 CASCADE'), ':', 1) IN ('55006', '55P03');
SELECT split_part(api.admin('DROP OWNED BY dtx_api_dropped; DROP ROLE dtx_api_dropped'), ':', 1) <> 'ok';
SELECT split_part(api.admin('DROP EXTENSION dtx CASCADE'), ':', 1) IN ('55006', '55P03');
SELECT dblink_exec('holder', 'COMMIT');
SELECT status FROM dblink('admin', format('SELECT dtx_wait(%L)', :'xid')) AS t(status text);
SELECT balance FROM dblink(api.dsn('dtx_regression_drop2'), 'SELECT balance FROM account') AS t(balance numeric);
SELECT dblink_disconnect('holder') AS ok \gset
-- DROP OWNED BY takes an admission along, and says so; not while the role has branches in doubt
SELECT dblink_exec(api.dsn('dtx_regression_drop2'), 'CREATE ROLE dtx_api_owned LOGIN; GRANT ALL ON account TO dtx_api_owned; DO $x$ BEGIN PERFORM dtx_admit(''dtx_api_owned''); END $x$');
SELECT api.admin(format('CREATE SERVER peer3 FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host %L, port %L, dbname ''dtx_regression_drop2'')', host, port)) FROM api.place;
SELECT api.admin('CREATE USER MAPPING FOR CURRENT_USER SERVER peer3 OPTIONS (user ''dtx_api_owned'')');
SELECT api.admin('BEGIN');
SELECT * FROM dblink('admin', $$SELECT dtx_exec('peer3', 'UPDATE account SET balance = balance + 1')$$) AS t(n bigint);
SELECT xid FROM dblink('admin', 'SELECT dtx_xid()') AS t(xid text) \gset
SELECT left(api.try($$SELECT dblink_exec(api.dsn('dtx_regression_drop2'), 'DROP OWNED BY dtx_api_owned')$$), 5);
SELECT api.admin('COMMIT');
SELECT status FROM dblink('admin', format('SELECT dtx_wait(%L)', :'xid')) AS t(status text);
\c dtx_regression_drop2
DROP OWNED BY dtx_api_owned;
DROP OWNED BY dtx_api_owned;
\c dtx_regression
SET client_min_messages = warning;
DROP ROLE dtx_api_owned;
DROP SERVER participant CASCADE;
DROP DATABASE dtx_regression_drop2 WITH (FORCE);
\c dtx_regression
SET client_min_messages = warning;
DROP DATABASE dtx_regression_drop WITH (FORCE);
-- another of that name is another node
CREATE DATABASE dtx_regression_drop;
\c dtx_regression_drop
SET client_min_messages = warning;
CREATE EXTENSION dtx;
SELECT count(*) FROM dtx.node;
SELECT count(*) FROM dtx_transactions;
SELECT value FROM dtx_stats WHERE name = 'transactions_begun';
-- in a schema of its own
DROP EXTENSION dtx;
CREATE SCHEMA "Elsewhere";
CREATE EXTENSION dtx SCHEMA "Elsewhere";
SELECT "Elsewhere".dtx_begin() IS NOT NULL;
SELECT count(*) FROM "Elsewhere".dtx_branches;
CREATE TABLE api_t (a integer PRIMARY KEY);
SELECT "Elsewhere".dtx_attach_all('public');
\c dtx_regression
SET client_min_messages = warning;
DROP DATABASE dtx_regression_drop;
DROP ROLE dtx_api_dropped;
