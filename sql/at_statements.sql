--
-- AT: whatever statement changed the rows, a rollback brings them back, and a
-- commit keeps the changes.
--
-- The pattern: run statements as branches, roll back, wait for the worker to
-- have settled it, compare the tables at the peer with their copies.
--
\c dtx_regression_peer
CREATE TABLE stock (
    item     text PRIMARY KEY,
    quantity integer NOT NULL,
    price    numeric(10, 2),
    note     text
);
INSERT INTO stock VALUES ('apple', 10, 1.00, NULL), ('pear', 20, 2.50, 'ripe'), ('plum', 30, NULL, ''),
    ('quince', 40, 4.75, 'rare');
CREATE TABLE audit (id integer PRIMARY KEY, item text, quantity integer);
INSERT INTO audit VALUES (1, 'apple', 10);
SELECT dtx_attach('stock'), dtx_attach('audit');
SELECT test.keep('stock', 'audit');
-- the comparison sees a row more, a row less, and a row that only its bytes tell apart
BEGIN;
INSERT INTO stock VALUES ('zucchini', 1);
SELECT test.differences('stock', 'audit');
ROLLBACK;
BEGIN;
DELETE FROM stock WHERE item = 'quince';
SELECT count(*) > 0 FROM test.differences('stock') AS d WHERE d LIKE 'stock: lacks %';
ROLLBACK;
BEGIN;
UPDATE stock SET price = 1.0000 WHERE item = 'apple';
SELECT test.differences('stock');
ALTER TABLE stock ALTER price TYPE numeric;
UPDATE stock SET price = 1.0000 WHERE item = 'apple';
SELECT price = 1.00 AS equal FROM stock WHERE item = 'apple';
SELECT count(*) > 0 AS told_apart FROM test.differences('stock') AS d WHERE d LIKE '%1.0000%';
ROLLBACK;
\c dtx_regression

