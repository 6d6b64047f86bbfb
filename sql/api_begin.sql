--
-- dtx_begin, dtx_xid, dtx_exec and dtx_query: what they do when all is well,
-- and how they follow the local transaction and its savepoints.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset

-- outside a global transaction there is no xid
SELECT dtx_xid() IS NULL;

-- dtx_begin returns the xid; dtx_xid says the same until the end, then NULL again
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT :'xid' ~ '^dtx_regression\.[0-9a-f]{8}:[1-9][0-9]*\.[0-9a-f]{16}$';
SELECT dtx_xid() = :'xid';
-- N is the transaction's own id
SELECT split_part(split_part(:'xid', ':', 2), '.', 1) = pg_current_xact_id()::text;
-- it begins once
SELECT dtx_begin();
SELECT dtx_xid();
ROLLBACK;
SELECT dtx_xid() IS NULL;

-- every global transaction has an xid of its own
BEGIN;
SELECT dtx_begin('at') AS other \gset
COMMIT;
SELECT :'xid' <> :'other';
SELECT dtx_xid() IS NULL;

-- a savepoint's rollback does not end it: still one, still the same; but it may be begun anew
BEGIN;
SAVEPOINT s;
SELECT dtx_begin() AS xid \gset
ROLLBACK TO s;
SELECT dtx_xid() = :'xid';
SELECT api.try('SELECT dtx_begin()');
COMMIT;

-- modes, timeouts and NULLs
SELECT api.try($$ SELECT dtx_begin('2pc') $$);
SELECT api.try($$ SELECT dtx_begin('') $$);
SELECT api.try($$ SELECT dtx_begin('AT') $$);
SELECT api.try($$ SELECT dtx_begin(NULL) $$);
SELECT api.try($$ SELECT dtx_begin('at', '0') $$);
SELECT api.try($$ SELECT dtx_begin('at', '-1 second') $$);
SELECT api.try($$ SELECT dtx_begin('at', '1 year') $$);
SELECT api.try($$ SELECT dtx_begin(timeout => '200000000 years') $$);
-- a timeout that fits, and none
SELECT api.try($$ SELECT dtx_begin('at', '1 hour') $$);
SELECT api.try($$ SELECT dtx_begin('at', NULL) $$);
-- a refused dtx_begin begins nothing
BEGIN;
SELECT api.try($$ SELECT dtx_begin('2pc') $$);
SELECT dtx_xid() IS NULL;
COMMIT;

-- dtx_exec returns the number of rows, and begins a global transaction itself
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0 WHERE no = 99');
SELECT dtx_exec('peer', $$INSERT INTO api.account SELECT g, g FROM generate_series(10, 14) g$$);
SELECT dtx_exec('peer', 'DELETE FROM api.account WHERE no > 12');
SELECT dtx_exec('peer', $$MERGE INTO api.account a USING (VALUES (10), (11), (12)) v(no) ON a.no = v.no
  WHEN MATCHED AND a.no = 10 THEN UPDATE SET balance = 1000 WHEN MATCHED THEN DELETE$$);
SELECT dtx_exec('peer', $$WITH gone AS (DELETE FROM api.account WHERE no = 10 RETURNING *)
  INSERT INTO api.account SELECT no + 100, balance FROM gone$$);
SELECT dtx_exec('peer', $$INSERT INTO api.account VALUES (1, 1) ON CONFLICT DO NOTHING$$);
-- what affects no rows: 0
SELECT dtx_exec('peer', 'DO $do$ BEGIN UPDATE api.account SET balance = balance + 1 WHERE no = 1; END $do$');
-- each call was a branch
SELECT dtx_xid() IS NOT NULL;
SELECT count(*) FROM dtx.branch;
-- phase 1 is committed at the peer, and in doubt
SELECT api.in_doubt_at_peer();
SELECT api.peer_accounts();
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
-- after the commit nothing is left to settle
SELECT count(*) FROM dtx.branch;

-- a rollback takes all of it back
SELECT api.reset_peer() AS ok \gset
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
SELECT dtx_exec('peer', 'DELETE FROM api.account WHERE no = 1');
SELECT api.peer_accounts();
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();

-- so does a local error
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
SELECT 1/0;
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();

