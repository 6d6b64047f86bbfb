--
-- XA: branches that stay open at their peers until the local transaction ends.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT m.settled();
CREATE FUNCTION m.add(amount numeric, account integer DEFAULT 1, server text DEFAULT 'peer') RETURNS bigint LANGUAGE sql AS
$$ SELECT dtx_exec(server, 'UPDATE m.account SET balance = balance + $1 WHERE no = $2', amount, account) $$;
CREATE FUNCTION m.here(amount numeric, which integer DEFAULT 1) RETURNS void LANGUAGE sql AS
$$ UPDATE m.account SET balance = balance + amount WHERE no = which $$;
CREATE FUNCTION m.balances(server text DEFAULT 'peer') RETURNS text LANGUAGE sql AS
$$ SELECT * FROM dtx_query(server, 'SELECT string_agg(balance::text, '' '' ORDER BY no) FROM m.account') AS t(b text) $$;

-- several statements in one branch, which reads its own writes; nobody else sees them
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(10), m.add(-3, 2), m.here(-7);
SELECT m.balances();
SELECT m.add(5), m.here(-5);
SELECT m.balances();
SELECT m.at('b', 'SELECT balance FROM m.account ORDER BY no');
SELECT m.add(1, server => 'c'), m.here(-1);
-- one branch a peer: in the transaction, not in doubt
SELECT branches FROM dtx_transactions;
SELECT m.at('b', 'SELECT count(*) FROM dtx_branches');
SELECT m.at('b', 'SELECT count(*) FROM pg_prepared_xacts');
-- rows are locked as PostgreSQL locks them
SELECT m.connect('other', 'b');
SELECT m.run('other', 'SET lock_timeout = 50');
SELECT m.run('other', 'UPDATE m.account SET balance = 0 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT branch, outcome, server FROM dtx_history WHERE xid = :'xid' ORDER BY branch;
SELECT m.settled();
-- no undo was written, and none is needed
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1000), m.add(1000, 2), m.add(1000, server => 'c');
SELECT m.at('b', 'SELECT count(*) FROM dtx.undo_log');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- savepoints, three deep
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1);
SAVEPOINT one;
SELECT m.add(2);
SAVEPOINT two;
SELECT m.add(4);
SAVEPOINT three;
SELECT m.add(8);
SELECT m.balances();
ROLLBACK TO three;
SELECT m.balances();
SELECT m.add(16);
ROLLBACK TO two;
SELECT m.add(32);
SELECT m.balances();
RELEASE two;
SELECT m.add(64);
SELECT m.balances();
ROLLBACK TO one;
SELECT m.balances();
SELECT m.add(128);
RELEASE one;
SELECT m.balances();
SELECT m.here(-129);
COMMIT;
SELECT m.settled();
-- savepoints in which nothing ran there, and those that were gone before the branch came
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SAVEPOINT zero;
SAVEPOINT one;
SELECT m.add(1);
RELEASE one;
SAVEPOINT two;
SAVEPOINT three;
ROLLBACK TO three;
RELEASE three;
ROLLBACK TO two;
SAVEPOINT four;
SAVEPOINT five;
SELECT m.add(2);
RELEASE five;
SAVEPOINT six;
SELECT m.add(4);
ROLLBACK TO four;
SELECT m.balances();
ROLLBACK TO zero;
SELECT m.balances();
SELECT m.add(8), m.here(-8);
ROLLBACK TO zero;
SELECT m.add(16), m.here(-16);
COMMIT;
SELECT m.settled();
-- a savepoint that is rolled back last, with nothing after it
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.here(-1);
SAVEPOINT one;
SELECT m.add(2);
SAVEPOINT two;
SELECT m.add(4, server => 'c');
ROLLBACK TO one;
COMMIT;
SELECT m.settled();
-- the whole branch inside a savepoint that is rolled back
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1, server => 'c'), m.here(-1);
SAVEPOINT one;
SELECT m.add(2);
ROLLBACK TO one;
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- exception blocks, nested, in a loop; some succeed and some fail
DO $$
DECLARE
  kept integer := 0;
BEGIN
  PERFORM dtx_begin('xa');
  FOR i IN 1 .. 10 LOOP
    BEGIN
      PERFORM m.add(i);
      BEGIN
        PERFORM m.add(100 * i, 2);
        BEGIN
          PERFORM m.add(1000 * i, server => 'c');
          RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
          PERFORM m.add(-100 * i, 2);
        END;
        IF i % 3 = 0 THEN
          RAISE EXCEPTION 'not this one';
        END IF;
      EXCEPTION WHEN raise_exception THEN
        PERFORM m.add(-i);
        kept := kept - i;
      END;
      IF i % 4 = 0 THEN
        RAISE no_data_found;
      END IF;
      kept := kept + i;
    EXCEPTION WHEN no_data_found THEN
      NULL;
    END;
  END LOOP;
  PERFORM m.here(-kept);
  RAISE INFO 'kept %', kept;
