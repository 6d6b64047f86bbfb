--
-- AT: what a branch may not do, since dtx could not undo it.
--
\c dtx_regression_peer
CREATE TABLE attached (id integer PRIMARY KEY, v text);
CREATE TABLE plain (id integer PRIMARY KEY, v text);
INSERT INTO attached VALUES (1, 'one');
INSERT INTO plain VALUES (1, 'one');
CREATE TABLE parent (id integer PRIMARY KEY, v text);
CREATE TABLE child () INHERITS (parent);
INSERT INTO child VALUES (1, 'one');
CREATE VIEW plain_view AS SELECT * FROM plain;
CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM attached;
CREATE SEQUENCE numbers;
CREATE FUNCTION sneak() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO plain VALUES (100, 'sneaked in');
    RETURN NULL;
END $$;
CREATE TABLE sneaky (id integer PRIMARY KEY);
CREATE TRIGGER sneak AFTER INSERT ON sneaky FOR EACH ROW EXECUTE FUNCTION sneak();
CREATE FUNCTION write_plain() RETURNS integer LANGUAGE sql AS 'UPDATE plain SET v = ''function'' RETURNING 1';
CREATE TABLE cascaded (id integer PRIMARY KEY, a integer REFERENCES attached ON DELETE CASCADE);
INSERT INTO cascaded VALUES (1, 1);
SELECT dtx_attach('attached');
SELECT dtx_attach('parent'), dtx_attach('sneaky');
SELECT test.keep('attached', 'plain', 'parent', 'cascaded');
\c dtx_regression

-- a table that is not attached, written in every way
SELECT test.branch_error(statement) FROM unnest(ARRAY[
    $$INSERT INTO plain VALUES (2, 'two')$$,
    $$UPDATE plain SET v = 'changed'$$,
    $$DELETE FROM plain$$,
    $$MERGE INTO plain USING attached ON plain.id = attached.id WHEN MATCHED THEN DELETE$$,
    $$WITH w AS (DELETE FROM plain RETURNING *) INSERT INTO attached SELECT id + 10, v FROM w$$,
    $$UPDATE plain_view SET v = 'changed'$$,
    $$COPY plain FROM PROGRAM 'echo 3'$$,
    $$DO $do$ BEGIN UPDATE attached SET v = 'changed'; UPDATE plain SET v = 'changed'; END $do$ $$,
    $$DO $do$ BEGIN PERFORM write_plain(); END $do$ $$,
    $$EXPLAIN ANALYZE UPDATE plain SET v = 'changed'$$
]) AS statement;
-- by a trigger, by a cascade, in an inheritance child
SELECT test.branch_error('INSERT INTO sneaky VALUES (1)');
SELECT test.branch_error('DELETE FROM attached');
SELECT test.branch_error('UPDATE parent SET v = ''changed''');
SELECT test.at_peer($$SELECT test.differences('attached', 'plain', 'parent', 'cascaded')$$);
-- a statement that would write it, and has no rows to write, is refused as well
SELECT test.branch_error('DELETE FROM plain WHERE false');
-- reading, locking and explaining is not writing
BEGIN;
SELECT * FROM dtx_query('peer', 'SELECT id, v FROM plain') AS r(id integer, v text);
SELECT * FROM dtx_query('peer', 'SELECT id, v FROM plain FOR UPDATE') AS r(id integer, v text);
SELECT dtx_exec('peer', 'DO $$ BEGIN LOCK TABLE plain IN SHARE MODE; END $$');
SELECT * FROM dtx_query('peer', 'EXPLAIN (COSTS OFF) DELETE FROM plain') AS r(line text);
SELECT * FROM dtx_query('peer', 'SELECT nextval(''numbers'')') AS r(n bigint);
COMMIT;

