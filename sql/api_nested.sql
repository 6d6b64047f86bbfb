--
-- Branches of branches: a branch at the peer goes on to a third database. They
-- are decided with it, whatever becomes of it; none leads back up.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset
DROP DATABASE IF EXISTS dtx_regression_third WITH (FORCE);
CREATE DATABASE dtx_regression_third TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
CREATE FUNCTION api.at_third(statement text) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(answer, ', ') FROM dblink(api.dsn('dtx_regression_third'), $1) AS d(answer text)
$$;
CREATE FUNCTION api.third_accounts() RETURNS text LANGUAGE sql AS
$$ SELECT api.at_third('SELECT no || '' has '' || balance FROM api.account ORDER BY no') $$;
CREATE PROCEDURE api.settle_all() LANGUAGE plpgsql AS $$
BEGIN
  CALL api.settle();
  CALL api.wait_until($c$ api.at_third('SELECT count(*)::text FROM dtx_branches') = '0' $c$);
  CALL api.settle();
END $$;
\c dtx_regression_third
SET client_min_messages = warning;
CREATE EXTENSION dtx;
CREATE SCHEMA api;
CREATE TABLE api.account (no integer PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0));
INSERT INTO api.account VALUES (1, 1000), (2, 2000);
SELECT dtx_attach('api.account');
CREATE SERVER first FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression');
CREATE SERVER peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER first OPTIONS (user :'USER');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (user :'USER');
CREATE FUNCTION api.back(server name) RETURNS bigint LANGUAGE sql AS
$$ SELECT dtx_exec(server, 'UPDATE api.account SET balance = 0') $$;
-- of its own account 2 to account 2 at the peer
CREATE FUNCTION api.pass_to_peer(amount numeric) RETURNS bigint LANGUAGE sql AS $$
  UPDATE api.account SET balance = balance - amount WHERE no = 2;
  SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + $1 WHERE no = 2', amount);
$$;
\c dtx_regression_peer
SET client_min_messages = warning;
CREATE SERVER third FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_third');
CREATE USER MAPPING FOR CURRENT_USER SERVER third OPTIONS (user :'USER');
-- of its own account 1 to account 1 of the third
CREATE FUNCTION api.pass_on(amount numeric) RETURNS bigint LANGUAGE sql AS $$
  UPDATE api.account SET balance = balance - amount WHERE no = 1;
  SELECT dtx_exec('third', 'UPDATE api.account SET balance = balance + $1 WHERE no = 1', amount);
$$;
-- the same, at the second attempt
CREATE FUNCTION api.pass_on_later(amount numeric) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    PERFORM api.pass_on(amount + 1);
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN NULL;
  END;
  RETURN api.pass_on(amount);
END $$;
-- and in two branches
CREATE FUNCTION api.pass_on_twice(amount numeric) RETURNS bigint LANGUAGE sql AS $$
  SELECT api.pass_on(amount) + api.pass_on(amount);
$$;
CREATE FUNCTION api.go_back(server name) RETURNS bigint LANGUAGE sql AS
$$ SELECT a FROM dtx_query('third', format('SELECT api.back(%L)', server)) AS t(a bigint) $$;
\c dtx_regression
SET client_min_messages = warning;
CREATE SERVER third FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'HOST', port :'PORT', dbname 'dtx_regression_third');
CREATE USER MAPPING FOR CURRENT_USER SERVER third OPTIONS (user :'USER');

-- commit: while it is open, all of it is in doubt, and belongs to one transaction
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on(10)') AS t(n bigint);
SELECT api.peer_accounts(), api.third_accounts();
SELECT api.mask(api.at_third('SELECT gid FROM dtx.joined_branch WHERE state = ''d'''));
SELECT api.mask(api.at_peer('SELECT gid || '', a branch of '' || parent || '', '' || state::text FROM dtx.branch'));
SELECT api.at_peer('SELECT dtx_status(''' || :'xid' || ''')'), api.at_third('SELECT dtx_status(''' || :'xid' || ''')');
SELECT api.at_third('SELECT count(*)::text FROM dtx_undo');
-- the third knows that the peer has begun it, and in which transaction
SELECT api.at_third('SELECT count(*)::text FROM dtx.branch_pending(ARRAY[''' || regexp_replace(:'xid', ':.*', '') || '''], 1)');
SELECT api.at_third(format('SELECT n::text FROM dtx.branch_pending(ARRAY[%L], 1)', api.at_peer('SELECT name || ''.'' || tag FROM dtx.node')))
  = api.at_peer('SELECT local_n::text FROM dtx.joined_branch WHERE state = ''d''');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
