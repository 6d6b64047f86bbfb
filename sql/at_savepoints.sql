--
-- AT: a branch lives and dies with the savepoint, or the PL/pgSQL block, that made it.
--
\c dtx_regression_peer
CREATE TABLE seat (no integer PRIMARY KEY, taken_by text, changes integer NOT NULL DEFAULT 0);
INSERT INTO seat VALUES (1), (2), (3), (4);
SELECT dtx_attach('seat');
SELECT test.keep('seat');
CREATE VIEW seats AS SELECT string_agg(concat(no, '=', coalesce(taken_by, '-'), '/', changes), ' ' ORDER BY no) AS seats FROM seat;
\c dtx_regression
-- one branch: set who sits there
CREATE FUNCTION take(seat integer, who text) RETURNS bigint LANGUAGE sql AS $$
    SELECT dtx_exec('peer', 'UPDATE seat SET taken_by = $1, changes = changes + 1 WHERE no = $2', who, seat)
$$;

-- rolled back to the savepoint, then commit: only what came before it stays
BEGIN;
SELECT take(1, 'A');
SAVEPOINT s;
SELECT take(2, 'B');
ROLLBACK TO s;
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('TABLE seats');
SELECT test.at_peer('UPDATE seat SET taken_by = NULL, changes = 0');

-- more work at the same row: the savepoint's branch is compensated before it
BEGIN;
SELECT take(1, 'A');
SAVEPOINT s;
SELECT take(1, 'B');
SELECT test.at_peer('TABLE seats');
ROLLBACK TO s;
SELECT take(1, 'C');
SELECT test.at_peer('TABLE seats');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('TABLE seats');
SELECT test.at_peer('UPDATE seat SET taken_by = NULL, changes = 0');

-- the same, and all of it rolled back
BEGIN;
SELECT take(1, 'A');
SAVEPOINT s;
SELECT take(1, 'B');
SELECT take(2, 'B');
ROLLBACK TO s;
SELECT take(1, 'C');
SELECT take(3, 'C');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- a savepoint that is released counts with its parent
BEGIN;
SAVEPOINT outer_one;
SELECT take(1, 'A');
SAVEPOINT inner_one;
SELECT take(1, 'B');
SELECT take(2, 'B');
RELEASE inner_one;
SELECT take(2, 'C');
ROLLBACK TO outer_one;
SELECT take(3, 'D');
SELECT test.at_peer('TABLE seats');
RELEASE outer_one;
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('TABLE seats');
SELECT test.at_peer('UPDATE seat SET taken_by = NULL, changes = 0');

-- the same savepoint, over and over
BEGIN;
SAVEPOINT s;
SELECT take(1, 'A');
ROLLBACK TO s;
SELECT take(1, 'B');
ROLLBACK TO s;
SELECT take(1, 'C');
ROLLBACK TO s;
SELECT take(1, 'D');
SELECT test.at_peer('TABLE seats');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- inserted in the savepoint, then inserted again; deleted in it, then updated
BEGIN;
SAVEPOINT s;
SELECT dtx_exec('peer', $$INSERT INTO seat VALUES (5, 'E')$$);
SELECT dtx_exec('peer', $$DELETE FROM seat WHERE no = 4$$);
ROLLBACK TO s;
SELECT dtx_exec('peer', $$INSERT INTO seat VALUES (5, 'F')$$);
SELECT take(4, 'F');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('TABLE seats');
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- a key changed before, in, and after the savepoint
BEGIN;
SELECT dtx_exec('peer', 'UPDATE seat SET no = no + 10 WHERE no = 1');
SAVEPOINT s;
SELECT dtx_exec('peer', 'UPDATE seat SET no = no + 10 WHERE no = 11');
SELECT dtx_exec('peer', 'UPDATE seat SET no = 11 WHERE no = 2');
ROLLBACK TO s;
SELECT dtx_exec('peer', 'UPDATE seat SET no = no + 20, taken_by = ''G'' WHERE no = 11');
SELECT test.at_peer('TABLE seats');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- a savepoint rolled back at the end, with nothing after it: the worker compensates
BEGIN;
SAVEPOINT s;
SELECT take(1, 'A');
ROLLBACK TO s;
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min') IN ('committed', 'rolled back') AS settled;
SELECT test.at_peer($$SELECT test.differences('seat')$$);

-- PL/pgSQL exception blocks
DO $$
BEGIN
    PERFORM take(1, 'A');
    BEGIN
        PERFORM take(1, 'B');
        PERFORM take(2, 'B');
        RAISE EXCEPTION 'no';
    EXCEPTION WHEN raise_exception THEN
        PERFORM take(2, 'C');
    END;
    BEGIN
        PERFORM take(3, 'D');
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
    PERFORM set_config('test.xid', dtx_xid(), false);
END $$;
SELECT dtx_wait(current_setting('test.xid'), '3min');
SELECT test.at_peer('TABLE seats');
SELECT test.at_peer('UPDATE seat SET taken_by = NULL, changes = 0');

-- a peer's error caught, and the work goes on
\c dtx_regression_peer
ALTER TABLE seat ADD CONSTRAINT not_you CHECK (taken_by <> 'you');
\c dtx_regression
BEGIN;
DO $$
BEGIN
    PERFORM take(1, 'A');
    FOR i IN 1 .. 3 LOOP
        BEGIN
            PERFORM take(i, CASE i WHEN 2 THEN 'you' ELSE 'me' END);
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE '%: %', SQLSTATE, SQLERRM;
        END;
    END LOOP;
END $$;
SELECT test.at_peer('TABLE seats');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- an error after the branch, caught outside: nothing of it stays
DO $$
BEGIN
    PERFORM set_config('test.xid', dtx_begin(), false);
    BEGIN
        PERFORM take(1, 'A');
        BEGIN
            PERFORM take(2, 'B');
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'caught';
    END;
END $$;
SELECT dtx_wait(current_setting('test.xid'), '3min') IN ('committed', 'rolled back') AS settled;
SELECT test.at_peer($$SELECT test.differences('seat')$$);

-- an error that is not caught, within a savepoint that goes with the transaction
BEGIN;
SELECT take(1, 'A');
SELECT dtx_xid() AS xid \gset
SAVEPOINT s;
SELECT take(1, 'B');
SELECT 1 / 0;
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- procedures that end transactions on their way: each is a global transaction of its own
CREATE PROCEDURE take_turns() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM take(1, 'A');
    COMMIT;
    PERFORM take(2, 'B');
    PERFORM set_config('test.xid', dtx_xid(), false);
    ROLLBACK;
    PERFORM dtx_wait(current_setting('test.xid'), '3min');
    PERFORM take(3, 'C');
    PERFORM set_config('test.xid', dtx_xid(), false);
END $$;
CALL take_turns();
SELECT dtx_wait(current_setting('test.xid'), '3min');
SELECT test.at_peer('TABLE seats');

DROP PROCEDURE take_turns;
DROP FUNCTION take;
\c dtx_regression_peer
SELECT count(*) FROM dtx.joined_branch WHERE state = 'd';
SELECT count(*) FROM dtx.undo_log;
DROP VIEW seats;
DROP TABLE seat;
