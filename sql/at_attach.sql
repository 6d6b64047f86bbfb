--
-- AT: dtx_attach, dtx_detach, dtx_attach_all and what they refuse; the keys a
-- table may have; what dtx_undo and dtx_locks show of rows in doubt.
--
\c dtx_regression_peer
-- without a key that serves
CREATE TABLE no_key (id integer, v text);
SELECT dtx_attach('no_key');
CREATE TABLE late_key (id integer PRIMARY KEY DEFERRABLE, v text);
SELECT dtx_attach('late_key');
CREATE TABLE unique_key (id integer NOT NULL UNIQUE, v text);
SELECT dtx_attach('unique_key');
CREATE TABLE part_no_key (id integer, v text) PARTITION BY LIST (v);
SELECT dtx_attach('part_no_key');
-- tables of the wrong kind
CREATE TEMP TABLE fleeting (id integer PRIMARY KEY);
SELECT dtx_attach('fleeting');
CREATE UNLOGGED TABLE unlogged (id integer PRIMARY KEY);
SELECT dtx_attach('unlogged');
SELECT dtx_attach('pg_class');
SELECT dtx_attach('pg_authid');
SELECT dtx_attach('dtx.undo_log');
SELECT dtx_attach('dtx.node');
CREATE VIEW a_view AS SELECT * FROM no_key;
SELECT dtx_attach('a_view');
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM no_key;
SELECT dtx_attach('a_matview');
CREATE SEQUENCE a_sequence;
SELECT dtx_attach('a_sequence');
SELECT dtx_attach('pg_class_oid_index');
SELECT dtx_attach(0);
SELECT dtx_detach(4294967295);
SELECT dtx_ledger(4294967295);
CREATE TYPE a_type AS (id integer);
SELECT dtx_attach('a_type');
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE a_foreign_table (id integer) SERVER nowhere;
SELECT dtx_attach('a_foreign_table');
CREATE TABLE good (id integer PRIMARY KEY, v text);
SELECT reltoastrelid::regclass::text AS toast FROM pg_class WHERE oid = 'good'::regclass \gset
\set VERBOSITY sqlstate
SELECT dtx_attach(:'toast');
\set VERBOSITY default
SELECT dtx_attach('nobody_knows_it');
SELECT dtx_attach(NULL) IS NULL AS nothing_done;

-- twice, and after a detach
SELECT dtx_attach('good');
SELECT dtx_attach('good');
SELECT dtx_detach('good');
SELECT dtx_detach('good');
SELECT dtx_detach('a_view');
SELECT dtx_attach('good');
SELECT tgname, tgenabled, tgfoid::regprocedure FROM pg_trigger WHERE tgrelid = 'good'::regclass;
-- undone with its transaction
BEGIN;
SELECT dtx_detach('good');
ROLLBACK;
SELECT dtx.is_attached('good');
BEGIN;
ALTER TABLE no_key ADD PRIMARY KEY (id);
SELECT dtx_attach('no_key');
ROLLBACK;
SELECT dtx.is_attached('no_key');

-- who may
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_regress_alice, dtx_regress_bob;
RESET client_min_messages;
CREATE ROLE dtx_regress_alice;
CREATE ROLE dtx_regress_bob;
CREATE SCHEMA alices AUTHORIZATION dtx_regress_alice;
CREATE TABLE alices.diary (id integer PRIMARY KEY, v text);
INSERT INTO alices.diary VALUES (1, 'dear'), (2, 'diary');
ALTER TABLE alices.diary OWNER TO dtx_regress_alice;
GRANT ALL ON SCHEMA alices TO dtx_regress_bob;
GRANT ALL ON alices.diary TO dtx_regress_bob;
SET ROLE dtx_regress_bob;
SELECT dtx_attach('alices.diary');
SET ROLE dtx_regress_alice;
SELECT dtx_attach('alices.diary');
SET ROLE dtx_regress_bob;
SELECT dtx_detach('alices.diary');
UPDATE alices.diary SET v = 'bob was here' WHERE id = 1;
SET ROLE dtx_regress_alice;
SELECT dtx_detach('alices.diary');
SELECT dtx_attach('alices.diary');
-- the trigger is of no use elsewhere
CREATE TABLE alices.other (id integer PRIMARY KEY);
CREATE TRIGGER dtx_capture AFTER INSERT ON alices.other FOR EACH ROW EXECUTE FUNCTION dtx.capture();
RESET ROLE;
CREATE TRIGGER dtx_capture BEFORE INSERT ON alices.other FOR EACH ROW EXECUTE FUNCTION dtx.capture();
INSERT INTO alices.other VALUES (1);
DROP TABLE alices.other;
SELECT dtx.capture();

