--
-- AT: what attaching has checked stays so. A command that would change it is refused,
-- or what it does is put right.
--
\c dtx_regression_peer
CREATE TABLE kept_fit (id integer PRIMARY KEY, code integer NOT NULL UNIQUE, v text, t timestamptz);
CREATE UNIQUE INDEX kept_fit_t ON kept_fit (t);
INSERT INTO kept_fit VALUES (1, 10, 'one'), (2, 20, 'two');
SELECT dtx_attach('kept_fit');
CREATE FUNCTION trigger_state(rel regclass) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws(' ', tgrelid::regclass, tgname, tgenabled), ', ' ORDER BY tgrelid::regclass::text)
    FROM pg_trigger WHERE tgname = 'dtx_capture' AND tgrelid IN (SELECT relid FROM pg_partition_tree(rel) UNION SELECT rel)
$$;

-- persistence
ALTER TABLE kept_fit SET UNLOGGED;
DO $$ BEGIN EXECUTE 'ALTER TABLE kept_fit SET UNLOGGED'; END $$;
-- the key, and what it goes with
ALTER TABLE kept_fit DROP CONSTRAINT kept_fit_pkey;
ALTER TABLE kept_fit DROP id;
ALTER TABLE kept_fit DROP CONSTRAINT kept_fit_pkey, ADD PRIMARY KEY (id) DEFERRABLE;
CREATE DOMAIN number AS integer;
CREATE TABLE of_domain (id number PRIMARY KEY);
SELECT dtx_attach('of_domain');
DROP DOMAIN number CASCADE;
-- one for another, in one command
ALTER TABLE kept_fit DROP CONSTRAINT kept_fit_pkey, ADD CONSTRAINT kept_fit_pkey PRIMARY KEY (code, id);
ALTER TABLE kept_fit REPLICA IDENTITY USING INDEX kept_fit_code_key;
ALTER TABLE kept_fit DROP CONSTRAINT kept_fit_pkey;
ALTER TABLE kept_fit REPLICA IDENTITY FULL;
ALTER TABLE kept_fit REPLICA IDENTITY NOTHING;
ALTER TABLE kept_fit DROP CONSTRAINT kept_fit_code_key;
CREATE UNIQUE INDEX kept_fit_id ON kept_fit (id);
ALTER TABLE kept_fit REPLICA IDENTITY USING INDEX kept_fit_id;
DROP INDEX kept_fit_id;
DROP INDEX CONCURRENTLY kept_fit_id;
REINDEX INDEX CONCURRENTLY kept_fit_id;
ALTER TABLE kept_fit ADD PRIMARY KEY (id);
DROP INDEX kept_fit_id;
-- the trigger
ALTER TABLE kept_fit DISABLE TRIGGER dtx_capture;
ALTER TABLE kept_fit ENABLE TRIGGER dtx_capture;
ALTER TABLE kept_fit ENABLE REPLICA TRIGGER dtx_capture;
ALTER TRIGGER dtx_capture ON kept_fit RENAME TO other;
-- what pg_restore --disable-triggers does
ALTER TABLE kept_fit DISABLE TRIGGER ALL;
SELECT trigger_state('kept_fit');
ALTER TABLE kept_fit ENABLE TRIGGER ALL;
SELECT trigger_state('kept_fit');
ALTER TABLE kept_fit DISABLE TRIGGER USER;
SELECT trigger_state('kept_fit');
ALTER TABLE kept_fit ENABLE ALWAYS TRIGGER dtx_capture;
-- and pg_dump
SELECT dtx_detach('kept_fit');
CREATE TRIGGER dtx_capture AFTER INSERT OR DELETE OR UPDATE ON public.kept_fit FOR EACH ROW EXECUTE FUNCTION dtx.capture();
SELECT trigger_state('kept_fit');
ALTER TABLE kept_fit ENABLE ALWAYS TRIGGER dtx_capture;
-- what does no harm
ALTER TABLE kept_fit ADD w integer, ALTER v TYPE varchar(100), ADD CHECK (w > 0) NOT VALID;
ALTER TABLE kept_fit RENAME TO fit;
ALTER TABLE fit RENAME id TO ident;
ALTER TABLE fit SET (fillfactor = 50);
CREATE INDEX ON fit (w);
SELECT test.keep('fit');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE fit SET w = 1, v = ''changed''');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'fit');
-- with rows in doubt, the same holds
SELECT test.hold('UPDATE fit SET w = 1');
SELECT test.at_peer('ALTER TABLE fit DISABLE TRIGGER ALL');
SELECT test.at_peer('ALTER TABLE fit ENABLE TRIGGER ALL');
SELECT test.at_peer('SET lock_timeout = ''50ms''; ALTER TABLE fit SET UNLOGGED');
SELECT test.at_peer('DROP TRIGGER dtx_capture ON fit');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.undone(:'xid', 'fit');

-- partitions
\c dtx_regression_peer
DROP TABLE fit, of_domain;
CREATE TABLE part (id integer NOT NULL, code integer NOT NULL, v text) PARTITION BY RANGE (id);
CREATE UNIQUE INDEX part_key ON part (id, code);
ALTER TABLE part REPLICA IDENTITY USING INDEX part_key;
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
-- each needs its key
SELECT dtx_attach('part');
ALTER TABLE part_1 REPLICA IDENTITY USING INDEX part_1_id_code_idx;
SELECT dtx_attach('part');
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
CREATE TABLE part_2 (id integer NOT NULL, code integer NOT NULL, v text);
CREATE UNIQUE INDEX part_2_key ON part_2 (id, code);
ALTER TABLE part_2 REPLICA IDENTITY USING INDEX part_2_key;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
ALTER TABLE part_2 REPLICA IDENTITY DEFAULT;
CREATE UNLOGGED TABLE part_3 (id integer PRIMARY KEY, code integer NOT NULL, v text);
ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30);
ALTER TABLE part_3 SET LOGGED;
-- one that is attached by itself goes on with its parent; not if the command fails
SELECT dtx_attach('part_3');
\set VERBOSITY sqlstate
ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (10) TO (30);
\set VERBOSITY default
SELECT dtx_detach('part_3');
SELECT dtx_attach('part_3');
ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30);
SELECT dtx_detach('part_3');
ALTER TABLE part_3 SET UNLOGGED;
-- with partitions of its own, one of which is attached by itself, and rows in doubt
CREATE TABLE part_5 (id integer NOT NULL, code integer NOT NULL, v text, PRIMARY KEY (id, code)) PARTITION BY RANGE (id);
CREATE TABLE part_5_1 PARTITION OF part_5 FOR VALUES FROM (40) TO (45);
CREATE TABLE part_5_2 PARTITION OF part_5 FOR VALUES FROM (45) TO (50);
INSERT INTO part_5 VALUES (40, 1, 'old'), (45, 1, 'old');
SELECT dtx_attach('part_5_1');
SELECT dtx_attach('part_5');
SELECT dtx_attach('part_5');
SELECT dtx_detach('part_5_1');
-- who does not own both may not even wait for a lock
CREATE ROLE dtx_regress_part;
SET ROLE dtx_regress_part;
\set VERBOSITY sqlstate
ALTER TABLE part ATTACH PARTITION part_5 FOR VALUES FROM (40) TO (50);
\set VERBOSITY default
RESET ROLE;
DROP ROLE dtx_regress_part;
\c dtx_regression
SELECT test.hold('UPDATE part_5 SET v = ''new''');
SELECT test.at_peer('ALTER TABLE part ATTACH PARTITION part_5 FOR VALUES FROM (40) TO (50)');
SELECT test.at_peer('SELECT tgrelid::regclass || '' '' || (tgparentid <> 0) FROM pg_trigger WHERE tgname = ''dtx_capture'' AND tgrelid::regclass::text LIKE ''part_5%'' ORDER BY 1');
SELECT test.at_peer('SELECT relation::text FROM dtx_locks ORDER BY 1');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('SELECT id || '' '' || v FROM part WHERE id >= 40 ORDER BY 1');
\c dtx_regression_peer
DELETE FROM part WHERE id >= 40;
ALTER TABLE part DETACH PARTITION part_5;
DROP TABLE part_5;
CREATE EXTENSION postgres_fdw;
CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE part_4 PARTITION OF part FOR VALUES FROM (30) TO (40) SERVER nowhere;
CREATE FOREIGN TABLE part_4 (id integer NOT NULL, code integer NOT NULL, v text) SERVER nowhere;
ALTER TABLE part ATTACH PARTITION part_4 FOR VALUES FROM (30) TO (40);
ALTER TABLE part DISABLE TRIGGER ALL;
SELECT trigger_state('part');
ALTER TABLE part_1 DISABLE TRIGGER dtx_capture;
INSERT INTO part VALUES (1, 1, 'one'), (11, 1, 'eleven'), (21, 1, 'twenty-one');
\c dtx_regression
-- a partition with rows in doubt stays where it is
SELECT test.hold('UPDATE part SET v = ''changed'' WHERE id = 1');
SELECT test.at_peer('ALTER TABLE part DETACH PARTITION part_1');
SELECT test.at_peer('ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY');
SELECT test.at_peer('SELECT inhrelid::regclass || '' '' || inhdetachpending FROM pg_inherits WHERE inhparent = ''part''::regclass ORDER BY 1');
SELECT test.at_peer('DROP TABLE part_1');
SELECT test.at_peer('DROP TABLE part');
SELECT test.at_peer('TRUNCATE part');
SELECT test.at_peer('ALTER TABLE part DETACH PARTITION part_2 CONCURRENTLY');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('SELECT v FROM part ORDER BY id');
SELECT test.at_peer('ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY');
-- what was detached is a table that is not under dtx
SELECT test.branch_error('UPDATE part_1 SET v = v');
\c dtx_regression_peer
SET client_min_messages = warning;
DROP EXTENSION postgres_fdw CASCADE;
DROP TABLE part, part_1, part_2;
DROP FUNCTION trigger_state;