SELECT DISTINCT branch, outcome FROM dtx_history WHERE xid = :'xid';
-- rollback
BEGIN;
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on(10)') AS t(n bigint);
SELECT dtx_xid() AS xid \gset
SELECT api.peer_accounts(), api.third_accounts();
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
-- a branch that fails takes its own along
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1 / (api.pass_on(10) - 1)') AS t(n bigint) $$);
CALL api.settle_all();
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT api.pass_on(-10000)') AS t(n bigint) $$);
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
-- savepoints inside the branch
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on_later(20)') AS t(n bigint);
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
BEGIN;
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on_later(20)') AS t(n bigint);
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on_twice(2)') AS t(n bigint);
ROLLBACK;
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on_twice(2)') AS t(n bigint);
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
-- no way leads back, to the coordinator or to the branch above
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT api.go_back(''first'')') AS t(n bigint) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT api.go_back(''peer'')') AS t(n bigint) $$);
-- two ways to one node are possible: its branches are undone together, last first
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance * 2 WHERE no = 2');
SELECT * FROM dtx_query('third', 'SELECT api.pass_to_peer(100)') AS t(n bigint);
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance * 2 WHERE no = 2');
SELECT api.peer_accounts(), api.third_accounts();
ROLLBACK;
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance * 2 WHERE no = 2');
SELECT * FROM dtx_query('third', 'SELECT api.pass_to_peer(100)') AS t(n bigint);
COMMIT;
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();

-- a savepoint around the branch: what it did is undone, at the third as well, before the transaction comes there again
BEGIN;
SAVEPOINT s;
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on(30)') AS t(n bigint);
ROLLBACK TO s;
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on(3)') AS t(n bigint);
SAVEPOINT s;
SELECT * FROM dtx_query('peer', 'SELECT api.pass_on(30)') AS t(n bigint);
ROLLBACK TO s;
SELECT dtx_exec('third', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
COMMIT;
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();

-- nor if the branch itself fails, after its own branch was done: the transaction catches that, and goes on
-- through the peer, and past it
DO $$
BEGIN
  BEGIN
    PERFORM * FROM dtx_query('peer', 'SELECT 1 / (api.pass_on(30) - 1)') AS t(n bigint);
  EXCEPTION WHEN division_by_zero THEN
    PERFORM * FROM dtx_query('peer', 'SELECT api.pass_on(3)') AS t(n bigint);
  END;
  BEGIN
    PERFORM * FROM dtx_query('peer', 'SELECT 1 / (api.pass_on(30) - 1)') AS t(n bigint);
  EXCEPTION WHEN division_by_zero THEN
    PERFORM dtx_exec('third', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
  END;
END $$;
CALL api.settle_all();
SELECT api.peer_accounts(), api.third_accounts();

-- nothing is left of all that
SELECT api.at_peer('SELECT count(*)::text FROM dtx.branch'), api.at_peer('SELECT count(*)::text FROM dtx.undo_log'),
  api.at_third('SELECT count(*)::text FROM dtx.branch'), api.at_third('SELECT count(*)::text FROM dtx.undo_log');
\c dtx_regression_peer
SET client_min_messages = warning;
DROP FUNCTION api.pass_on(numeric), api.pass_on_later(numeric), api.pass_on_twice(numeric), api.go_back(name);
DROP SERVER third CASCADE;
\c dtx_regression
SET client_min_messages = warning;
DROP SERVER third CASCADE;
DROP FUNCTION api.at_third(text), api.third_accounts();
DROP PROCEDURE api.settle_all();
DROP DATABASE dtx_regression_third WITH (FORCE);
