--
-- AT: triggers, generated and identity columns, foreign keys. Compensation
-- undoes what they did, fires no trigger and cascades nowhere.
--
\c dtx_regression_peer
CREATE TABLE item (
    id         integer PRIMARY KEY,
    price      numeric NOT NULL,
    updates    integer NOT NULL DEFAULT 0,
    updated_at timestamptz,
    note       text
);
CREATE TABLE item_history (seq integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id integer, price numeric, op text);
CREATE TABLE totals (what text PRIMARY KEY, amount numeric);
INSERT INTO item SELECT i, i * 10, 0, '2024-01-01 00:00+00', 'note ' || i FROM generate_series(1, 4) AS i;
INSERT INTO totals VALUES ('price', 100);

-- BEFORE: rewrites the row
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    NEW.updates := NEW.updates + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION touch();
-- BEFORE: lets some changes not happen
CREATE FUNCTION protect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN OLD.id = 4 THEN NULL ELSE OLD END;
END $$;
CREATE TRIGGER protect BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION protect();
-- AFTER: writes other tables
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO item_history (id, price, op) VALUES (coalesce(NEW.id, OLD.id), NEW.price, TG_OP);
    UPDATE totals SET amount = amount + coalesce(NEW.price, 0) - coalesce(OLD.price, 0) WHERE what = 'price';
    RETURN NULL;
END $$;
CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION record();
-- proof of firing that no rollback takes back
CREATE SEQUENCE fired;
CREATE FUNCTION count_firing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('fired');
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER a_before AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION count_firing();
CREATE TRIGGER z_after AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION count_firing();
CREATE TRIGGER b_before BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION count_firing();
CREATE TRIGGER statement AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH STATEMENT EXECUTE FUNCTION count_firing();
CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION count_firing();
ALTER TABLE item ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER replica AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION count_firing();
ALTER TABLE item ENABLE REPLICA TRIGGER replica;

SELECT dtx_attach('item'), dtx_attach('item_history'), dtx_attach('totals');
SELECT test.keep('item', 'item_history', 'totals');
\c dtx_regression

BEGIN;
SELECT dtx_exec('peer', 'UPDATE item SET price = price + 1 WHERE id <= 2');
SELECT dtx_exec('peer', 'INSERT INTO item (id, price) VALUES (5, 50)');
SELECT dtx_exec('peer', 'DELETE FROM item WHERE id >= 3');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, price, updates, updated_at > ''2024-01-02'') FROM item ORDER BY id');
SELECT test.at_peer('SELECT concat_ws('' '', id, price, op) FROM item_history ORDER BY seq');
SELECT test.at_peer('SELECT amount::text FROM totals');
SELECT test.at_peer('SELECT last_value::text FROM fired');
ROLLBACK;
SELECT test.undone(:'xid', 'item', 'item_history', 'totals');
-- no trigger fired
SELECT test.at_peer('SELECT last_value::text FROM fired');

-- nor when a savepoint's rollback compensates
BEGIN;
SAVEPOINT s;
SELECT dtx_exec('peer', 'UPDATE item SET price = 0');
ROLLBACK TO s;
SELECT test.at_peer('SELECT last_value::text FROM fired');
SELECT dtx_exec('peer', 'DELETE FROM totals WHERE false');
SELECT test.at_peer($$SELECT test.differences('item', 'item_history', 'totals')$$);
SELECT test.at_peer('SELECT last_value::text FROM fired');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'item');

-- an AFTER trigger that changes the second row again while the UPDATE of two
-- rows is being reported: by the log's rows, the older change comes last
\c dtx_regression_peer
CREATE TABLE chain (id integer PRIMARY KEY, v integer, t text);
INSERT INTO chain VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three');
CREATE FUNCTION change_next() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        UPDATE chain SET v = v * 10, t = t || '!' WHERE id = NEW.id + 1;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER change_next AFTER INSERT OR UPDATE ON chain FOR EACH ROW EXECUTE FUNCTION change_next();
SELECT dtx_attach('chain');
SELECT test.keep('chain');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE chain SET v = v + 1 WHERE id <= 2');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, v, t) FROM chain ORDER BY id');
SELECT test.at_peer('SELECT concat_ws('' '', op, before->>''id'', before->>''v'', after->>''v'') FROM dtx_undo ORDER BY seq');
ROLLBACK;
SELECT test.undone(:'xid', 'chain');
-- the same with a trigger that sorts after dtx's own
\c dtx_regression_peer
ALTER TRIGGER change_next ON chain RENAME TO z_change_next;
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE chain SET v = v + 1 WHERE id <= 2');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'chain');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE chain SET v = v + 1 WHERE id <= 2');
SELECT dtx_exec('peer', 'UPDATE chain SET v = v + 1 WHERE id <= 3');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'chain');