-- one row of each kind of change
BEGIN;
SELECT dtx_exec('peer', $$INSERT INTO stock VALUES ('fig', 1, 9.99, 'new')$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stock SET quantity = quantity - 1, note = NULL WHERE item = 'pear'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');
BEGIN;
SELECT dtx_exec('peer', $$DELETE FROM stock WHERE item = 'plum'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- the same, through parameters
BEGIN;
SELECT dtx_exec('peer', 'UPDATE stock SET quantity = $1, price = $2, note = $3 WHERE item = $4', 7, 0.01, NULL::text, 'pear');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- rows that come back through RETURNING
BEGIN;
SELECT * FROM dtx_query('peer', $$DELETE FROM stock WHERE quantity > 20 RETURNING item, quantity$$) AS r(item text, quantity integer)
    ORDER BY item;
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- many rows at once: some, all, none
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stock SET quantity = quantity * 2 WHERE quantity > 10$$);
SELECT dtx_exec('peer', $$UPDATE stock SET note = 'checked'$$);
SELECT dtx_exec('peer', $$UPDATE stock SET note = 'nobody' WHERE false$$);
SELECT dtx_exec('peer', $$DELETE FROM stock$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- an UPDATE that changes nothing
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stock SET quantity = quantity$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- upsert: rows that are there, a row that is not, a row that is left alone
BEGIN;
SELECT dtx_exec('peer', $$INSERT INTO stock VALUES ('apple', 5), ('fig', 6), ('plum', 7)
    ON CONFLICT (item) DO UPDATE SET quantity = stock.quantity + excluded.quantity WHERE stock.item <> 'plum'$$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock');
BEGIN;
SELECT dtx_exec('peer', $$INSERT INTO stock VALUES ('apple', 5), ('fig', 6) ON CONFLICT DO NOTHING$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- MERGE with all its actions
BEGIN;
SELECT dtx_exec('peer', $$MERGE INTO stock s
    USING (VALUES ('apple', 0), ('pear', 99), ('fig', 6), ('plum', -1)) AS v(item, quantity) ON s.item = v.item
    WHEN MATCHED AND v.quantity = 0 THEN DELETE
    WHEN MATCHED AND v.quantity < 0 THEN DO NOTHING
    WHEN MATCHED THEN UPDATE SET quantity = v.quantity
    WHEN NOT MATCHED THEN INSERT (item, quantity) VALUES (v.item, v.quantity)$$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- a chain of CTEs that write two tables
BEGIN;
SELECT dtx_exec('peer', $$WITH gone AS (DELETE FROM stock WHERE item = 'quince' RETURNING *),
        raised AS (UPDATE stock SET quantity = quantity + (SELECT quantity FROM gone) WHERE item = 'apple' RETURNING *),
        logged AS (INSERT INTO audit SELECT 100 + row_number() OVER (ORDER BY item), item, quantity
                   FROM (TABLE gone UNION ALL TABLE raised) AS q RETURNING *)
    UPDATE audit SET quantity = (SELECT sum(quantity) FROM logged) WHERE id = 1$$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, item, quantity) FROM audit ORDER BY id');
ROLLBACK;
SELECT test.undone(:'xid', 'stock', 'audit');

-- INSERT ... SELECT, UPDATE ... FROM, DELETE ... USING
BEGIN;
SELECT dtx_exec('peer', $$INSERT INTO audit SELECT 200 + row_number() OVER (ORDER BY item), item, quantity FROM stock$$);
SELECT dtx_exec('peer', $$UPDATE stock s SET note = a.id::text FROM audit a WHERE a.item = s.item AND a.id > 200$$);
SELECT dtx_exec('peer', $$DELETE FROM stock s USING audit a WHERE a.item = s.item AND a.id = 1$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock', 'audit');

-- COPY, from a program's output; and within a DO block
BEGIN;
SELECT dtx_exec('peer', $$COPY stock (item, quantity, note) FROM PROGRAM 'printf "fig,6,\nkiwi,7,\"a, b\"\n"' (FORMAT csv)$$);
SELECT dtx_exec('peer', $$DO $do$ BEGIN COPY stock (item, quantity) FROM PROGRAM 'printf "lime\t8\n"'; END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity, note) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- the same row over and over, in one branch: update, update, delete, insert
-- again, update; a new row that goes again; a new row changed before it goes
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE stock SET quantity = 11 WHERE item = 'apple';
    UPDATE stock SET quantity = 12, note = 'second' WHERE item = 'apple';
    DELETE FROM stock WHERE item = 'apple';
    INSERT INTO stock VALUES ('apple', 13, 3.33, 'third');
    UPDATE stock SET quantity = 14 WHERE item = 'apple';
    INSERT INTO stock VALUES ('fig', 1);
    DELETE FROM stock WHERE item = 'fig';
    INSERT INTO stock VALUES ('kiwi', 1);
    UPDATE stock SET quantity = 2 WHERE item = 'kiwi';
    DELETE FROM stock WHERE item = 'kiwi';
    INSERT INTO stock VALUES ('kiwi', 3);
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity, price, note) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- the same row in several branches of one global transaction
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stock SET quantity = 11 WHERE item = 'apple'$$);
SELECT dtx_exec('peer', $$UPDATE stock SET quantity = 12 WHERE item = 'apple'$$);
SELECT dtx_exec('peer', $$DELETE FROM stock WHERE item = 'apple'$$);
SELECT dtx_exec('peer', $$INSERT INTO stock VALUES ('apple', 13)$$);
SELECT dtx_exec('peer', $$UPDATE stock SET note = 'last' WHERE item = 'apple'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- a changed key: there, and there and back, and on to the next one's place
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stock SET item = 'cherry' WHERE item = 'pear'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE stock SET item = 'cherry', quantity = 0 WHERE item = 'pear';
    UPDATE stock SET item = 'pear' WHERE item = 'plum';
    UPDATE stock SET item = 'plum' WHERE item = 'cherry';
    UPDATE stock SET note = 'swapped' WHERE item IN ('pear', 'plum');
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity, note) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock');
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stock SET item = 'cherry' WHERE item = 'pear'$$);
SELECT dtx_exec('peer', $$INSERT INTO stock VALUES ('pear', 1)$$);
SELECT dtx_exec('peer', $$UPDATE stock SET item = 'fig' WHERE item = 'pear'$$);
SELECT dtx_exec('peer', $$UPDATE stock SET item = 'pear' WHERE item = 'cherry'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- every key moves up by one, in one statement
\c dtx_regression_peer
CREATE TABLE stairs (step integer PRIMARY KEY, who text);
INSERT INTO stairs SELECT i, 'person ' || i FROM generate_series(5, 1, -1) AS i;
SELECT dtx_attach('stairs');
SELECT test.keep('stairs');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE stairs SET step = step + 1$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stairs');

-- through an updatable view
\c dtx_regression_peer
CREATE VIEW plenty AS SELECT item, quantity FROM stock WHERE quantity >= 20 WITH CHECK OPTION;
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE plenty SET quantity = quantity + 1$$);
SELECT dtx_exec('peer', $$INSERT INTO plenty VALUES ('fig', 21)$$);
SELECT dtx_exec('peer', $$DELETE FROM plenty WHERE item = 'plum'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- through functions and procedures, SQL and PL/pgSQL, nested
\c dtx_regression_peer
CREATE FUNCTION take(item text, quantity integer) RETURNS integer LANGUAGE sql
    AS 'UPDATE stock SET quantity = quantity - $2 WHERE item = $1 RETURNING quantity';
CREATE PROCEDURE take_all(quantity integer) LANGUAGE plpgsql AS $$
DECLARE i text;
BEGIN
    FOR i IN SELECT s.item FROM stock s ORDER BY s.item LOOP
        PERFORM take(i, take_all.quantity);
        INSERT INTO audit SELECT max(id) + 1, i, take_all.quantity FROM audit;
    END LOOP;
END $$;
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'CALL take_all($1)', 3);
SELECT * FROM dtx_query('peer', $$SELECT take('apple', 1)$$) AS r(quantity integer);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock', 'audit');

-- a PL/pgSQL exception block at the peer: what it took back is not undone twice
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE stock SET quantity = 1 WHERE item = 'apple';
    BEGIN
        UPDATE stock SET quantity = 2 WHERE item = 'apple';
        UPDATE stock SET quantity = 2 WHERE item = 'pear';
        INSERT INTO audit VALUES (50, 'gone', 0);
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        UPDATE stock SET quantity = 3 WHERE item = 'apple';
    END;
    BEGIN
        UPDATE stock SET quantity = 4 WHERE item = 'apple';
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    UPDATE stock SET quantity = 5 WHERE item = 'apple';
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT count(*) || '' entries'' FROM dtx.undo_log');
ROLLBACK;
SELECT test.undone(:'xid', 'stock', 'audit');

-- more rows than are written to the log at a time, in and around blocks that are taken back
\c dtx_regression_peer
CREATE TABLE counter (id integer PRIMARY KEY, v integer);
INSERT INTO counter SELECT i, 0 FROM generate_series(1, 2000) AS i;
SELECT dtx_attach('counter');
SELECT test.keep('counter');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE counter SET v = 1 WHERE id <= 700;
    BEGIN
        UPDATE counter SET v = 2 WHERE id <= 1200;
        BEGIN
            UPDATE counter SET v = 3;
            DELETE FROM counter WHERE id > 600;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        UPDATE counter SET v = v + 4 WHERE id BETWEEN 600 AND 1300;
    END;
    FOR i IN 1 .. 300 LOOP
        BEGIN
            UPDATE counter SET v = v + 5 WHERE id = i;
            IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
    DELETE FROM counter WHERE id BETWEEN 650 AND 1400;
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', v, count(*)) FROM counter GROUP BY v ORDER BY v');
SELECT test.at_peer('SELECT count(*) || '' entries'' FROM dtx.undo_log');
ROLLBACK;
SELECT test.undone(:'xid', 'counter');

-- a cursor, and rows that were locked first
BEGIN;
SELECT dtx_exec('peer', $$DO $do$
DECLARE
    c CURSOR FOR SELECT * FROM stock ORDER BY item FOR UPDATE;
BEGIN
    PERFORM FROM stock WHERE item = 'pear' FOR KEY SHARE;
    PERFORM FROM stock WHERE item IN ('pear', 'plum') FOR NO KEY UPDATE;
    FOR r IN c LOOP
        IF r.item = 'plum' THEN DELETE FROM stock WHERE CURRENT OF c;
        ELSE UPDATE stock SET quantity = quantity + 1 WHERE CURRENT OF c;
        END IF;
    END LOOP;
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', item, quantity) FROM stock ORDER BY item');
ROLLBACK;
SELECT test.undone(:'xid', 'stock');

-- a statement that fails leaves nothing, and no branch
SELECT test.branch_error($$INSERT INTO stock SELECT 'x' || i, i FROM generate_series(1, 3) AS i UNION ALL SELECT 'apple', 1$$);
SELECT test.at_peer($$SELECT test.differences('stock')$$);

-- five thousand rows, changed, and changed again, some deleted
\c dtx_regression_peer
CREATE TABLE big (id integer PRIMARY KEY, v integer, t text);
INSERT INTO big SELECT i, i % 7, repeat(i::text, 10) FROM generate_series(1, 5000) AS i;
CREATE INDEX ON big (v);
SELECT dtx_attach('big');
SELECT test.keep('big');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE big SET v = v + 1$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'big');
BEGIN;
SELECT dtx_exec('peer', $$UPDATE big SET v = v + 1, t = upper(t) || id$$);
SELECT dtx_exec('peer', $$DELETE FROM big WHERE id % 3 = 0$$);
SELECT dtx_exec('peer', $$INSERT INTO big SELECT i, 0, 'new' FROM generate_series(5001, 6000) AS i$$);
SELECT dtx_exec('peer', $$UPDATE big SET v = -v WHERE id % 2 = 0$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'big');

-- commit keeps all of it, and leaves nothing in doubt
BEGIN;
SELECT dtx_exec('peer', $$UPDATE big SET v = v + 100$$);
SELECT dtx_exec('peer', $$DELETE FROM big WHERE id > 100$$);
SELECT dtx_exec('peer', $$INSERT INTO stock VALUES ('apple', 5), ('fig', 6)
    ON CONFLICT (item) DO UPDATE SET quantity = stock.quantity + excluded.quantity$$);
SELECT dtx_exec('peer', $$UPDATE stock SET item = 'cherry' WHERE item = 'pear'$$);
SELECT dtx_exec('peer', $$DELETE FROM stock WHERE item = 'plum'$$);
SELECT dtx_exec('peer', $$MERGE INTO audit a USING stock s ON a.item = s.item
    WHEN MATCHED THEN UPDATE SET quantity = s.quantity
    WHEN NOT MATCHED THEN INSERT VALUES (ascii(s.item), s.item, s.quantity)$$) > 0 AS merged;
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
SELECT * FROM stock ORDER BY item;
SELECT * FROM audit ORDER BY id;
SELECT count(*), min(v), max(v) FROM big;
SELECT count(*) FROM dtx.undo_log;
SELECT count(*) FROM dtx.joined_branch WHERE state = 'd';
DROP TABLE big, stairs, counter;
DROP PROCEDURE take_all;
DROP FUNCTION take;
DROP VIEW plenty;
DROP TABLE stock, audit;