-- all tables of a schema: those that can be
CREATE SCHEMA mixed;
CREATE TABLE mixed.one (id integer PRIMARY KEY);
CREATE TABLE mixed.two (id integer PRIMARY KEY);
CREATE TABLE mixed.three (id integer);
CREATE UNLOGGED TABLE mixed.four (id integer PRIMARY KEY);
CREATE VIEW mixed.five AS SELECT * FROM mixed.one;
CREATE TABLE mixed."Six" (id integer PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE mixed.six_one PARTITION OF mixed."Six" FOR VALUES IN (1);
SELECT dtx_attach('mixed.two');
\set VERBOSITY terse
SELECT dtx_attach_all('mixed');
SELECT relname, dtx.is_attached(oid) FROM pg_class WHERE relnamespace = 'mixed'::regnamespace AND relkind IN ('r', 'p') ORDER BY relname COLLATE "C";
SELECT dtx_attach_all('mixed');
\set VERBOSITY default
SELECT dtx_attach_all('nowhere');
SELECT dtx_attach_all(NULL);
-- not those of others
GRANT ALL ON SCHEMA mixed TO dtx_regress_bob;
CREATE TABLE mixed.seven (id integer PRIMARY KEY);
SET ROLE dtx_regress_bob;
\set VERBOSITY terse
SELECT dtx_attach_all('mixed');
\set VERBOSITY default
RESET ROLE;

-- a partition is attached with its root, and detached with it
SELECT dtx_attach('mixed.six_one');
\set VERBOSITY sqlstate
SELECT dtx_detach('mixed.six_one');
\set VERBOSITY default
SELECT dtx_detach('mixed."Six"');
SELECT dtx.is_attached('mixed.six_one');
-- a partition alone, and then its root: from now on both together
SELECT dtx_attach('mixed.six_one');
SELECT dtx_attach('mixed."Six"');
SELECT dtx_detach('mixed.six_one');

-- cascading foreign keys that reach tables which are not attached: a warning
CREATE TABLE top (id integer PRIMARY KEY);
CREATE TABLE "Below" (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE, self integer REFERENCES "Below" ON DELETE CASCADE);
CREATE TABLE aside (id integer PRIMARY KEY, top integer REFERENCES top);
SELECT dtx_attach('top');
SELECT dtx_detach('top');
SELECT dtx_attach('"Below"');
SELECT dtx_attach('top');

--
-- Other keys than a primary one
--
CREATE TABLE by_identity (a integer NOT NULL, b text NOT NULL, v text);
CREATE UNIQUE INDEX by_identity_key ON by_identity (b, a);
ALTER TABLE by_identity REPLICA IDENTITY USING INDEX by_identity_key;
INSERT INTO by_identity VALUES (1, 'x', 'one'), (1, 'y', 'two'), (2, 'x', 'three');
-- one beside the primary key, and preferred to it
CREATE TABLE both_keys (id integer PRIMARY KEY, code text NOT NULL, v text);
CREATE UNIQUE INDEX both_keys_code ON both_keys (code);
ALTER TABLE both_keys REPLICA IDENTITY USING INDEX both_keys_code;
INSERT INTO both_keys VALUES (1, 'a', 'one'), (2, 'b', 'two');
-- the primary key, whatever logical replication uses
CREATE TABLE identity_full (id integer PRIMARY KEY, v text);
ALTER TABLE identity_full REPLICA IDENTITY FULL;
INSERT INTO identity_full VALUES (1, 'one'), (2, 'two');
CREATE TABLE identity_nothing (id integer, w integer, v text, PRIMARY KEY (id) INCLUDE (w));
ALTER TABLE identity_nothing REPLICA IDENTITY NOTHING;
INSERT INTO identity_nothing VALUES (1, 1, 'one'), (2, 2, 'two');
SELECT dtx_attach(t) FROM unnest('{by_identity,both_keys,identity_full,identity_nothing}'::regclass[]) AS t;
SELECT test.keep('by_identity', 'both_keys', 'identity_full', 'identity_nothing');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE ' || t || ' SET v = v || ''!''') FROM unnest('{by_identity,both_keys,identity_full,identity_nothing}'::text[]) AS t;
SELECT dtx_exec('peer', 'UPDATE by_identity SET a = a + 10 WHERE b = ''x''');
SELECT dtx_exec('peer', 'DELETE FROM by_identity WHERE b = ''y''');
SELECT dtx_exec('peer', 'UPDATE both_keys SET code = code || code, id = id + 10');
SELECT dtx_exec('peer', 'UPDATE both_keys SET id = id + 10');
SELECT dtx_exec('peer', 'DELETE FROM identity_full WHERE id = 1');
SELECT dtx_exec('peer', 'UPDATE identity_nothing SET id = id + 10 WHERE id = 1');
SELECT dtx_exec('peer', 'UPDATE identity_nothing SET w = 0 WHERE id = 2');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'by_identity', 'both_keys', 'identity_full', 'identity_nothing');

