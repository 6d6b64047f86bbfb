--
-- dtx_join in savepoints, which drivers and frameworks make of their own, and
-- dtx_join with a step, for requests that are delivered twice.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
-- their branches are counted by a sequence
ALTER SEQUENCE dtx.shared_b RESTART;
SELECT m.connect('s1', 'a'), m.connect('s2', 'b'), m.connect('s3', 'b');
-- A service's session runs statements one after the other; answers that are not what is expected of them.
CREATE FUNCTION m.say(session text, VARIADIC statements text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  statement text;
  answer text;
BEGIN
  FOREACH statement IN ARRAY statements LOOP
    FOR answer IN SELECT m.run(session, statement) LOOP
      IF answer NOT IN ('', 'BEGIN', 'COMMIT', 'ROLLBACK', 'SAVEPOINT', 'RELEASE', 'UPDATE 1', 'XID') THEN
        RETURN NEXT answer;
      END IF;
    END LOOP;
  END LOOP;
END $$;
CREATE FUNCTION m.add(amount numeric, which integer DEFAULT 1) RETURNS text LANGUAGE sql AS
$$ SELECT format('UPDATE m.account SET balance = balance + %s WHERE no = %s', amount, which) $$;
CREATE FUNCTION m.join(xid text, step text DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT CASE WHEN step IS NULL THEN format('SELECT dtx_join(%L)', xid) ELSE format('SELECT dtx_join(%L, %L)', xid, step) END $$;
-- what its changes come to, at a and b, when all is decided
CREATE FUNCTION m.balances() RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(d.r, ', ' ORDER BY node) FROM unnest('{a,b}'::text[]) AS node, dblink(m.dsn(node), 'SELECT string_agg(balance::text, '' '' ORDER BY no) FROM m.account') AS d(r text) $$;

-- it returns the xid
SELECT dtx_open() AS xid \gset
BEGIN;
SELECT dtx_join(:'xid') = :'xid', dtx_xid() = :'xid';
ROLLBACK;
SELECT dtx_rollback(:'xid');

-- each statement in a savepoint that is released after it (psqlODBC, ON_ERROR_ROLLBACK, autosave)
SELECT dtx_open() AS xid \gset
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'RELEASE x', 'SAVEPOINT x', m.add(-3), 'RELEASE x', 'SAVEPOINT x', 'SELECT 1/0', 'ROLLBACK TO x', m.add(-2), 'COMMIT');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'RELEASE x', 'SAVEPOINT x', m.add(3), 'RELEASE x', 'SAVEPOINT x', 'SELECT 1/0', 'ROLLBACK TO x', m.add(2), 'COMMIT');
SELECT m.balances();
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- ... that is never released, nested ones, and a block of PL/pgSQL
SELECT dtx_open() AS xid \gset
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', 'SELECT count(*) > 0 FROM m.account', 'SAVEPOINT x', m.join(:'xid'), 'SAVEPOINT x', m.add(-1), 'SAVEPOINT x', m.add(5), 'ROLLBACK TO x', 'COMMIT');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', 'SAVEPOINT y', m.join(:'xid'), 'SAVEPOINT z', m.add(5), 'ROLLBACK TO z', m.add(1), 'RELEASE x', 'COMMIT');
SELECT m.say('s3', format($q$DO $x$ BEGIN BEGIN PERFORM dtx_join(%L); %s; EXCEPTION WHEN division_by_zero THEN NULL; END; END $x$$q$, :'xid', m.add(7, 2)));
SELECT dtx_rollback(:'xid');
SELECT m.settled(), m.balances();

