--
-- AT: tables that are partitioned, altered, of the same name, under row-level
-- security, and their constraints.
--
-- Dropped columns, before the table was attached and after
\c dtx_regression_peer
CREATE TABLE shrunk (gone_first text, id integer PRIMARY KEY, gone_middle numeric, v text, gone_last integer);
INSERT INTO shrunk SELECT 'x', i, i, 'v' || i, i FROM generate_series(1, 4) AS i;
ALTER TABLE shrunk DROP gone_first, DROP gone_middle;
INSERT INTO shrunk VALUES (5, 'v5', 5), (6, NULL, NULL);
SELECT dtx_attach('shrunk');
ALTER TABLE shrunk DROP gone_last;
INSERT INTO shrunk VALUES (7, 'v7');
SELECT test.keep('shrunk');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE shrunk SET v = v || '!' WHERE id IN (1, 5, 7)$$);
SELECT dtx_exec('peer', 'DELETE FROM shrunk WHERE id IN (2, 6)');
SELECT dtx_exec('peer', 'INSERT INTO shrunk VALUES (8)');
SELECT dtx_exec('peer', 'UPDATE shrunk SET id = 30 WHERE id = 3');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'shrunk');

-- Columns added before, to rows that are not rewritten: their value is in the catalog only
\c dtx_regression_peer
ALTER TABLE shrunk ADD added integer DEFAULT 42, ADD noted text NOT NULL DEFAULT 'none';
SELECT test.keep('shrunk');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE shrunk SET v = v || '!', added = NULL WHERE id IN (1, 5)$$);
SELECT dtx_exec('peer', 'DELETE FROM shrunk WHERE id > 5');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'shrunk');