-- and a local constraint that fails at the commit only
CREATE TEMP TABLE here (a integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO here VALUES (1), (1);
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
-- without BEGIN, a statement is a global transaction
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 5 WHERE no = 1');
CALL api.settle();
SELECT api.peer_accounts();
-- of any number of calls
SELECT sum(dtx_exec('peer', 'UPDATE api.account SET balance = balance + 5 WHERE no = $1', 1 + g % 2)) FROM generate_series(1, 9) g;
CALL api.settle();
SELECT api.peer_accounts();
SELECT 1 / (dtx_exec('peer', 'UPDATE api.account SET balance = balance + 5 WHERE no = 1') - 1);
CALL api.settle();
SELECT api.peer_accounts();

-- local and remote changes commit together
CREATE TABLE api.local (a integer);
BEGIN;
INSERT INTO api.local VALUES (1);
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 1 WHERE no = 1');
COMMIT;
BEGIN;
INSERT INTO api.local VALUES (2);
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 2 WHERE no = 1');
ROLLBACK;
CALL api.settle();
TABLE api.local;
SELECT api.peer_accounts();
DROP TABLE api.local;

--
-- dtx_query
--
SELECT api.reset_peer() AS ok \gset
SELECT * FROM dtx_query('peer', 'SELECT no, balance FROM api.account ORDER BY no') AS t(no integer, balance numeric);
SELECT * FROM dtx_query('peer', 'SELECT no, balance, note FROM api.account WHERE no = $1', 2) AS t(no integer, balance numeric, note text);
-- no rows; NULLs; other types of the same text
SELECT count(*) FROM dtx_query('peer', 'SELECT 1 WHERE false') AS t(a integer);
SELECT a IS NULL, b FROM dtx_query('peer', $$SELECT NULL, ''$$) AS t(a text, b text);
SELECT * FROM dtx_query('peer', 'SELECT 1, 2.50') AS t(a text, b double precision);
-- many rows
SELECT count(*), sum(g), max(length(t)) FROM dtx_query('peer', $$SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g$$) AS t(g integer, t text);
-- joined with local data, called for each row
SELECT g, balance FROM generate_series(1, 2) g,
  dtx_query('peer', 'SELECT balance FROM api.account WHERE no = $1', g) AS t(balance numeric) ORDER BY g;
-- RETURNING: the branch's rows
BEGIN;
SELECT * FROM dtx_query('peer', $$INSERT INTO api.account VALUES (3, 300), (4, 400) RETURNING no, balance$$) AS t(no integer, balance numeric);
SELECT * FROM dtx_query('peer', $$UPDATE api.account SET balance = balance + 1 WHERE no = 3 RETURNING balance$$) AS t(balance numeric);
SELECT api.peer_accounts();
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();
-- a function with side effects: they are the branch's
\c dtx_regression_peer
CREATE FUNCTION api.deposit(which integer, amount numeric) RETURNS numeric LANGUAGE sql AS
$$ UPDATE api.account SET balance = balance + amount WHERE no = which RETURNING balance $$;
\c dtx_regression
SET client_min_messages = warning;
BEGIN;
SELECT * FROM dtx_query('peer', 'SELECT api.deposit(1, $1)', 11) AS t(balance numeric);
SELECT api.in_doubt_at_peer();
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();
SELECT * FROM dtx_query('peer', 'SELECT api.deposit(1, $1)', 11) AS t(balance numeric);
CALL api.settle();
SELECT api.peer_accounts();
-- what returns no rows has no columns
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'UPDATE api.account SET balance = 0') AS t(a integer) $$);
-- SHOW and EXPLAIN return rows
SELECT * FROM dtx_query('peer', 'SHOW transaction_isolation') AS t(level text);
SELECT * FROM dtx_query('peer', 'EXPLAIN (COSTS off) SELECT 1') AS t(line text);
-- the column definition list must fit: too few, too many, a type that the value is not of
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1, 2') AS t(a integer) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(a integer, b integer) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT ''x''') AS t(a integer) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 100000') AS t(a smallint) $$);
-- and be there
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'SELECT 1') $$);
SELECT api.try($$ SELECT dtx_query('peer', 'SELECT 1') $$);
-- what such a statement did at the peer is undone
SELECT api.try($$ SELECT * FROM dtx_query('peer', 'UPDATE api.account SET balance = 0 RETURNING no') AS t(a integer, b integer) $$);
CALL api.settle();
SELECT api.peer_accounts();