--
-- In doubt
--
\c dtx_regression_peer
CREATE TABLE "Doubted" (id integer PRIMARY KEY, amount numeric, tags text[], note text, "Born" date);
INSERT INTO "Doubted" VALUES (1, 1.50, '{a,b}', 'one', '2024-02-29'), (2, 2.00, NULL, NULL, NULL), (3, 3, '{}', repeat('long', 5000), 'infinity');
CREATE TABLE quiet (id integer PRIMARY KEY);
INSERT INTO quiet VALUES (1);
SELECT dtx_attach('"Doubted"'), dtx_attach('quiet');
SELECT test.keep('"Doubted"');
SELECT count(*) FROM dtx_undo;
SELECT count(*) FROM dtx_locks;
\c dtx_regression
SELECT test.conninfo('dtx_regression') AS coordinator, test.conninfo('dtx_regression_peer') AS participant \gset
\c dtx_regression_peer
-- a session at the coordinator, from here
CREATE EXTENSION dblink;
SELECT dblink_connect('holder', :'coordinator');
SELECT dblink_exec('holder', 'BEGIN');
SELECT n FROM dblink('holder', $$SELECT dtx_exec('peer', 'UPDATE "Doubted" SET amount = amount * 2, tags = tags || ''c''::text WHERE id = 1')$$) AS r(n bigint);
SELECT n FROM dblink('holder', $$SELECT dtx_exec('peer', 'DELETE FROM "Doubted" WHERE id = 2')$$) AS r(n bigint);
SELECT n FROM dblink('holder', $$SELECT dtx_exec('peer', 'INSERT INTO "Doubted" VALUES (4, 4, ''{x}'', ''four'')')$$) AS r(n bigint);
SELECT n FROM dblink('holder', $$SELECT dtx_exec('peer', 'UPDATE "Doubted" SET id = 33 WHERE id = 3')$$) AS r(n bigint);
SELECT relation, op, before, after FROM (SELECT gid, relation, op, before - 'note' AS before, after - 'note' AS after FROM dtx_undo) AS u ORDER BY gid;
SELECT op, length(before->>'note'), length(after->>'note') FROM dtx_undo WHERE before->>'id' = '3';
SELECT relation, row->>'id' AS id, row->>'amount' AS amount, role = current_user AS mine, joined_at <= now() AS joined,
       xid = regexp_replace(gid, '/\d+$', '') AS xid_fits
FROM dtx_locks ORDER BY 2;
SELECT state, side, mode, attempts, last_error, conflict, age_seconds > 0 AS aged FROM dtx_branches;
-- who has locked a table does not keep others from looking
SELECT dblink_connect('locker', :'participant');
SELECT dblink_exec('locker', 'BEGIN; LOCK TABLE "Doubted"');
SET lock_timeout = '1s';
SELECT DISTINCT relation, row FROM dtx_locks;
SELECT op, before, after FROM dtx_undo ORDER BY gid;
RESET lock_timeout;
SELECT dblink_disconnect('locker');
-- the columns are those of the rows when they were changed
ALTER TABLE "Doubted" RENAME amount TO price;
ALTER TABLE "Doubted" ADD later integer DEFAULT 7;
SELECT op, before - 'note' AS before, after - 'note' AS after FROM dtx_undo ORDER BY gid;
-- images are for those who may read the table
SET ROLE dtx_regress_bob;
SELECT count(*) FROM dtx_undo;
SELECT count(*) FROM dtx_locks;
RESET ROLE;
GRANT SELECT ON "Doubted" TO dtx_regress_bob;
SET ROLE dtx_regress_bob;
SELECT count(*) FROM dtx_undo;
SELECT count(*) > 0 AS some FROM dtx_locks;
RESET ROLE;
ALTER TABLE "Doubted" ENABLE ROW LEVEL SECURITY;
SET ROLE dtx_regress_bob;
SELECT count(*) FROM dtx_undo;
SELECT count(*) FROM dtx_locks;
RESET ROLE;
ALTER TABLE "Doubted" DISABLE ROW LEVEL SECURITY;
-- the tables of dtx are not for users
SET ROLE dtx_regress_bob;
SELECT count(*) FROM dtx.undo_log;
RESET ROLE;

