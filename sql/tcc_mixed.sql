--
-- TCC beside AT and XA in one global transaction, on the same rows.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
CREATE FUNCTION m.add(amount numeric, which integer DEFAULT 1) RETURNS bigint LANGUAGE sql AS
$$ SELECT dtx_exec('peer', 'UPDATE m.account SET balance = balance + $1 WHERE no = $2', amount, which) $$;
CREATE FUNCTION m.here(amount numeric, which integer DEFAULT 1) RETURNS void LANGUAGE sql AS
$$ UPDATE m.account SET balance = balance + amount WHERE no = which $$;

-- the row that an AT branch holds is changed by a try: cancelled, then undone
BEGIN;
SELECT m.add(1);
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- confirmed, where the confirm changes such a row
BEGIN;
SELECT m.add(1), m.here(-1);
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 7}');
SELECT m.here(-7);
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- the other way round, and in between
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}');
SELECT m.add(1);
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 8}');
SELECT m.add(2);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}');
SELECT m.add(1);
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 8}');
SELECT m.add(2);
SELECT m.here(12);
COMMIT;
SELECT m.settled();
-- taken back by savepoints
BEGIN;
SELECT m.add(1), m.here(-1);
SAVEPOINT one;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}');
ROLLBACK TO one;
SELECT m.add(2), m.here(-2);
SAVEPOINT two;
SELECT m.add(4);
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 8}');
ROLLBACK TO two;
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- another global transaction's row is another's
SELECT m.connect('holder', 'a');
SELECT m.run('holder', 'BEGIN');
SELECT m.run('holder', 'SELECT m.add(1)');
SET dtx.lock_timeout = 100;
SELECT split_part(m.try($$SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}')$$), ':', 1);
RESET dtx.lock_timeout;
-- a confirm waits for it, and is tried again
BEGIN;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 7}');
SELECT m.here(-7);
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '1.5 s');
SELECT m.run('holder', 'SELECT m.here(-1)');
SELECT m.run('holder', 'COMMIT');
SELECT m.bye('holder');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- an XA branch holds its rows as any open transaction does: a try cannot have them
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SET LOCAL dtx.lock_timeout = 100;
SELECT m.add(1), m.here(-1);
SELECT split_part(m.try($$SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}')$$), ':', 1);
SELECT dtx_try('peer', 'debit', '{"no": 2, "amount": 7}');
SELECT m.here(7);
COMMIT;
SELECT m.settled();
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT dtx_try('peer', 'debit', '{"no": 2, "amount": 7}');
SELECT m.add(1);
-- what the try did is committed: the XA branch goes on from there, and holds the row that the cancel needs
SELECT m.add(1, 2);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- a transfer's two sides in two modes
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 2, "amount": 5}');
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 5 WHERE no = 2');
COMMIT;
SELECT m.settled();
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 2, "amount": 5}');
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 5 WHERE no = 2');
ROLLBACK;
SELECT m.settled();

UPDATE m.account SET balance = 1000;
SELECT m.at('b', 'UPDATE m.account SET balance = 1000'), m.at('c', 'UPDATE m.account SET balance = 1000');
DROP FUNCTION m.add(numeric, integer), m.here(numeric, integer);
SELECT m.at('b', 'SELECT m.said()');
SELECT m.settled();
