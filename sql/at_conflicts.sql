--
-- AT: what compensation must not overwrite, it reports, changes nothing, and
-- does later, when the obstacle is gone.
--
\c dtx_regression_peer
CREATE TABLE account (id integer PRIMARY KEY, code text UNIQUE, balance numeric NOT NULL);
INSERT INTO account VALUES (1, 'one', 100), (2, 'two', 200), (3, 'three', 300);
CREATE TABLE movement (id integer PRIMARY KEY, account integer REFERENCES account, amount numeric);
CREATE TABLE attached_movement (id integer PRIMARY KEY, account integer REFERENCES account ON DELETE SET NULL, amount numeric);
CREATE TABLE parent (id integer PRIMARY KEY, v text);
INSERT INTO parent VALUES (1, 'one'), (2, 'two');
CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
SET client_min_messages = error;
SELECT dtx_attach('account'), dtx_attach('attached_movement'), dtx_attach('parent');
RESET client_min_messages;
SELECT test.keep('account', 'movement', 'attached_movement', 'parent', 'child');
CREATE TABLE whole (id integer PRIMARY KEY, v integer);
INSERT INTO whole VALUES (1, 0), (2, 0), (3, 0);
SELECT dtx_attach('whole');
CREATE VIEW accounts AS SELECT string_agg(concat_ws('/', id, code, balance), ' ' ORDER BY id) AS accounts FROM account;
-- changes rows past dtx, which only surgery on the catalog can
CREATE PROCEDURE by_force(statement text) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid = 'account'::regclass AND tgname = 'dtx_capture';
    UPDATE pg_class SET relhastriggers = true WHERE oid = 'account'::regclass;
    EXECUTE statement;
    UPDATE pg_trigger SET tgenabled = 'A' WHERE tgrelid = 'account'::regclass AND tgname = 'dtx_capture';
    UPDATE pg_class SET relhastriggers = true WHERE oid = 'account'::regclass;
END $$;
\c dtx_regression

-- a row that the branch inserted, and that a stranger's row came to refer to:
-- the foreign key cascades, compensation does not
SELECT test.hold($$DO $do$ BEGIN INSERT INTO parent VALUES (3, 'three'); UPDATE parent SET v = 'changed' WHERE id = 1; END $do$ $$);
SELECT test.at_peer('INSERT INTO child VALUES (10, 3)');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
-- nothing is undone; the branch stays in doubt, and what it holds stays locked
SELECT test.at_peer('SELECT concat_ws('' '', id, v) FROM parent ORDER BY id');
SELECT test.at_peer('SELECT concat_ws('' '', id, parent) FROM child');
SELECT test.at_peer('SELECT concat_ws('' '', side, state, conflict IS NOT NULL, attempts > 0, last_error IS NOT NULL) FROM dtx_branches');
SELECT test.at_peer('SELECT concat_ws('' '', relation, row->>''id'') FROM dtx_locks ORDER BY 1');
SELECT at_peer LIKE 'ERROR 55P03: %' OR at_peer LIKE 'ERROR 40001: %' AS refused
FROM test.at_peer('SET dtx.lock_timeout = 20; UPDATE parent SET v = ''stranger'' WHERE id = 1');
SELECT dtx_status(:'xid');
-- gone the dependent row, gone the conflict
SELECT test.at_peer('DELETE FROM child');
SELECT test.undone(:'xid', 'parent', 'child');

-- the same with a dependent row in an attached table
SELECT test.hold('INSERT INTO account VALUES (4, ''four'', 400)');
SELECT test.at_peer('INSERT INTO attached_movement VALUES (10, 4, 40)');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('SELECT concat_ws('' '', id, account) FROM attached_movement');
SELECT test.at_peer('UPDATE attached_movement SET account = 1');
SELECT test.at_peer('DELETE FROM attached_movement');
SELECT test.undone(:'xid', 'account', 'attached_movement');

-- a key that the branch changed, and that a stranger refers to
SELECT test.hold('UPDATE account SET id = 33 WHERE id = 3');
SELECT test.at_peer('INSERT INTO movement VALUES (11, 33, 1)');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('SELECT account::text FROM movement');
SELECT test.at_peer('DELETE FROM movement');
SELECT test.undone(:'xid', 'account', 'movement');

-- a referenced row that has gone meanwhile, for a row that comes back
SELECT test.at_peer('INSERT INTO attached_movement VALUES (12, 3, 1)');
SELECT test.at_peer('SELECT test.keep(''account'', ''attached_movement'')');
SELECT test.hold('DELETE FROM attached_movement WHERE id = 12');
SELECT test.at_peer('DELETE FROM account WHERE id = 3');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('SELECT count(*)::text FROM attached_movement');
SELECT test.at_peer('INSERT INTO account VALUES (3, ''three'', 300)');
SELECT test.undone(:'xid', 'account', 'attached_movement');
SELECT test.at_peer('DELETE FROM attached_movement');

-- a unique value that a stranger took meanwhile
SELECT test.hold('DELETE FROM account WHERE id = 2');
SELECT test.at_peer('INSERT INTO account VALUES (5, ''two'', 5)');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('TABLE accounts');
SELECT test.at_peer('DELETE FROM account WHERE id = 5');
SELECT test.undone(:'xid', 'account');