-- the savepoint is rolled back, and it is joined anew: the same branch
SELECT dtx_open() AS xid \gset
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), m.add(-100), 'ROLLBACK TO x', m.join(:'xid'), m.add(-3), 'COMMIT');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', 'SAVEPOINT y', m.join(:'xid'), m.add(100), 'RELEASE y', 'ROLLBACK TO x', 'RELEASE x', m.join(:'xid'), m.add(3), 'COMMIT');
-- as who tries again in a loop does
SELECT m.say('s3', format($q$DO $x$ BEGIN FOR i IN 0 .. 2 LOOP BEGIN PERFORM dtx_join(%L); %s; PERFORM 1 / (i / 2); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $x$$q$, :'xid', m.add(0, 2)));
SELECT side, state, server FROM dtx_branches ORDER BY side, gid;
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- it is rolled back, and not joined anew: what is written then goes nowhere, neither beside the branch ...
SELECT dtx_open() AS xid \gset
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x', m.add(-3), 'COMMIT');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x', 'RELEASE x', m.add(3), 'COMMIT');
SELECT m.say('s3', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x', format('SELECT dtx_exec(%L, %L)', 'c', m.add(3)), 'COMMIT');
SELECT m.balances();
-- ... nor is it another one's; nor can it be joined twice
SELECT dtx_open() AS other \gset
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x', m.join(:'other'), 'ROLLBACK TO x', m.join(:'xid', 'step'), 'ROLLBACK');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), m.join(:'xid'), 'ROLLBACK');
SELECT dtx_rollback(:'other');
-- with nothing written there is nothing to refuse, but all is rolled back
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x', 'SELECT 1', 'COMMIT');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- while it is joined nobody decides, whatever became of the savepoint
SELECT dtx_open() AS xid \gset
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x');
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.say('s1', 'ROLLBACK');
SELECT dtx_rollback(:'xid');
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK TO x');
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.say('s2', m.join(:'xid'), m.add(1), 'COMMIT');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
SELECT m.at('b', m.add(-1));
-- one that fails leaves nothing that would hold it up
SELECT dtx_open() AS xid \gset
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', 'SET LOCAL dtx.fault_point = ''shared-after-register:error''', m.join(:'xid'), 'ROLLBACK TO x');
SELECT dtx_commit(:'xid');
SELECT m.say('s1', 'ROLLBACK');

-- something was written: before the savepoint, in it, or in one that was rolled back
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.add(1), 'SAVEPOINT x', m.join(:'xid'), 'ROLLBACK');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.add(1), m.join(:'xid'), 'ROLLBACK');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.add(1), 'ROLLBACK TO x', m.join(:'xid'), 'ROLLBACK');
-- a coordinator's session has no savepoints before it joins
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', 'SELECT dtx.branch_join(''x.12345678:1.0123456789abcdef/1'', ''at'', 0, 0, 1, 0)', 'ROLLBACK');
SELECT dtx_rollback(:'xid');
SELECT m.settled(), m.balances();

-- dtx_begin in a savepoint that is rolled back can be said again
BEGIN;
SAVEPOINT x;
SELECT dtx_begin('xa', '1 h') AS xid \gset
ROLLBACK TO x;
SELECT dtx_begin('at') = :'xid';
SELECT count(deadline) FROM dtx_transactions;
SAVEPOINT y;
SELECT m.try('SELECT dtx_begin()');
ROLLBACK;
BEGIN;
SAVEPOINT x;
SELECT dtx_begin('xa') AS xid \gset
SAVEPOINT y;
RELEASE x;
SELECT m.try('SELECT dtx_begin()');
ROLLBACK;
-- ... and what is not said again is in AT
BEGIN;
SAVEPOINT x;
SELECT dtx_begin('xa') AS xid \gset
ROLLBACK TO x;
SELECT dtx_exec('peer', m.add(0));
SELECT m.at('b', 'SELECT mode FROM dtx_branches');
ROLLBACK;
SELECT m.settled();

-- a request that comes twice does its step once
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'request 1'), m.add(1), 'COMMIT');
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'request 1'), 'SELECT dtx_xid()', 'COMMIT');
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'request 1'), m.add(-3), 'COMMIT');
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'request 1'), 'SELECT dtx_xid()', 'COMMIT');
-- another step is another branch; so is one without
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'request 2'), m.add(1), 'COMMIT');
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(1), 'COMMIT');
SELECT side, server, count(*) FROM dtx_branches GROUP BY side, server ORDER BY side, server;
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- it has ended
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'request 1'), 'ROLLBACK');
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'request 1'), 'ROLLBACK');
-- one that failed is tried again, and is the same branch: nothing is missing
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), m.add(100), 'ROLLBACK');
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), 'UPDATE m.account SET balance = -1', 'ROLLBACK');
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), m.add(-3), 'COMMIT');
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'r'), m.add(100), 'ROLLBACK');
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'r'), m.add(3), 'COMMIT');
SELECT side, server, count(*) FROM dtx_branches GROUP BY side, server ORDER BY side, server;
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- what it calls are others than the failed one called, which are rolled back, maybe a while later
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), format('SELECT dtx_exec(%L, %L)', 'c', m.add(100)),
             'SELECT set_config(''m.gid'', gid, false) = gid FROM dtx.branch WHERE parent IS NOT NULL AND n = pg_current_xact_id()::text::bigint', 'ROLLBACK');
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), format('SELECT dtx_exec(%L, %L)', 'c', m.add(0, 2)),
             'SELECT gid = current_setting(''m.gid'') FROM dtx.branch WHERE parent IS NOT NULL AND n = pg_current_xact_id()::text::bigint', 'COMMIT');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- in a savepoint that is rolled back the work is to be done again
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid', 'r'), m.add(100), 'ROLLBACK TO x', m.join(:'xid', 'r'), m.add(2), 'COMMIT');
SELECT m.say('s2', 'BEGIN', 'SAVEPOINT x', m.join(:'xid', 'r'), 'COMMIT');
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', m.join(:'xid', 'r'), 'RELEASE x', 'SAVEPOINT x', m.add(100), 'ROLLBACK TO x', m.join(:'xid', 'r'), 'ROLLBACK');
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'r'), m.add(-2), 'COMMIT');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- while the first runs the second waits, and does it when the first fails
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), m.add(100));
SELECT dblink_send_query('s3', 'BEGIN; ' || m.join(:'xid', 'r') || '; ' || m.add(1) || '; COMMIT');
SELECT m.wait('b', $$EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)$$);
SELECT m.say('s2', 'ROLLBACK');
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
-- ... or learns that it is done
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'q'), m.add(-1));
SELECT dblink_send_query('s3', m.join(:'xid', 'q'));
SELECT m.wait('b', $$EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)$$);
SELECT m.say('s2', 'COMMIT');
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
SELECT r FROM dblink_get_result('s3', false) AS t(r text);
-- ... or gives up
SELECT m.say('s3', 'SET dtx.lock_timeout = 50');
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'p'));
SELECT m.say('s3', m.join(:'xid', 'p'));
SELECT m.say('s3', m.join(:'xid', 'another'));
SELECT m.say('s2', 'COMMIT');
SELECT m.say('s3', 'RESET dtx.lock_timeout');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- what a step is
SELECT m.try(format('SELECT dtx_join(%L, %L)', :'xid', ''));
SELECT m.try(format('SELECT dtx_join(%L, repeat(%L, 1001))', :'xid', 'x'));
SELECT m.try(format('SELECT dtx_join(%L, NULL)', :'xid'));
SELECT m.try('SELECT dtx_join(NULL, ''r'')');
SELECT m.try('SELECT dtx_join(NULL)');

-- steps are a role's own: another one's is neither known nor held up
DROP ROLE IF EXISTS dtx_m_step;
CREATE ROLE dtx_m_step LOGIN;
SELECT m.at(node, 'GRANT USAGE ON SCHEMA m TO dtx_m_step; GRANT SELECT, UPDATE ON m.account TO dtx_m_step') FROM unnest('{a,b}'::text[]) AS node;
SELECT dtx_admit('dtx_m_step');
SELECT m.at('b', $$GRANT USAGE ON FOREIGN SERVER a TO dtx_m_step; CREATE USER MAPPING FOR dtx_m_step SERVER a OPTIONS (user 'dtx_m_step', password_required 'false')$$);
SELECT m.connect('step', 'b', 'dtx_m_step'), m.connect('step1', 'a', 'dtx_m_step');
SELECT dtx_open(joiners => '{dtx_m_step}') AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid', 'r'), m.add(1));
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 'r'), m.add(1));
SELECT m.say('step', 'SET dtx.lock_timeout = 50', 'BEGIN', m.join(:'xid', 'r'), m.add(-1, 2), 'COMMIT');
SELECT m.say('step1', 'SET dtx.lock_timeout = 50', 'BEGIN', m.join(:'xid', 'r'), m.add(-1, 2), 'COMMIT');
SELECT m.say('s2', 'COMMIT'), m.say('s1', 'COMMIT');
SELECT m.say('step', m.join(:'xid', 'r'));
SELECT m.say('step', 'SELECT count(*) FROM dtx.joined_branch') LIKE '42501%';
SELECT dtx_rollback(:'xid');
SELECT m.settled(), m.balances();
SELECT m.bye('step', 'step1');
SELECT m.at('b', 'DROP USER MAPPING FOR dtx_m_step SERVER a; DROP OWNED BY dtx_m_step');
DROP OWNED BY dtx_m_step;
DROP ROLE dtx_m_step;

-- the opener decides in its own branch: all commits with that transaction
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(3), 'COMMIT');
BEGIN;
SELECT dtx_join(:'xid') = :'xid';
UPDATE m.account SET balance = balance - 3 WHERE no = 1;
SELECT dtx_commit(:'xid');
-- to the end nobody joins, decides, or sees it decided; and what is still to come is in it
SELECT m.say('s1', 'SET lock_timeout = 50');
SELECT left(m.say('s1', m.join(:'xid')), 5);
SELECT m.say('s1', 'RESET lock_timeout');
SELECT m.say('s1', format('SELECT dtx_status(%L)', :'xid'));
UPDATE m.account SET balance = balance - 1 WHERE no = 2;
SELECT dtx_commit(:'xid');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled(), m.balances();
SELECT DISTINCT outcome FROM dtx_history WHERE xid = :'xid';
UPDATE m.account SET balance = balance + 1 WHERE no = 2;
-- it has called others itself
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(1), 'COMMIT');
BEGIN;
SELECT dtx_join(:'xid') = :'xid';
SELECT dtx_exec('c', m.add(2));
UPDATE m.account SET balance = balance - 3 WHERE no = 1;
SELECT dtx_commit(:'xid');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled(), m.balances();
SELECT m.at('c', m.add(-2));
-- rolled back after that: it is open, without this branch; which is joined again when it names a step
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(1), 'COMMIT');
BEGIN;
SELECT dtx_join(:'xid', 'own');
UPDATE m.account SET balance = balance - 100 WHERE no = 1;
SELECT dtx_commit(:'xid');
ROLLBACK;
SELECT dtx_status(:'xid');
BEGIN;
SELECT dtx_join(:'xid', 'own');
UPDATE m.account SET balance = balance - 1 WHERE no = 1;
SAVEPOINT x;
SELECT dtx_commit(:'xid');
ROLLBACK TO x;
SELECT m.say('s1', format('SELECT dtx_commit(%L)', :'xid'));
SELECT dtx_commit(:'xid');
COMMIT;
SELECT m.settled(), m.balances();
-- without a step the vote misses it
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(1), 'COMMIT');
BEGIN;
SELECT dtx_join(:'xid') = :'xid';
UPDATE m.account SET balance = balance - 1 WHERE no = 1;
SELECT dtx_commit(:'xid');
ROLLBACK;
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- others have not done their part: one runs, here or there; one never came
SELECT dtx_open() AS xid \gset
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(1));
BEGIN;
SELECT dtx_join(:'xid') = :'xid';
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.say('s1', 'BEGIN', m.join(:'xid', 's'), m.add(0, 2));
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.say('s1', 'COMMIT');
SELECT m.say('s2', 'ROLLBACK');
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
ROLLBACK;
SELECT dtx_rollback(:'xid');
SELECT m.settled(), m.balances();
-- not of another one, not elsewhere, not after the join was taken back, nor is it rolled back so
SELECT dtx_open() AS xid \gset
SELECT dtx_open() AS other \gset
BEGIN;
SELECT dtx_join(:'xid') = :'xid';
SELECT m.try(format('SELECT dtx_commit(%L)', :'other'));
SELECT m.try(format('SELECT dtx_rollback(%L)', :'xid'));
ROLLBACK;
BEGIN;
SAVEPOINT x;
SELECT dtx_join(:'other') = :'other';
ROLLBACK TO x;
SELECT m.try(format('SELECT dtx_commit(%L)', :'other'));
ROLLBACK;
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), format('SELECT dtx_commit(%L)', :'xid'), 'ROLLBACK');
SELECT dtx_rollback(:'xid'), dtx_rollback(:'other');
SELECT m.settled();

-- it opens one, and is its first branch
BEGIN;
SELECT dtx_open(join => true) AS xid \gset
SELECT dtx_xid() = :'xid';
UPDATE m.account SET balance = balance - 5 WHERE no = 1;
SELECT m.say('s2', m.join(:'xid'));
COMMIT;
SELECT dtx_status(:'xid'), (SELECT string_agg(state, ' ') FROM dtx_branches);
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(5), 'COMMIT');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();
-- rolled back, as one
BEGIN;
SELECT dtx_open(join => true) AS xid \gset
UPDATE m.account SET balance = balance - 5 WHERE no = 1;
COMMIT;
SELECT dtx_rollback(:'xid');
SELECT m.settled(), m.balances();
BEGIN;
SELECT dtx_open(join => true) AS xid \gset
UPDATE m.account SET balance = balance - 5 WHERE no = 1;
ROLLBACK;
SELECT m.say('s2', m.join(:'xid'));
SELECT m.settled(), m.balances();
-- and decided in the same transaction, with what it calls itself
BEGIN;
SELECT dtx_open(join => true) AS xid \gset
SELECT dtx_exec('peer', m.add(1));
UPDATE m.account SET balance = balance - 1 WHERE no = 1;
SELECT dtx_commit(:'xid');
COMMIT;
SELECT m.settled(), m.balances();
-- first of all; not in another one; its savepoint's rollback takes it back
BEGIN;
UPDATE m.account SET balance = balance WHERE no = 1;
SELECT m.try('SELECT dtx_open(join => true)');
ROLLBACK;
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT m.try('SELECT dtx_open(join => true)') LIKE 'DX003%';
ROLLBACK;
SELECT m.try('SELECT dtx_open(join => NULL)');
SELECT m.say('s1', 'BEGIN', 'SAVEPOINT x', 'SELECT dtx_open(join => true)', 'ROLLBACK TO x', m.add(-1), 'COMMIT');
-- ... for good: there is nothing any more to decide it
BEGIN;
SAVEPOINT x;
SELECT dtx_open(join => true) AS xid \gset
ROLLBACK TO x;
SELECT m.try(format('SELECT dtx_join(%L)', :'xid'));
ROLLBACK;
SELECT m.settled(), m.balances();

-- its branches' numbers are not those of others that join
ALTER SEQUENCE dtx.shared_b RESTART;
BEGIN;
SELECT dtx_open(join => true) AS xid \gset
SELECT dtx_exec('peer', m.add(1)), dtx_exec('peer', m.add(-1)), dtx_exec('peer', m.add(0));
COMMIT;
SELECT m.say('s2', 'BEGIN', m.join(:'xid'), m.add(0, 2), 'COMMIT');
SELECT dtx_commit(:'xid');
SELECT m.settled(), m.balances();

-- clean up
SELECT m.bye('s1', 's2', 's3');
UPDATE m.account SET balance = 1000;
SELECT m.at('b', 'UPDATE m.account SET balance = 1000');
DROP FUNCTION m.say(text, text[]), m.add(numeric, integer), m.join(text, text), m.balances();
SELECT m.settled();