--
-- Altered between phase 1 and compensation
--
\c dtx_regression_peer
CREATE TABLE altered (id integer PRIMARY KEY, a integer, b text, c varchar(10), twice integer GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO altered (id, a, b, c) SELECT i, i, 'b' || i, 'c' || i FROM generate_series(1, 5) AS i;
SELECT dtx_attach('altered');
CREATE FUNCTION contents(rel regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT t::text FROM %s t ORDER BY t', rel);
END $$;
\c dtx_regression
-- a column added: keeps its current value where the row is there, its default where it comes back
SELECT test.hold('UPDATE altered SET a = 10 * a WHERE id <= 2', 'DELETE FROM altered WHERE id = 3', 'INSERT INTO altered (id, a) VALUES (6, 6)');
SELECT test.at_peer('ALTER TABLE altered ADD more text DEFAULT ''added'', ADD empty integer, ADD counted integer NOT NULL DEFAULT 7');
SELECT test.at_peer($$UPDATE altered SET more = 'written' WHERE id >= 4 AND id < 6$$);
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT contents(''altered'')');
-- a column added, with a default that is computed when a row comes back
SELECT test.at_peer('CREATE SEQUENCE altered_seq');
SELECT test.hold('DELETE FROM altered WHERE id = 3', 'UPDATE altered SET a = 0 WHERE id = 1');
SELECT test.at_peer('ALTER TABLE altered ADD number bigint');
SELECT test.at_peer('ALTER TABLE altered ALTER number SET DEFAULT nextval(''altered_seq'')');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT contents(''altered'')');
-- columns dropped: the others come back
SELECT test.hold('UPDATE altered SET a = 10 * a, b = ''changed'', c = ''changed'' WHERE id <= 2', 'DELETE FROM altered WHERE id = 3');
SELECT test.at_peer('ALTER TABLE altered DROP b, DROP number');
SELECT test.at_peer('SELECT concat_ws('' '', op, before, after) FROM dtx_undo ORDER BY gid, seq');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT contents(''altered'')');
-- and between two branches of one transaction, so that the log has two shapes
SELECT test.hold('UPDATE altered SET a = 0 WHERE id = 1', 'DELETE FROM altered WHERE id = 2');
SELECT test.at_peer('ALTER TABLE altered ADD late text DEFAULT ''late'', DROP empty');
SELECT test.hold('UPDATE altered SET a = 1, late = ''changed'' WHERE id = 1', 'INSERT INTO altered (id, a) VALUES (2, 22)', 'UPDATE altered SET c = NULL WHERE id = 2');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT contents(''altered'')');
-- dropped, and added again under the same name: another column
SELECT test.hold('UPDATE altered SET more = ''in doubt'' WHERE id = 1');
SELECT test.at_peer('ALTER TABLE altered DROP more');
SELECT test.at_peer('ALTER TABLE altered ADD more text DEFAULT ''again''');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT contents(''altered'')');
-- renamed: the column, the table, and to another schema
SELECT test.at_peer('SELECT test.keep(''altered'')');
SELECT test.hold('UPDATE altered SET c = ''x''', 'DELETE FROM altered WHERE id = 4');
SELECT test.at_peer('ALTER TABLE altered RENAME c TO d');
SELECT test.at_peer('ALTER TABLE altered RENAME id TO key');
SELECT test.at_peer('ALTER TABLE altered RENAME TO elsewhere');
SELECT test.at_peer('ALTER TABLE elsewhere SET SCHEMA test');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('ALTER TABLE test.elsewhere SET SCHEMA public');
SELECT test.at_peer('ALTER TABLE elsewhere RENAME TO altered');
SELECT test.at_peer('ALTER TABLE altered RENAME key TO id');
SELECT test.at_peer('ALTER TABLE altered RENAME d TO c');
SELECT test.at_peer('SELECT test.differences(''altered'')');
-- a generated column added is computed; this needs a rewrite, and so waits for the branch
SELECT test.hold('UPDATE altered SET a = 100 WHERE id = 1', 'DELETE FROM altered WHERE id = 2');
SELECT test.at_peer('SET lock_timeout = ''50ms''; ALTER TABLE altered ADD thrice integer GENERATED ALWAYS AS (a * 3) STORED');
-- so does a new type, a default that differs from row to row, and leaving the WAL
SELECT test.at_peer('SET lock_timeout = ''50ms''; ALTER TABLE altered ALTER c TYPE text USING c || ''x''');
SELECT test.at_peer('SET lock_timeout = ''50ms''; ALTER TABLE altered ADD stamped timestamptz DEFAULT clock_timestamp()');
SELECT test.at_peer('SET lock_timeout = ''50ms''; ALTER TABLE altered SET UNLOGGED');
SELECT test.at_peer('TRUNCATE altered');
SELECT test.at_peer('DROP TABLE altered');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT test.differences(''altered'')');
-- then they may
SELECT test.at_peer('ALTER TABLE altered DROP twice');
SELECT test.at_peer('ALTER TABLE altered ALTER a TYPE text');
SELECT test.at_peer('SELECT test.keep(''altered'')');
-- a rewrite that leaves the rows as they are is no obstacle
SELECT test.hold('UPDATE altered SET a = 100 WHERE id = 1', 'DELETE FROM altered WHERE id = 2');
SELECT test.at_peer('VACUUM FULL altered');
SELECT test.at_peer('CLUSTER altered USING altered_pkey');
SELECT test.at_peer('REINDEX TABLE altered');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT test.differences(''altered'')');
-- nor is another type for the same bytes, for which the rows were not rewritten
SELECT test.hold('UPDATE altered SET a = 100 WHERE id = 1', 'DELETE FROM altered WHERE id = 2');
SELECT test.at_peer('ALTER TABLE altered ALTER c TYPE varchar(20)');
SELECT test.at_peer('ALTER TABLE altered ALTER a TYPE varchar');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('ALTER TABLE altered ALTER a TYPE text');
SELECT test.at_peer('ALTER TABLE altered ALTER c TYPE varchar(10)');
SELECT test.undone(:'xid', 'altered');

-- another key: the rows are found by that
SELECT test.hold('UPDATE altered SET a = 100, id = 50 WHERE id = 5', 'DELETE FROM altered WHERE id = 2', 'INSERT INTO altered (id, a) VALUES (9, 9)');
SELECT test.at_peer('ALTER TABLE altered DROP CONSTRAINT altered_pkey');
SELECT test.at_peer('ALTER TABLE altered ADD PRIMARY KEY (a, id)');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('SELECT test.differences(''altered'')');

-- Inheritance: each table is attached by itself
\c dtx_regression_peer
CREATE TABLE ancestor (id integer PRIMARY KEY, v text);
CREATE TABLE descendant (extra integer, PRIMARY KEY (id)) INHERITS (ancestor);
INSERT INTO ancestor VALUES (1, 'a'), (2, 'a');
INSERT INTO descendant VALUES (1, 'd', 1), (3, 'd', 3);
SELECT dtx_attach('ancestor'), dtx_attach('descendant');
SELECT test.keep('ancestor', 'descendant');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE ancestor SET v = v || id');
SELECT dtx_exec('peer', 'DELETE FROM ancestor WHERE id = 1');
SELECT dtx_exec('peer', 'UPDATE ONLY ancestor SET id = 1');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'ancestor', 'descendant');

-- A table of the same name in another schema, and one that hides it on the search path
\c dtx_regression_peer
CREATE SCHEMA other;
CREATE TABLE twin (id integer PRIMARY KEY, v text);
CREATE TABLE other.twin (id integer PRIMARY KEY, v text);
INSERT INTO twin VALUES (1, 'public'), (2, 'public');
INSERT INTO other.twin VALUES (1, 'other'), (2, 'other');
SELECT dtx_attach('twin'), dtx_attach('other.twin');
SELECT test.keep('twin', 'other.twin');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE twin SET v = ''changed'' WHERE id = 1');
SELECT dtx_exec('peer', 'DELETE FROM other.twin WHERE id = 1');
SELECT dtx_exec('peer', 'UPDATE other.twin SET v = ''changed''');
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    SET LOCAL search_path = other;
    DELETE FROM twin WHERE id = 2;
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT v FROM twin ORDER BY id');
SELECT test.at_peer('SELECT count(*)::text FROM other.twin');
ROLLBACK;
SELECT test.undone(:'xid', 'twin', 'other.twin');

--
-- Partitioned tables
--
\c dtx_regression_peer
CREATE TABLE event (id integer, day date, kind text, v integer, PRIMARY KEY (id, day, kind)) PARTITION BY RANGE (day);
CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
-- columns in another order, and a dropped one
CREATE TABLE event_2025 (v integer, dropped text, kind text NOT NULL, day date NOT NULL, id integer NOT NULL);
ALTER TABLE event_2025 DROP dropped;
ALTER TABLE event ATTACH PARTITION event_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (kind);
CREATE TABLE event_2026_a PARTITION OF event_2026 FOR VALUES IN ('a');
CREATE TABLE event_2026_rest PARTITION OF event_2026 DEFAULT;
INSERT INTO event SELECT i, make_date(2024 + i % 3, 1 + i % 12, 1), chr(97 + i % 2), i FROM generate_series(1, 12) AS i;
SELECT dtx_attach('event');
SELECT test.keep('event');
\c dtx_regression
-- rows that stay, rows that move, over one and two levels, and back
BEGIN;
SELECT dtx_exec('peer', 'UPDATE event SET v = -v');
SELECT dtx_exec('peer', 'UPDATE event SET day = day + interval ''1 year'' WHERE day < ''2026-01-01''');
SELECT dtx_exec('peer', $$UPDATE event SET kind = 'z' WHERE kind = 'a'$$);
SELECT dtx_exec('peer', $$UPDATE event SET kind = 'a', day = '2024-06-01' WHERE kind = 'z' AND day >= '2026-01-01'$$);
SELECT dtx_exec('peer', 'DELETE FROM event WHERE id % 4 = 0');
SELECT dtx_exec('peer', $$INSERT INTO event SELECT i, '2026-06-01', 'a', i FROM generate_series(20, 25) AS i$$);
SELECT dtx_exec('peer', $$INSERT INTO event_2025 VALUES (1, 'x', '2025-06-01', 30)$$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', tableoid::regclass, count(*), sum(v)) FROM event GROUP BY tableoid ORDER BY tableoid::regclass::text');
ROLLBACK;
SELECT test.undone(:'xid', 'event');
-- upsert, MERGE and COPY, through the root
BEGIN;
SELECT dtx_exec('peer', $$INSERT INTO event SELECT id, day, kind, 100 FROM event ON CONFLICT (id, day, kind) DO UPDATE SET v = excluded.v$$);
SELECT dtx_exec('peer', $$MERGE INTO event e USING (SELECT id FROM event WHERE id < 6) AS s ON e.id = s.id
    WHEN MATCHED AND e.id < 3 THEN DELETE WHEN MATCHED THEN UPDATE SET day = '2025-12-31'$$);
SELECT dtx_exec('peer', $$COPY event FROM PROGRAM 'printf "50,2024-05-05,k,5\n51,2026-05-05,k,5\n"' (FORMAT csv)$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'event');
-- a partition made later is attached from its birth; one that was a table becomes so
\c dtx_regression_peer
CREATE TABLE event_2027 PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
CREATE TABLE event_2028 (LIKE event INCLUDING ALL);
ALTER TABLE event ATTACH PARTITION event_2028 FOR VALUES FROM ('2028-01-01') TO ('2029-01-01');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE event SET day = ''2027-03-03'' WHERE id <= 3');
SELECT dtx_exec('peer', 'UPDATE event SET day = ''2028-03-03'' WHERE id IN (3, 4)');
SELECT dtx_exec('peer', 'INSERT INTO event_2028 VALUES (60, ''2028-01-01'', ''k'', 1)');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'event');
-- partitions that come and go between phase 1 and compensation
SELECT test.hold('UPDATE event SET day = ''2027-03-03'' WHERE id <= 3', 'DELETE FROM event_2025');
SELECT test.at_peer('CREATE TABLE event_2029 PARTITION OF event FOR VALUES FROM (''2029-01-01'') TO (''2030-01-01'')');
SELECT test.at_peer('ALTER TABLE event DETACH PARTITION event_2024');
SELECT test.at_peer('ALTER TABLE event DETACH PARTITION event_2028');
SELECT test.at_peer('DROP TABLE event_2027');
SELECT test.at_peer('TRUNCATE event');
SELECT dtx_wait(test.let_go('ROLLBACK'), '3min');
SELECT test.at_peer('ALTER TABLE event ATTACH PARTITION event_2028 FOR VALUES FROM (''2028-01-01'') TO (''2029-01-01'')');
SELECT test.at_peer('SELECT test.differences(''event'')');
-- commit keeps the moves
BEGIN;
SELECT dtx_exec('peer', 'UPDATE event SET day = ''2027-03-03'' WHERE id <= 3');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('SELECT count(*)::text FROM event_2027');
-- foreign keys to and from partitioned tables
\c dtx_regression_peer
CREATE TABLE attendance (id integer PRIMARY KEY, event integer, day date, kind text,
    FOREIGN KEY (event, day, kind) REFERENCES event ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO attendance SELECT id, id, day, kind FROM event;
CREATE TABLE part_child (id integer, p integer REFERENCES attendance ON DELETE SET NULL, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE part_child_0 PARTITION OF part_child FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part_child_1 PARTITION OF part_child FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO part_child SELECT id, id FROM attendance;
SELECT dtx_attach('attendance'), dtx_attach('part_child');
SELECT test.keep('event', 'attendance', 'part_child');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE event SET day = ''2025-07-07'' WHERE id = 4');
SELECT dtx_exec('peer', 'UPDATE event SET id = id + 100 WHERE id IN (5, 8)');
SELECT dtx_exec('peer', 'DELETE FROM event WHERE id < 8');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', count(*), sum(event)) FROM attendance');
SELECT test.at_peer('SELECT count(*)::text FROM part_child WHERE p IS NULL');
ROLLBACK;
SELECT test.undone(:'xid', 'event', 'attendance', 'part_child');

--
-- Row-level security: compensation sees every row, whoever rolled back
--
\c dtx_regression_peer
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_regress_app, dtx_regress_owner;
RESET client_min_messages;
CREATE ROLE dtx_regress_app LOGIN;
CREATE ROLE dtx_regress_owner LOGIN;
SELECT dtx_admit('dtx_regress_app'), dtx_admit('dtx_regress_owner');
CREATE TABLE secret (id integer PRIMARY KEY, tenant text, v text);
INSERT INTO secret VALUES (1, 'app', 'one'), (2, 'app', 'two'), (3, 'other', 'three');
SELECT dtx_attach('secret');
ALTER TABLE secret OWNER TO dtx_regress_owner;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE secret FORCE ROW LEVEL SECURITY;
GRANT ALL ON secret TO dtx_regress_app;
-- may be read as long as it is the tenant's; may be handed on
CREATE POLICY reading ON secret FOR SELECT USING (tenant = 'app' OR tenant = current_user);
CREATE POLICY changing ON secret FOR UPDATE USING (tenant = 'app') WITH CHECK (true);
CREATE POLICY removing ON secret FOR DELETE USING (tenant = 'app');
CREATE POLICY adding ON secret FOR INSERT WITH CHECK (tenant IN ('app', 'dtx_regress_app'));
SELECT test.keep('secret');
\c dtx_regression
SELECT max(option_value) FILTER (WHERE option_name = 'host') AS host, max(option_value) FILTER (WHERE option_name = 'port') AS port
FROM pg_foreign_server, pg_options_to_table(srvoptions) WHERE srvname = 'peer' \gset
CREATE SERVER peer_app FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer_app OPTIONS (user 'dtx_regress_app');
CREATE SERVER peer_owner FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer_owner OPTIONS (user 'dtx_regress_owner');
BEGIN;
-- what is handed on is out of sight of who did it
SELECT dtx_exec('peer_app', 'UPDATE secret SET tenant = ''dtx_regress_app'' WHERE id = 1');
SELECT dtx_exec('peer_app', 'UPDATE secret SET v = ''changed''');
SELECT dtx_exec('peer_app', 'DELETE FROM secret');
SELECT dtx_exec('peer_app', 'INSERT INTO secret VALUES (4, ''dtx_regress_app'', ''new'')');
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, tenant, v) FROM secret ORDER BY id');
ROLLBACK;
SELECT test.undone(:'xid', 'secret');
-- forced upon the owner as well
BEGIN;
SELECT dtx_exec('peer_owner', 'UPDATE secret SET tenant = ''app'', v = ''changed'' WHERE id = 1');
SELECT dtx_exec('peer_owner', 'DELETE FROM secret WHERE id = 2');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'secret');
-- rights lost between phase 1 and compensation
BEGIN;
SELECT dtx_exec('peer_app', 'UPDATE secret SET v = ''changed'' WHERE id = 1');
SELECT dtx_exec('peer_app', 'DELETE FROM secret WHERE id = 2');
SELECT test.at_peer('REVOKE ALL ON secret FROM dtx_regress_app');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'secret');
-- code of the table's owner runs as the owner while a superuser's branch is undone
\c dtx_regression_peer
CREATE FUNCTION public.as_owner() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN public.dtx_xid() IS NOT NULL OR current_user = 'dtx_regress_owner';
END $$;
ALTER TABLE secret ADD CONSTRAINT as_owner CHECK (public.as_owner()) NOT VALID;
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE secret SET v = ''changed'' WHERE id = 1');
SELECT dtx_exec('peer', 'DELETE FROM secret WHERE id = 2');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'secret');
SET client_min_messages = warning;
DROP SERVER peer_app CASCADE;
DROP SERVER peer_owner CASCADE;
RESET client_min_messages;