-- a constraint that the old row does not satisfy
SELECT test.hold('UPDATE account SET balance = 1000 WHERE id = 1');
SELECT test.at_peer('ALTER TABLE account ADD CONSTRAINT rich CHECK (balance <> 100)');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('ALTER TABLE account DROP CONSTRAINT rich');
SELECT test.undone(:'xid', 'account');
SELECT test.hold('DELETE FROM account WHERE id = 1');
SELECT test.at_peer('ALTER TABLE account ADD owner text NOT NULL DEFAULT ''none''');
SELECT test.at_peer('ALTER TABLE account ALTER owner DROP DEFAULT');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('ALTER TABLE account DROP owner');
SELECT test.undone(:'xid', 'account');

-- a dirty row: not what the branch left
SELECT test.hold('UPDATE account SET balance = id * 1000 WHERE id < 3');
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1001 WHERE id = 1'')');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('TABLE accounts');
-- put back to what the branch left
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1000 WHERE id = 1'')');
SELECT test.undone(:'xid', 'account');
-- or to what it was before, by whomever: nothing to do
SELECT test.hold('UPDATE account SET balance = 1000 WHERE id = 1', 'UPDATE account SET balance = 2000 WHERE id = 2');
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 100 WHERE id = 1'')');
SELECT test.undone(test.let_go('ROLLBACK'), 'account');
SELECT test.hold('DELETE FROM account WHERE id = 1', 'INSERT INTO account VALUES (6, ''six'', 6)');
SELECT test.at_peer('CALL by_force(''INSERT INTO account VALUES (1, ''''one'''', 100)'')');
SELECT test.at_peer('CALL by_force(''DELETE FROM account WHERE id = 6'')');
SELECT test.undone(test.let_go('ROLLBACK'), 'account');
-- equal is not enough: the very bytes
SELECT test.hold('UPDATE account SET balance = 1000 WHERE id = 1');
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1000.00 WHERE id = 1'')');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1000 WHERE id = 1'')');
SELECT test.undone(:'xid', 'account');
-- a row that is gone, one that is there again, and an inserted one that was changed
SELECT test.hold('UPDATE account SET balance = 1000 WHERE id = 1');
SELECT test.at_peer('CALL by_force(''DELETE FROM account WHERE id = 1'')');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('CALL by_force(''INSERT INTO account VALUES (1, ''''one'''', 100)'')');
SELECT test.undone(:'xid', 'account');
SELECT test.hold('DELETE FROM account WHERE id = 1');
SELECT test.at_peer('CALL by_force(''INSERT INTO account VALUES (1, ''''other'''', 1)'')');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('CALL by_force(''DELETE FROM account WHERE id = 1'')');
SELECT test.undone(:'xid', 'account');
SELECT test.hold('INSERT INTO account VALUES (7, ''seven'', 7)');
SELECT test.at_peer('CALL by_force(''UPDATE account SET code = ''''changed'''' WHERE id = 7'')');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer('CALL by_force(''DELETE FROM account WHERE id = 7'')');
SELECT test.undone(:'xid', 'account');

-- a table cannot lose its key: the rows could not be told apart
SELECT test.hold('UPDATE account SET balance = 1000 WHERE id = 1');
SELECT test.at_peer('ALTER TABLE account DROP CONSTRAINT account_pkey CASCADE');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.undone(:'xid', 'account');

-- a conflict of a branch that a savepoint's rollback takes back: the
-- transaction cannot go on at that peer, but it can be rolled back
CREATE FUNCTION dtx_regress_obstacle() RETURNS SETOF text LANGUAGE sql
    AS $$ SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1001 WHERE id = 1'')') $$;
BEGIN;
SELECT dtx_xid() IS NULL AS not_yet;
SAVEPOINT s;
SELECT dtx_exec('peer', 'UPDATE account SET balance = 1000 WHERE id = 1');
SELECT dtx_regress_obstacle();
ROLLBACK TO s;
SELECT test.branch_error('UPDATE account SET balance = 2000 WHERE id = 2');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.conflict(:'xid');
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1000 WHERE id = 1'')');
SELECT test.undone(:'xid', 'account');
DROP FUNCTION dtx_regress_obstacle;

-- an undo log that is not whole any more: nothing is claimed to be undone
SELECT test.at_peer('UPDATE whole SET v = 0');
SELECT test.at_peer('SELECT test.keep(''whole'')');
SELECT test.hold('UPDATE whole SET v = 1');
SELECT test.at_peer('CREATE TABLE test.stolen AS SELECT * FROM dtx.undo_log');
SELECT test.at_peer('DELETE FROM dtx.undo_log WHERE seq = 1');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT count(*) FROM test.conflict(:'xid', 'last_error') AS c WHERE c IS NULL OR c = 'rolled back';
SELECT test.at_peer('SELECT sum(v)::text FROM whole');
-- made whole
SELECT test.at_peer('INSERT INTO dtx.undo_log SELECT * FROM test.stolen WHERE seq = 1');
SELECT test.undone(:'xid', 'whole');
SELECT test.at_peer('DELETE FROM dtx.undo_log');
SELECT test.at_peer('DROP TABLE test.stolen');

-- a dirty row is no matter to a commit
SELECT test.hold('UPDATE account SET balance = 1000 WHERE id = 1');
SELECT test.at_peer('CALL by_force(''UPDATE account SET balance = 1001 WHERE id = 1'')');
SELECT dtx_wait(test.let_go('COMMIT'), '3min');
SELECT test.at_peer('TABLE accounts');

\c dtx_regression_peer
SELECT count(*) FROM dtx.joined_branch WHERE state = 'd';
SELECT count(*) FROM dtx.undo_log;
DROP PROCEDURE by_force;
DROP VIEW accounts;
DROP TABLE account, movement, attached_movement, parent, child, whole;