-- TRUNCATE and DDL
SELECT test.branch_error(statement) FROM unnest(ARRAY[
    'TRUNCATE attached CASCADE',
    'TRUNCATE plain',
    'CREATE TABLE made (id integer)',
    'CREATE TEMP TABLE made (id integer)',
    'CREATE TABLE made AS SELECT 1 AS one',
    'ALTER TABLE attached ADD w integer',
    'ALTER TABLE attached DISABLE TRIGGER ALL',
    'DROP TABLE attached CASCADE',
    'CREATE INDEX ON attached (v)',
    'CREATE FUNCTION f() RETURNS integer LANGUAGE sql RETURN 1',
    'REFRESH MATERIALIZED VIEW summary',
    'GRANT SELECT ON attached TO PUBLIC',
    'COMMENT ON TABLE attached IS ''x''',
    'ALTER SYSTEM SET work_mem = ''1MB''',
    'VACUUM attached',
    'REINDEX TABLE attached',
    $$DO $do$ BEGIN EXECUTE 'TRUNCATE attached CASCADE'; END $do$ $$,
    $$DO $do$ BEGIN CREATE TABLE made (id integer); END $do$ $$
]) AS statement;
-- SELECT INTO is DDL in disguise
SELECT test.branch_error('SELECT 1 AS one INTO made');
-- attach and detach, from inside
SELECT test.branch_error($$DO $do$ BEGIN PERFORM dtx_attach('plain'); END $do$ $$);
SELECT test.branch_error($$DO $do$ BEGIN PERFORM dtx_detach('attached'); END $do$ $$);

-- large objects: made, written, read, dropped
\c dtx_regression_peer
SELECT lo_from_bytea(100001, 'large') > 0 AS made;
\c dtx_regression
SELECT test.branch_error(statement) FROM unnest(ARRAY[
    $$DO $do$ BEGIN PERFORM lo_from_bytea(0, 'other'); END $do$ $$,
    $$DO $do$ BEGIN PERFORM lo_put(100001, 0, 'other'); END $do$ $$,
    $$DO $do$ BEGIN PERFORM lo_unlink(100001); END $do$ $$,
    $$DO $do$ BEGIN PERFORM lo_create(100002); END $do$ $$
]) AS statement;
SELECT test.at_peer($$SELECT convert_from(lo_get(100001), 'UTF8')$$);
SELECT test.at_peer($$SELECT count(*) || ' large objects' FROM pg_largeobject_metadata WHERE oid >= 100001$$);
SELECT test.at_peer($$SELECT lo_unlink(100001)::text$$);

-- the statement does not get to change the rules, nor who checks them
SELECT test.branch_error(statement) FROM unnest(ARRAY[
    'SET dtx.unattached = ''allow''',
    'SET LOCAL dtx.unattached = ''allow''',
    'RESET dtx.unattached',
    $$DO $do$ BEGIN PERFORM set_config('dtx.unattached', 'allow', true); UPDATE plain SET v = 'changed'; END $do$ $$,
    $$DO $do$ BEGIN UPDATE pg_settings SET setting = 'allow' WHERE name = 'dtx.unattached'; UPDATE plain SET v = 'changed'; END $do$ $$,
    'DELETE FROM dtx.undo_log',
    'UPDATE pg_class SET relname = relname WHERE relname = ''plain''',
    'ALTER TABLE attached DISABLE TRIGGER dtx_capture'
]) AS statement;
-- a function that would set it for itself
\c dtx_regression_peer
CREATE FUNCTION write_plain_allowed() RETURNS integer LANGUAGE sql SET dtx.unattached = 'allow'
    AS 'UPDATE plain SET v = ''function'' RETURNING 1';
\c dtx_regression
SELECT test.branch_error($$DO $do$ BEGIN PERFORM write_plain_allowed(); END $do$ $$);
SELECT test.at_peer($$SELECT test.differences('attached', 'plain', 'parent', 'cascaded')$$);

-- session_replication_role = replica silences other triggers; capture goes on
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN
    PERFORM set_config('session_replication_role', 'replica', true);
    UPDATE attached SET v = 'changed';
    INSERT INTO attached VALUES (2, 'two');
    INSERT INTO sneaky VALUES (1);