END $$;
SELECT m.settled();
-- a block that is left and entered again, with another mode in it
DO $$
BEGIN
  PERFORM dtx_begin('xa');
  PERFORM m.add(1);
  BEGIN
    PERFORM m.add(2);
    PERFORM dtx_try('peer', 'credit', '{"no": 1, "amount": 600}');
  EXCEPTION WHEN check_violation THEN
    PERFORM dtx_try('peer', 'credit', '{"no": 2, "amount": 4}');
    PERFORM m.here(-5);
  END;
END $$;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');

-- a statement that fails inside a savepoint: what came before stays
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.here(-1);
SELECT m.try($$SELECT dtx_exec('peer', 'UPDATE m.account SET balance = -1')$$);
SELECT m.try($$SELECT dtx_exec('peer', 'UPDATE nonsense SET a = 1')$$);
SELECT m.try($$SELECT dtx_exec('peer', 'nonsense')$$);
SELECT m.try($$SELECT dtx_exec('peer', '')$$);
SELECT m.try($$SELECT dtx_exec('peer', 'SELECT 1')$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT 1/0') AS t(a integer)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT 1') AS t(a integer, b integer)$$);
SELECT m.try($$SELECT dtx_exec('peer', 'UPDATE m.account SET balance = $1', 'ten'::text)$$);
SELECT m.try($$SELECT dtx_exec('peer', 'UPDATE m.account SET balance = 0; UPDATE m.account SET balance = 0')$$);
SELECT m.balances();
SELECT m.add(2), m.here(-2);
COMMIT;
SELECT m.settled();
-- the first one that fails: nothing is there
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.try($$SELECT dtx_exec('peer', 'UPDATE nonsense SET a = 1')$$);
SELECT m.add(1), m.here(-1);
COMMIT;
SELECT m.settled();
-- outside of one: the transaction is over, at the peer too
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.add(1, server => 'c');
SELECT dtx_exec('peer', 'UPDATE nonsense SET a = 1');
SELECT m.add(1);
COMMIT;
SELECT m.settled();

-- what fails only at the end: one that cannot prepare rolls all back
SELECT m.at('b', 'CREATE TABLE m.late (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED)');
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1, server => 'c'), m.here(1);
SELECT dtx_exec('peer', 'INSERT INTO m.late VALUES (1), (1)');
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT count(*) FROM m.late');
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1, server => 'c'), m.here(1), m.add(1);
SELECT dtx_exec('peer', 'CREATE TEMP TABLE scratch AS SELECT 1 AS a');
COMMIT;
SELECT m.settled();
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1, server => 'c'), m.add(1);
SELECT * FROM dtx_query('peer', 'SELECT count(*) FROM (SELECT pg_advisory_lock(7)) AS x') AS t(n bigint);
SELECT * FROM dtx_query('peer', 'SELECT pg_advisory_unlock(7)') AS t(b boolean);
SELECT dtx_exec('peer', 'INSERT INTO m.late VALUES (1)');
SAVEPOINT one;
-- a savepoint takes the reason away
SELECT dtx_exec('peer', 'INSERT INTO m.late VALUES (1)');
ROLLBACK TO one;
SELECT m.here(-2);
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'TABLE m.late');
-- here it fails: they roll back too
CREATE TABLE m.late (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1, server => 'c'), m.add(1);
INSERT INTO m.late VALUES (1), (1);
COMMIT;
SELECT m.settled();
DROP TABLE m.late;

