--
-- AT: undo where the order of effects is not that of statements: what BEFORE
-- triggers, functions in expressions and parts of WITH change takes effect before the
-- statement around it. And constraints that rows satisfy only together.
--
\c dtx_regression_peer
-- "only one default": a BEFORE trigger takes the flag from the other row
CREATE TABLE address (id integer PRIMARY KEY, is_default boolean NOT NULL);
CREATE UNIQUE INDEX one_default ON address (is_default) WHERE is_default;
CREATE FUNCTION take_default() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.is_default THEN
        UPDATE address SET is_default = false WHERE is_default AND id <> NEW.id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER take_default BEFORE INSERT OR UPDATE ON address FOR EACH ROW EXECUTE FUNCTION take_default();
INSERT INTO address VALUES (1, true), (2, false), (3, false);
-- "replace": a BEFORE trigger deletes the row with the same key
CREATE TABLE newest (id integer PRIMARY KEY, v text, note text);
CREATE FUNCTION replace_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM newest WHERE id = NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER replace_row BEFORE INSERT ON newest FOR EACH ROW EXECUTE FUNCTION replace_row();
INSERT INTO newest VALUES (5, 'old', 'note'), (6, 'six', NULL);
-- a function in an expression that frees the value the statement takes
CREATE TABLE seat (id integer PRIMARY KEY, holder text UNIQUE, period int4range, EXCLUDE USING gist (period WITH &&));
CREATE FUNCTION leave(who text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE seat SET holder = NULL, period = NULL WHERE holder = who;
    RETURN who;
END $$;
INSERT INTO seat VALUES (1, 'ann', '[1,10)'), (2, 'bob', '[10,20)'), (3, NULL, '[20,30)'), (4, NULL, NULL);
-- a view whose rows are written elsewhere, and one AFTER the fact at the end of the transaction
CREATE VIEW seating AS SELECT id, holder FROM seat;
CREATE FUNCTION seat_somebody() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE seat SET holder = NULL WHERE holder = NEW.holder;
    UPDATE seat SET holder = NEW.holder WHERE id = NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER seat_somebody INSTEAD OF UPDATE ON seating FOR EACH ROW EXECUTE FUNCTION seat_somebody();
CREATE FUNCTION afterwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE seat SET holder = NEW.holder || '?' WHERE id = 4 AND NEW.id <> 4;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER afterwards AFTER UPDATE ON seat DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION afterwards();
SELECT dtx_attach('address'), dtx_attach('newest'), dtx_attach('seat');
SELECT test.keep('address', 'newest', 'seat');
\c dtx_regression

BEGIN;
SELECT dtx_exec('peer', 'UPDATE address SET is_default = true WHERE id = 2');
SELECT test.at_peer('SELECT id || '' '' || is_default FROM address ORDER BY id');
SELECT dtx_exec('peer', 'INSERT INTO address VALUES (4, true)');
SELECT dtx_exec('peer', 'UPDATE address SET is_default = true WHERE id <> 4');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'address');

BEGIN;
SELECT dtx_exec('peer', $$INSERT INTO newest VALUES (5, 'new')$$);
SELECT dtx_exec('peer', $$INSERT INTO newest VALUES (5, 'newer'), (6, 'new'), (7, 'new'), (6, 'newer')$$);
SELECT test.at_peer('SELECT id || '' '' || v FROM newest ORDER BY id');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'newest');
-- and both ways to and fro, so that states come back
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    FOR i IN 1 .. 50 LOOP
        INSERT INTO newest VALUES (5, 'new');
        UPDATE newest SET v = 'old', note = 'note' WHERE id = 5;
        IF i % 5 = 0 THEN
            DELETE FROM newest WHERE id = 5;
        END IF;
        IF i % 7 = 0 THEN
            UPDATE newest SET v = 'new', note = NULL WHERE id = 5;
        END IF;
        BEGIN
            UPDATE newest SET v = 'old', note = 'note' WHERE id = 5;
            DELETE FROM newest WHERE id = 6;
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
        END;
    END LOOP;
END $do$ $$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'newest');
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    FOR i IN 1 .. 20 LOOP
        UPDATE newest SET v = 'new' WHERE id = 5;
        UPDATE newest SET v = 'old' WHERE id = 5;
    END LOOP;
END $do$ $$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'newest');

BEGIN;
SELECT dtx_exec('peer', $$UPDATE seat SET holder = leave('ann'), period = '[1,10)' WHERE id = 3$$);
SELECT dtx_exec('peer', $$WITH gone AS (SELECT leave('bob') AS who) INSERT INTO seat SELECT 5, who, '[10,20)' FROM gone$$);
SELECT test.at_peer('SELECT concat_ws('' '', id, holder, period) FROM seat ORDER BY id');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');
-- rows swap their values, by a third one: each is restored while another has its value
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE seat SET holder = '-', period = NULL WHERE id = 1;
    UPDATE seat SET holder = 'ann', period = '[1,10)' WHERE id = 2;
    UPDATE seat SET holder = 'bob', period = '[10,20)' WHERE id = 1;
END $do$ $$);
SELECT test.at_peer('SELECT concat_ws('' '', id, holder, period) FROM seat ORDER BY id');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');
BEGIN;
SELECT dtx_exec('peer', $$UPDATE seating SET holder = 'ann' WHERE id = 2$$);
SELECT dtx_exec('peer', $$UPDATE seating SET holder = 'bob' WHERE id = 1$$);
SELECT test.at_peer('SELECT concat_ws('' '', id, holder, period) FROM seat ORDER BY id');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');
-- keys too
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE seat SET id = 10 WHERE id = 1;
    UPDATE seat SET id = 1 WHERE id = 2;
    UPDATE seat SET id = 2 WHERE id = 10;
    UPDATE seat SET id = 30, holder = 'cid' WHERE id = 3;
    UPDATE seat SET id = 31, holder = 'dan' WHERE id = 30;
    UPDATE seat SET id = 40 WHERE id = 4;
    INSERT INTO seat VALUES (50);
    UPDATE seat SET id = 51 WHERE id = 50;
END $do$ $$);
SELECT test.at_peer('SELECT concat_ws('' '', id, holder, period) FROM seat ORDER BY id');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE seat SET id = id + 100, holder = NULL');
SELECT dtx_exec('peer', 'UPDATE seat SET id = id - 99');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'seat');

-- what is really in the way is a conflict: somebody has taken the value meanwhile
SELECT test.hold($$UPDATE seat SET holder = NULL WHERE id = 1$$);
SELECT test.at_peer($$INSERT INTO seat VALUES (6, 'ann')$$);
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer($$DELETE FROM seat WHERE id = 6$$);
SELECT test.undone(:'xid', 'seat');
SELECT test.hold($$UPDATE seat SET period = NULL WHERE id = 1$$);
SELECT test.at_peer($$INSERT INTO seat VALUES (6, NULL, '[5,6)')$$);
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.conflict(:'xid');
SELECT test.at_peer($$DELETE FROM seat WHERE id = 6$$);
SELECT test.undone(:'xid', 'seat');

-- one row changed very often, which must not take long
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    FOR i IN 1 .. 3000 LOOP
        UPDATE newest SET v = i::text WHERE id = 6;
    END LOOP;
END $do$ $$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'newest');
\c dtx_regression_peer
DROP TABLE address, newest, seat CASCADE;
DROP FUNCTION take_default, replace_row, leave, seat_somebody, afterwards;