-- a trigger that changes, or deletes, the very row that fires it
\c dtx_regression_peer
CREATE TABLE selfish (id integer PRIMARY KEY, v integer);
INSERT INTO selfish VALUES (1, 1), (2, 2), (3, 3);
CREATE FUNCTION change_self() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.v > 100 THEN
        DELETE FROM selfish WHERE id = NEW.id;
    ELSIF NEW.v % 10 <> 0 THEN
        UPDATE selfish SET v = NEW.v * 10 WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER a_change_self AFTER INSERT OR UPDATE ON selfish FOR EACH ROW EXECUTE FUNCTION change_self();
SELECT dtx_attach('selfish');
SELECT test.keep('selfish');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE selfish SET v = v + 1 WHERE id < 3');
SELECT dtx_exec('peer', 'UPDATE selfish SET v = 1001 WHERE id = 3');
SELECT dtx_exec('peer', 'INSERT INTO selfish VALUES (4, 4), (5, 1001), (6, 6)');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, v) FROM selfish ORDER BY id');
ROLLBACK;
SELECT test.undone(:'xid', 'selfish');

-- INSTEAD OF trigger on a view, a rule, and a constraint trigger that is deferred
\c dtx_regression_peer
CREATE VIEW selfish_view AS SELECT id, v AS value FROM selfish;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE selfish SET v = NEW.value WHERE id = OLD.id;
    RETURN NEW;
END $$;
CREATE TRIGGER instead INSTEAD OF UPDATE ON selfish_view FOR EACH ROW EXECUTE FUNCTION instead();
CREATE TABLE shadow (id integer PRIMARY KEY, v integer);
INSERT INTO shadow TABLE selfish;
CREATE RULE also AS ON UPDATE TO shadow DO ALSO UPDATE chain SET v = v - 1 WHERE id = OLD.id;
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE totals SET amount = amount + 1;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON shadow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
SELECT dtx_attach('shadow');
SELECT test.keep('shadow');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE selfish_view SET value = 50 WHERE id = 1');
SELECT dtx_exec('peer', 'UPDATE shadow SET v = 7');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT amount::text FROM totals');
ROLLBACK;
SELECT test.undone(:'xid', 'selfish', 'shadow', 'chain', 'totals');

-- identity ALWAYS and generated columns: not to be written by anyone, restored all the same
\c dtx_regression_peer
CREATE TABLE made (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    a    integer,
    twin integer GENERATED ALWAYS AS (a * 2) STORED,
    text text GENERATED ALWAYS AS ('<' || coalesce(b, '') || '>') STORED,
    b    text,
    s    serial,
    d    integer GENERATED BY DEFAULT AS IDENTITY (START 1000)
);
CREATE INDEX ON made (twin);
INSERT INTO made (a, b) VALUES (1, 'x'), (2, NULL), (3, 'z');
CREATE TABLE made_key (a integer, k integer GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
INSERT INTO made_key VALUES (1), (2), (3);
SELECT dtx_attach('made'), dtx_attach('made_key');
SELECT test.keep('made', 'made_key');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'DELETE FROM made WHERE id = 1');
SELECT dtx_exec('peer', 'UPDATE made SET a = 20, b = ''y'' WHERE id = 2');
SELECT dtx_exec('peer', 'UPDATE made SET id = DEFAULT WHERE id = 3');
SELECT dtx_exec('peer', 'INSERT INTO made (a, b) VALUES (7, ''seven'')');
SELECT dtx_exec('peer', 'INSERT INTO made (id, a) OVERRIDING SYSTEM VALUE VALUES (1, 8)');
SELECT dtx_exec('peer', 'UPDATE made_key SET a = 10 WHERE a = 1');
SELECT dtx_exec('peer', 'DELETE FROM made_key WHERE k = 3');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT made::text FROM made ORDER BY id');
ROLLBACK;
SELECT test.undone(:'xid', 'made', 'made_key');