-- NULL arguments
SELECT api.try($$ SELECT dtx_exec(NULL, 'SELECT 1') $$);
SELECT api.try($$ SELECT dtx_exec('peer', NULL) $$);
SELECT api.try($$ SELECT dtx_exec('peer', NULL, 1) $$);
SELECT api.try($$ SELECT * FROM dtx_query(NULL, 'SELECT 1') AS t(a integer) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', NULL) AS t(a integer) $$);
SELECT api.try($$ SELECT * FROM dtx_query('peer', NULL, 1) AS t(a integer) $$);

--
-- Savepoints and exception blocks: a branch lives and dies with the
-- subtransaction that made it.
--
SELECT api.reset_peer() AS ok \gset
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 1 WHERE no = 1');
SAVEPOINT a;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 2 WHERE no = 1');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 3 WHERE no = 1');
ROLLBACK TO a;
-- compensated before the transaction runs anything more there
SELECT * FROM dtx_query('peer', 'SELECT balance FROM api.account WHERE no = 1') AS t(balance numeric);
SAVEPOINT b;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 10 WHERE no = 2');
RELEASE b;
-- an error of the peer aborts to the savepoint only
SAVEPOINT c;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = -1 WHERE no = 1');
ROLLBACK TO c;
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();

-- released into a savepoint that is rolled back
SELECT api.reset_peer() AS ok \gset
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 1 WHERE no = 1');
RELEASE b;
ROLLBACK TO a;
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();

-- in PL/pgSQL: the error is caught, the transaction goes on, nothing is left of the failed branch
DO $$
DECLARE
  state text;
BEGIN
  PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
  BEGIN
    PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = balance + 100 WHERE no = 2');
    PERFORM dtx_exec('peer', 'INSERT INTO api.account VALUES (1, 1)');
  EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
  END;
  PERFORM dtx_exec('peer', 'UPDATE api.account SET note = $1 WHERE no = 2', state);
END $$;
CALL api.settle();
SELECT api.at_peer('SELECT no || '' has '' || balance || coalesce('' '' || note, '''') FROM api.account ORDER BY no');
-- the block is the last thing that the transaction does
DO $$
BEGIN
  PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
  BEGIN
    PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = balance + 100 WHERE no = 2');
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN NULL;
  END;
END $$;
CALL api.settle();
SELECT api.peer_accounts();
-- procedures that commit: each transaction is a global one of its own
CREATE PROCEDURE api.steps() LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = 11 WHERE no = 1');
  COMMIT;
  PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = 22 WHERE no = 1');
  ROLLBACK;
  PERFORM dtx_exec('peer', 'UPDATE api.account SET balance = 33 WHERE no = 2');
END $$;
CALL api.steps();
CALL api.settle();
SELECT api.peer_accounts();

--
-- Isolation levels and access modes
--
SELECT api.reset_peer() AS ok \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
SELECT * FROM dtx_query('peer', 'SELECT count(*) FROM api.account') AS t(n bigint);
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
SAVEPOINT s;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1');
ROLLBACK TO s;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 10');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1000');
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();
-- a read-only transaction cannot decide anything
BEGIN READ ONLY;
SELECT dtx_begin();
ROLLBACK;
BEGIN READ ONLY;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(a integer);
ROLLBACK;
SET default_transaction_read_only = on;
SELECT dtx_transfer('peer', '1', '2', 1);
RESET default_transaction_read_only;
-- nor one that became read-only on the way
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SET TRANSACTION READ ONLY;
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') $$);
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();

-- PREPARE TRANSACTION: refused when there are branches
SELECT current_setting('max_prepared_transactions')::integer > 0 AS can_prepare \gset
\if :can_prepare
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0') AS rows \gset
\set VERBOSITY sqlstate
PREPARE TRANSACTION 'api';
\set VERBOSITY default
ROLLBACK;
\else
\echo 'ERROR:  55000'
\endif
CALL api.settle();
SELECT api.peer_accounts();
DROP PROCEDURE api.steps();