-- nothing leaves the branch
CREATE FUNCTION m.leave(statement text) RETURNS text LANGUAGE sql AS $$ SELECT m.try(format('SELECT dtx_exec(%L, %L)', 'peer', statement)) $$;
SELECT m.at('b', 'CREATE PROCEDURE m.committing() LANGUAGE plpgsql AS ''BEGIN COMMIT; END''');
SELECT m.at('b', 'CREATE PROCEDURE m.rolling_back() LANGUAGE plpgsql AS ''BEGIN ROLLBACK; END''');
SELECT m.at('b', 'CREATE PROCEDURE m.harmless() LANGUAGE plpgsql AS ''BEGIN UPDATE m.account SET balance = balance; END''');
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.here(-1);
SELECT m.leave(statement) FROM unnest('{COMMIT,END,ROLLBACK,ABORT,BEGIN,START TRANSACTION,SAVEPOINT x,SAVEPOINT dtx_1,RELEASE x,RELEASE dtx_1,ROLLBACK TO dtx_1,
PREPARE TRANSACTION ''mine'',COMMIT AND CHAIN,ROLLBACK AND CHAIN,COMMIT PREPARED ''mine'',ROLLBACK PREPARED ''mine'',
CALL m.committing(),CALL m.rolling_back(),DO ''BEGIN COMMIT; END'',DO ''BEGIN ROLLBACK; END'',
DO ''BEGIN CALL m.committing(); END'',DO ''BEGIN EXECUTE $x$ROLLBACK$x$; END''}'::text[]) AS statement;
SELECT m.leave('CALL m.harmless()');
SELECT m.leave('DO ''BEGIN UPDATE m.account SET balance = balance; END''');
SELECT m.leave(statement) FROM unnest('{SET work_mem = 64,SET SESSION AUTHORIZATION DEFAULT,RESET work_mem,DISCARD ALL,DEALLOCATE ALL,PREPARE p AS SELECT 1,LISTEN x,LOAD ''x'',SET dtx.unattached = allow}'::text[]) AS statement;
SELECT m.leave('SET LOCAL work_mem = 64');
-- the ways of the coordinator
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx.branch_control(1)::text') AS t(a text)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx.branch_control(0)::text') AS t(a text)$$);
SELECT m.leave($$SELECT dtx.branch_settle('{}', 1, 0, '{}', '{}', '', '{}')$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT outcome FROM dtx.branch_settle(''{x.12345678}'', 1, 0, ''{}'', ''{}'', '''', ''{}'')') AS t(a text)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx.branch_join(''x.12345678:1.0123456789abcdef/1'', ''at'', 0, 0, 1, 0)') AS t(a text)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx.branch_enter(0)::text') AS t(a text)$$);
SELECT m.leave('SELECT dtx_join(''x.12345678:1.0123456789abcdef'')');
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx_open()') AS t(a text)$$);
SELECT m.balances();
-- the settings that it made are gone with it
COMMIT;
SELECT m.settled();
SELECT * FROM dtx_query('peer', $$SELECT current_setting('work_mem') = boot_val || 'kB' OR current_setting('work_mem') <> '64kB' FROM pg_settings WHERE name = 'work_mem'$$) AS t(kept boolean);
SELECT m.settled();
-- by hand: only who knows the token controls
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT dtx.branch_join('alone.0000abce:1.00000000deadbeef/1', 'xa', 0, 0, 1, 4711)$$);
SELECT m.run('other', 'SAVEPOINT x');
SELECT m.run('other', 'ROLLBACK');
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT dtx.branch_join('alone.0000abce:1.00000000deadbeef/1', 'xa', 0, 0, 1, 4711)$$);
SELECT m.run('other', 'SELECT dtx.branch_control(4711)');
SELECT m.run('other', 'SAVEPOINT x');
SELECT m.run('other', 'SELECT dtx.branch_enter(0)');
SELECT m.run('other', 'COMMIT');
SELECT m.run('other', 'ROLLBACK');
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT dtx.branch_join('alone.0000abce:1.00000000deadbeef/1', 'xa', 0, 0, 1, 4711)$$);
SELECT m.run('other', 'SELECT dtx.branch_control(4711)');
-- not committed, and prepared under its own name only
SELECT m.run('other', 'COMMIT');
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT dtx.branch_join('alone.0000abce:1.00000000deadbeef/1', 'xa', 0, 0, 1, 4711)$$);
SELECT m.run('other', 'SELECT dtx.branch_control(4711)');
SELECT m.run('other', $$PREPARE TRANSACTION 'alone.0000abce:1.00000000deadbeef/2'$$);
SELECT m.run('other', 'ROLLBACK');
-- an AT branch cannot be prepared
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT dtx.branch_join('alone.0000abce:1.00000000deadbeef/1', 'at', 0, 0, 1, 0)$$);
SELECT m.run('other', $$PREPARE TRANSACTION 'alone.0000abce:1.00000000deadbeef/1'$$);
SELECT m.run('other', 'ROLLBACK');
SELECT m.bye('other');
SELECT m.settled();

-- no undo log is kept: tables that are not attached, TRUNCATE and DDL are allowed
SELECT m.at('b', 'CREATE TABLE m.plain (a integer)');
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT dtx_exec('peer', 'INSERT INTO m.plain VALUES (1), (2)');
SELECT dtx_exec('peer', 'ALTER TABLE m.plain ADD COLUMN b integer');
SELECT dtx_exec('peer', 'CREATE TABLE m.made AS SELECT 1 AS a');
SELECT dtx_exec('peer', 'TRUNCATE m.late');
ROLLBACK;
SELECT m.settled();
SELECT m.at('b', $$SELECT (SELECT count(*) FROM m.plain) || ' ' || (to_regclass('m.made') IS NULL) || ' ' || (SELECT count(*) FROM m.late)$$);
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT dtx_exec('peer', 'INSERT INTO m.plain VALUES (1), (2)');
SELECT dtx_exec('peer', 'ALTER TABLE m.plain ADD COLUMN b integer');
SELECT dtx_exec('peer', 'CREATE TABLE m.made AS SELECT 1 AS a');
SELECT dtx_exec('peer', 'TRUNCATE m.late');
COMMIT;
SELECT m.settled();
SELECT m.at('b', $$SELECT (SELECT count(b) FROM m.plain) || ' ' || (to_regclass('m.made') IS NULL) || ' ' || (SELECT count(*) FROM m.late)$$);
SELECT m.at('b', 'DROP TABLE m.plain, m.made, m.late');
SELECT m.at('b', 'DROP PROCEDURE m.committing(), m.rolling_back(), m.harmless()');

-- AT, TCC and XA in one transaction
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.here(-1);
SELECT dtx_try('peer', 'credit', '{"no": 2, "amount": 2}');
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 2}');
SELECT dtx_try('c', 'credit', '{"no": 2, "amount": 4}');
SELECT m.add(-4, server => 'c');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT branch, outcome, server FROM dtx_history WHERE xid = :'xid' ORDER BY branch;
SELECT m.settled();
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.here(-1);
SELECT dtx_try('peer', 'credit', '{"no": 2, "amount": 2}');
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 2}');
SELECT dtx_try('c', 'credit', '{"no": 2, "amount": 4}');
SELECT m.add(-4, server => 'c');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
-- at peers of peers each has its own mode: AT at c, called from an XA branch at b
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(-1);
SELECT * FROM dtx_query('peer', $$SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 1 WHERE no = 1')$$) AS t(n bigint);
COMMIT;
SELECT m.settled();
-- a global transaction's mode is set once
BEGIN;
SELECT m.add(-1), m.here(1);
SELECT m.try($$SELECT dtx_begin('xa')$$);
ROLLBACK;
SELECT m.try($$SELECT dtx_begin('xb')$$);
SELECT m.try($$SELECT dtx_begin('XA')$$);
SELECT m.settled();

-- a timeout, before and at the end
BEGIN;
SELECT dtx_begin('xa', '300 ms') IS NOT NULL;
SELECT m.add(1);
CALL m.until('(SELECT clock_timestamp() > deadline FROM dtx_transactions WHERE xid = dtx_xid())');
SELECT m.try($$SELECT m.add(1)$$);
ROLLBACK;
BEGIN;
SELECT dtx_begin('xa', '300 ms') IS NOT NULL;
SELECT m.add(1), m.here(-1);
CALL m.until('(SELECT clock_timestamp() > deadline FROM dtx_transactions WHERE xid = dtx_xid())');
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
BEGIN;
SELECT dtx_begin('xa', '300 ms') IS NOT NULL;
SELECT m.try($$SELECT dtx_exec('peer', 'DO ''BEGIN PERFORM pg_sleep(30); END''')$$);
ROLLBACK;
SELECT m.settled();

-- the session at the peer dies: all of it is rolled back
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.add(1, server => 'c');
SELECT m.at('b', $$SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'dtx' AND datname = current_database() AND state = 'idle in transaction'$$);
SELECT split_part(m.try($$SELECT m.add(1)$$), ':', 1);
SELECT split_part(m.try($$SELECT m.add(1)$$), ':', 1);
SELECT m.add(1, server => 'c');
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT m.settled();
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.add(1), m.here(-1);
COMMIT;
SELECT m.settled();
SELECT m.said(), m.at('b', 'SELECT m.said()'), m.at('c', 'SELECT m.said()');

UPDATE m.account SET balance = 1000;
SELECT m.at('b', 'UPDATE m.account SET balance = 1000'), m.at('c', 'UPDATE m.account SET balance = 1000');
DROP FUNCTION m.add(numeric, integer, text), m.here(numeric, integer), m.balances(text), m.leave(text);
SELECT m.settled();