--
-- Constraints
--
\c dtx_regression_peer
CREATE TABLE deferred (id integer PRIMARY KEY, place integer UNIQUE DEFERRABLE INITIALLY DEFERRED, code text UNIQUE DEFERRABLE, v integer CHECK (v > 0) NOT NULL);
INSERT INTO deferred VALUES (1, 1, 'a', 1), (2, 2, 'b', 2), (3, 3, 'c', 3);
CREATE TABLE unique_now (id integer PRIMARY KEY, place integer UNIQUE, lower text);
CREATE UNIQUE INDEX ON unique_now (lower(lower)) WHERE place > 0;
INSERT INTO unique_now VALUES (1, 1, 'A'), (2, 2, 'b'), (3, 3, 'c');
CREATE TABLE booking (id integer PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO booking VALUES (1, '[1,5)'), (2, '[5,9)');
SELECT dtx_attach('deferred'), dtx_attach('unique_now'), dtx_attach('booking');
SELECT test.keep('deferred', 'unique_now', 'booking');
\c dtx_regression
-- unique values that change places, in one statement and one at a time
BEGIN;
SELECT dtx_exec('peer', 'UPDATE deferred SET place = 4 - place, code = CASE code WHEN ''a'' THEN ''b'' WHEN ''b'' THEN ''c'' ELSE ''a'' END');
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE deferred SET place = 2 WHERE id = 1;
    UPDATE deferred SET place = 3 WHERE id = 2;
    UPDATE booking SET during = '[5,9)' WHERE id = 1;
    UPDATE booking SET during = '[1,5)' WHERE id = 2;
END $do$ $$);
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    UPDATE unique_now SET place = -1 WHERE id = 1;
    UPDATE unique_now SET place = 1, lower = 'a' WHERE id = 2;
    UPDATE unique_now SET place = 2, lower = 'B' WHERE id = 1;
    DELETE FROM unique_now WHERE id = 3;
    INSERT INTO unique_now VALUES (4, 3, 'C');
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, place, code) FROM deferred ORDER BY id');
SELECT test.at_peer('SELECT concat_ws('' '', id, place, lower) FROM unique_now ORDER BY id');
ROLLBACK;
SELECT test.undone(:'xid', 'deferred', 'unique_now', 'booking');
-- the constraints still hold: indexes were maintained
SELECT test.at_peer('INSERT INTO deferred VALUES (4, 1, ''d'', 1)');
SELECT test.at_peer('INSERT INTO unique_now VALUES (4, 4, ''a'')');
SELECT test.at_peer('INSERT INTO booking VALUES (3, ''[4,6)'')');
-- a deferred constraint that fails at phase 1 leaves nothing
SELECT test.branch_error('UPDATE deferred SET place = 1');
SELECT test.branch_error('UPDATE deferred SET v = -1 WHERE id = 1');
SELECT test.at_peer($$SELECT test.differences('deferred', 'unique_now', 'booking')$$);
-- indexes of all kinds answer as before
\c dtx_regression_peer
CREATE TABLE indexed (id integer PRIMARY KEY, t text, ts tsvector, r int4range, p point, ia integer[]);
CREATE INDEX ON indexed USING hash (t);
CREATE INDEX ON indexed USING gin (ts);
CREATE INDEX ON indexed USING gin (ia) WITH (fastupdate = on);
CREATE INDEX ON indexed USING gist (r);
CREATE INDEX ON indexed USING spgist (p);
CREATE INDEX ON indexed USING brin (id);
CREATE INDEX ON indexed (upper(t)) INCLUDE (id) WHERE id < 400;
INSERT INTO indexed SELECT i, 't' || i, to_tsvector('simple', 'w' || i), int4range(i, i + 2), point(i, i), ARRAY[i, i + 1] FROM generate_series(1, 500) AS i;
SELECT dtx_attach('indexed');
SELECT test.keep('indexed');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE indexed SET t = 'u' || id, ts = to_tsvector('simple', 'x' || id), r = int4range(-id, 0), p = point(-id, 0), ia = ARRAY[-id] WHERE id % 2 = 0$$);
SELECT dtx_exec('peer', 'DELETE FROM indexed WHERE id % 5 = 0');
SELECT dtx_exec('peer', $$INSERT INTO indexed SELECT i, 'n' || i FROM generate_series(501, 600) AS i$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'indexed');
\c dtx_regression_peer
SET enable_seqscan = off;
SELECT array_agg(id) FROM indexed WHERE t = 't10';
SELECT array_agg(id) FROM indexed WHERE ts @@ 'w10';
SELECT array_agg(id ORDER BY id) FROM indexed WHERE ia @> '{10}';
SELECT array_agg(id ORDER BY id) FROM indexed WHERE r @> 10;
SELECT array_agg(id) FROM indexed WHERE p <@ box '(10.5,10.5),(9.5,9.5)';
SELECT array_agg(id) FROM indexed WHERE upper(t) = 'T10' AND id < 400;
RESET enable_seqscan;

SELECT count(*) FROM dtx.joined_branch WHERE state = 'd';
SELECT count(*) FROM dtx.undo_log;
DROP TABLE shrunk, altered, ancestor, descendant, twin, other.twin, attendance, part_child, event, secret, deferred, unique_now, booking, indexed;
DROP SCHEMA other;
DROP SEQUENCE altered_seq;
DROP FUNCTION contents, public.as_owner;
DROP OWNED BY dtx_regress_app, dtx_regress_owner;
DROP ROLE dtx_regress_app, dtx_regress_owner;