END $do$ $$);
SELECT dtx_xid() AS xid \gset
SELECT test.at_peer('SELECT concat_ws('' '', id, v) FROM attached ORDER BY id');
ROLLBACK;
SELECT test.undone(:'xid', 'attached', 'plain');
-- and a table whose capture was disabled, by force, is not an attached one
\c dtx_regression_peer
UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid = 'attached'::regclass AND tgname = 'dtx_capture';
UPDATE pg_class SET relhastriggers = true WHERE oid = 'attached'::regclass;
\c dtx_regression
SELECT test.branch_error('UPDATE attached SET v = ''changed''');
\c dtx_regression_peer
UPDATE pg_trigger SET tgenabled = 'O' WHERE tgrelid = 'attached'::regclass AND tgname = 'dtx_capture';
UPDATE pg_class SET relhastriggers = true WHERE oid = 'attached'::regclass;
\c dtx_regression
SELECT test.branch_error('UPDATE attached SET v = ''changed''');
\c dtx_regression_peer
ALTER TABLE attached ENABLE ALWAYS TRIGGER dtx_capture;
-- nor is one that has a trigger of that name
CREATE FUNCTION dtx_capture() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER dtx_capture AFTER INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION dtx_capture();
ALTER TABLE plain ENABLE ALWAYS TRIGGER dtx_capture;
\c dtx_regression
SELECT test.branch_error('UPDATE plain SET v = ''changed''');
\c dtx_regression_peer
DROP TRIGGER dtx_capture ON plain;
DROP FUNCTION dtx_capture();
\c dtx_regression

-- a foreign table at the peer
\c dtx_regression_peer
CREATE EXTENSION postgres_fdw;
CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere;
CREATE FOREIGN TABLE far (id integer) SERVER nowhere;
\c dtx_regression
SELECT test.branch_error('INSERT INTO far VALUES (1)');

-- dtx.unattached = warn: it runs, and is not undone
\c dtx_regression_peer
ALTER DATABASE dtx_regression_peer SET dtx.unattached = 'warn';
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE plain SET v = 'warned'$$);
SELECT dtx_exec('peer', $$UPDATE attached SET v = 'warned'$$);
SELECT dtx_exec('peer', $$CREATE TABLE made (id integer)$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'attached');
SELECT test.at_peer('SELECT v FROM plain');
SELECT test.at_peer('DROP TABLE made');
\c dtx_regression_peer
ALTER DATABASE dtx_regression_peer SET dtx.unattached = 'allow';
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', $$UPDATE plain SET v = 'allowed'$$);
SELECT dtx_exec('peer', $$TRUNCATE plain$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'attached');
SELECT test.at_peer('SELECT count(*)::text FROM plain');
\c dtx_regression_peer
ALTER DATABASE dtx_regression_peer RESET dtx.unattached;
INSERT INTO plain VALUES (1, 'one');
-- a role may be given the right, another not
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_regress_careless;
CREATE ROLE dtx_regress_careless SUPERUSER LOGIN;
ALTER ROLE dtx_regress_careless IN DATABASE dtx_regression_peer SET dtx.unattached = 'allow';
\c dtx_regression
SELECT max(option_value) FILTER (WHERE option_name = 'host') AS host, max(option_value) FILTER (WHERE option_name = 'port') AS port
FROM pg_foreign_server, pg_options_to_table(srvoptions) WHERE srvname = 'peer' \gset
CREATE SERVER peer_careless FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer_careless OPTIONS (user 'dtx_regress_careless');
BEGIN;
SELECT dtx_exec('peer_careless', $$UPDATE plain SET v = 'allowed'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer('SELECT v FROM plain');
SELECT test.branch_error($$UPDATE plain SET v = 'changed'$$);

-- who is not inside a branch may do all of that
SELECT test.at_peer('UPDATE plain SET v = ''one''');
SELECT test.at_peer('TRUNCATE plain');
SET client_min_messages = warning;
DROP SERVER peer_careless CASCADE;
\c dtx_regression_peer
SELECT count(*) FROM dtx.joined_branch WHERE state = 'd';
SELECT count(*) FROM dtx.undo_log;
SET client_min_messages = warning;
DROP EXTENSION postgres_fdw CASCADE;
DROP MATERIALIZED VIEW summary;
DROP TABLE attached, plain, parent, sneaky, cascaded CASCADE;
DROP FUNCTION sneak, write_plain, write_plain_allowed;
DROP SEQUENCE numbers;
DROP ROLE dtx_regress_careless;