-- cascading foreign keys: CASCADE, SET NULL, SET DEFAULT, to itself, two levels deep
\c dtx_regression_peer
CREATE TABLE customer (id integer PRIMARY KEY, code text UNIQUE, name text);
CREATE TABLE orders (id integer PRIMARY KEY, customer integer REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE, amount numeric);
CREATE TABLE line (id integer PRIMARY KEY, orders integer NOT NULL REFERENCES orders ON DELETE CASCADE, code text REFERENCES customer (code) ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE visit (id integer PRIMARY KEY, customer integer DEFAULT 1 REFERENCES customer ON DELETE SET DEFAULT ON UPDATE SET NULL);
CREATE TABLE tree (id integer PRIMARY KEY, parent integer REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO customer VALUES (1, 'one', 'Zhang San'), (2, 'two', 'Li Si'), (3, 'three', 'Wang Wu');
INSERT INTO orders VALUES (10, 1, 10), (20, 2, 20), (21, 2, 21), (30, 3, 30);
INSERT INTO line VALUES (100, 10, 'two'), (200, 20, 'two'), (201, 20, 'one'), (202, 21, NULL), (300, 30, 'three');
INSERT INTO visit VALUES (1, 1), (2, 2), (3, 3), (4, NULL);
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 2), (5, 4), (6, 6);
-- only one end of a cascade is attached: said at once
SELECT dtx_attach('customer');
SELECT dtx_attach('orders'), dtx_attach('line'), dtx_attach('visit'), dtx_attach('tree');
SELECT test.keep('customer', 'orders', 'line', 'visit', 'tree');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'DELETE FROM customer WHERE id = 2');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT string_agg(id::text, '' '' ORDER BY id) FROM orders');
SELECT test.at_peer('SELECT string_agg(concat(id, '':'', coalesce(code, ''-'')), '' '' ORDER BY id) FROM line');
SELECT test.at_peer('SELECT string_agg(concat(id, '':'', coalesce(customer::text, ''-'')), '' '' ORDER BY id) FROM visit');
ROLLBACK;
SELECT test.undone(:'xid', 'customer', 'orders', 'line', 'visit');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE customer SET id = id + 10, code = upper(code)');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT string_agg(concat(id, '':'', customer), '' '' ORDER BY id) FROM orders');
SELECT test.at_peer('SELECT string_agg(concat(id, '':'', coalesce(code, ''-'')), '' '' ORDER BY id) FROM line');
ROLLBACK;
SELECT test.undone(:'xid', 'customer', 'orders', 'line', 'visit');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE tree SET id = id + 100 WHERE id IN (2, 6)');
SELECT dtx_exec('peer', 'DELETE FROM tree WHERE id = 4');
SELECT dtx_exec('peer', 'DELETE FROM tree WHERE id = 1');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT string_agg(concat(id, '':'', parent), '' '' ORDER BY id) FROM tree');
ROLLBACK;
SELECT test.undone(:'xid', 'tree');
-- parent and child inserted in one branch, the child first (deferred), and in two branches
\c dtx_regression_peer
ALTER TABLE orders ALTER CONSTRAINT orders_customer_fkey DEFERRABLE INITIALLY DEFERRED;
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    INSERT INTO orders VALUES (40, 4, 40);
    INSERT INTO customer VALUES (4, 'four', 'Zhao Liu');
END $do$ $$);
SELECT dtx_exec('peer', 'INSERT INTO customer VALUES (5, ''five'', ''Sun Qi'')');
SELECT dtx_exec('peer', 'INSERT INTO orders VALUES (50, 5, 50)');
SELECT dtx_exec('peer', 'UPDATE orders SET customer = 5 WHERE customer = 1');
SELECT dtx_exec('peer', 'DELETE FROM customer WHERE id = 1 AND NOT EXISTS (SELECT FROM visit WHERE customer = 1)');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'customer', 'orders', 'line', 'visit');

-- commit keeps what triggers and cascades did
BEGIN;
SELECT dtx_exec('peer', 'UPDATE item SET price = price + 1 WHERE id <= 2');
SELECT dtx_exec('peer', 'DELETE FROM customer WHERE id = 2');
SELECT dtx_exec('peer', 'UPDATE made SET a = 20 WHERE id = 2');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
SELECT id, price, updates FROM item ORDER BY id;
SELECT id, price, op FROM item_history ORDER BY seq;
SELECT * FROM totals;
SELECT * FROM customer ORDER BY id;
SELECT * FROM orders ORDER BY id;
SELECT * FROM line ORDER BY id;
SELECT * FROM visit ORDER BY id;
SELECT id, a, twin FROM made WHERE id = 2;
SELECT count(*) FROM dtx.undo_log;
DROP VIEW selfish_view;
DROP TABLE item, item_history, totals, chain, selfish, shadow, made, made_key, customer, orders, line, visit, tree CASCADE;
DROP SEQUENCE fired;
DROP FUNCTION touch, protect, record, count_firing, change_next, change_self, instead, late;