-- refused while rows are in doubt
SELECT dtx_detach('"Doubted"');
TRUNCATE "Doubted";
TRUNCATE quiet, "Doubted";
DROP TABLE "Doubted";
DROP TABLE quiet, "Doubted" CASCADE;
SET lock_timeout = '50ms';
\set VERBOSITY sqlstate
ALTER TABLE "Doubted" ALTER price TYPE text;
ALTER TABLE "Doubted" SET UNLOGGED;
\set VERBOSITY default
RESET lock_timeout;
BEGIN;
CREATE SCHEMA gone;
ALTER TABLE "Doubted" SET SCHEMA gone;
DROP SCHEMA gone CASCADE;
ROLLBACK;
BEGIN;
ALTER TABLE "Doubted" OWNER TO dtx_regress_bob;
\set VERBOSITY sqlstate
DROP OWNED BY dtx_regress_bob;
\set VERBOSITY default
ROLLBACK;
DROP TRIGGER dtx_capture ON "Doubted";
ALTER TABLE "Doubted" DISABLE TRIGGER dtx_capture;
ALTER TABLE "Doubted" DISABLE TRIGGER ALL;
ALTER TABLE "Doubted" DISABLE TRIGGER USER;
ALTER TABLE "Doubted" ENABLE REPLICA TRIGGER dtx_capture;
-- not so those of a table without
SELECT dtx_detach('quiet');
TRUNCATE quiet;
DROP TABLE quiet;
-- writers wait for the rows, readers and writers of other rows do not
\set VERBOSITY sqlstate
SET dtx.lock_timeout = '20ms';
UPDATE "Doubted" SET note = 'mine' WHERE id = 1;
DELETE FROM "Doubted" WHERE id = 4;
INSERT INTO "Doubted" VALUES (2, 2);
INSERT INTO "Doubted" VALUES (3, 3);
UPDATE "Doubted" SET note = 'mine' WHERE id = 33;
INSERT INTO "Doubted" VALUES (5, 5) RETURNING id;
DELETE FROM "Doubted" WHERE id = 5;
\set VERBOSITY default
SELECT id, price FROM "Doubted" ORDER BY id;
-- what the message says
DO $$
BEGIN
    UPDATE "Doubted" SET note = 'mine' WHERE id = 1;
EXCEPTION WHEN lock_not_available THEN
    RAISE NOTICE '%', regexp_replace(SQLERRM, '\w+\.[0-9a-f]{8}:\d+\.[0-9a-f]{16}', 'XID');
END $$;
RESET dtx.lock_timeout;

-- asked at the participant
SELECT xid FROM dblink('holder', 'SELECT dtx_xid()') AS r(xid text) \gset
SELECT dtx_status(:'xid');
SELECT dtx_wait(:'xid', '1ms');

-- settled, all of that is free again
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dblink_disconnect('holder');
\c dtx_regression
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
ALTER TABLE "Doubted" RENAME price TO amount;
ALTER TABLE "Doubted" DROP later;
SELECT test.differences('"Doubted"');
SELECT count(*) FROM dtx_undo;
SELECT count(*) FROM dtx_locks;
SELECT count(*) FROM dtx_branches;
SELECT dtx_detach('"Doubted"');
TRUNCATE "Doubted";
-- a table that is detached is a plain one
\c dtx_regression
SELECT test.branch_error('INSERT INTO "Doubted" VALUES (1)');

\c dtx_regression_peer
SET client_min_messages = warning;
DROP EXTENSION dblink;
DROP TABLE "Doubted", no_key, late_key, unique_key, part_no_key, unlogged, good, top, "Below", aside, by_identity, both_keys, identity_full, identity_nothing CASCADE;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP FOREIGN DATA WRAPPER nothing CASCADE;
DROP SCHEMA alices, mixed CASCADE;
DROP ROLE dtx_regress_alice, dtx_regress_bob;
