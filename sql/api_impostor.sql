--
-- A schema dtx that is not the extension's, and relations of the extension's that
-- somebody has altered: no hook and no function takes them for what they are not.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP DATABASE IF EXISTS dtx_impostor WITH (FORCE);
DROP ROLE IF EXISTS dtx_impostor_owner;
DROP ROLE IF EXISTS dtx_impostor_other;
CREATE ROLE dtx_impostor_owner;
CREATE ROLE dtx_impostor_other;
CREATE DATABASE dtx_impostor OWNER dtx_impostor_owner TEMPLATE template0;
ALTER DATABASE dtx_impostor SET lc_messages = 'C';
\c dtx_impostor
SET client_min_messages = warning;

-- a schema of that name, with what hooks look for: views, other kinds, other columns, another schema's worth of rows
SET ROLE dtx_impostor_owner;
CREATE SCHEMA dtx;
CREATE VIEW dtx.undo_log AS SELECT 1 AS x;
CREATE TABLE dtx.branch (n text, b text[], server numeric, role text);
INSERT INTO dtx.branch VALUES ('a', '{b}', 1, 'c');
CREATE TABLE dtx.joined_branch (branch text) PARTITION BY LIST (branch);
CREATE SEQUENCE dtx.subscription;
CREATE VIEW dtx.half_message AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW dtx.notification AS SELECT 1 AS x;
CREATE TABLE dtx.expectation (tx_no text, server oid, role oid);
INSERT INTO dtx.expectation SELECT 'x', oid, 0 FROM pg_foreign_server;
CREATE VIEW dtx.try_log AS SELECT 1 AS x;
CREATE VIEW dtx.confirm_log AS SELECT 1 AS x;
CREATE VIEW dtx.cancel_log AS SELECT 1 AS x;
CREATE TYPE dtx.message AS (id bigint);
CREATE FUNCTION dtx.capture() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE FUNCTION dtx.branch_control(bigint) RETURNS void LANGUAGE sql AS '';
CREATE TABLE t (i integer PRIMARY KEY);
CREATE INDEX t_i ON t (i);
CREATE TRIGGER dtx_capture AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION dtx.capture();
ALTER TABLE t ENABLE ALWAYS TRIGGER dtx_capture;
INSERT INTO t VALUES (1), (2);
UPDATE t SET i = i + 10;
ALTER TABLE t REPLICA IDENTITY FULL;
TRUNCATE t;
ALTER TABLE t ALTER i TYPE text;
DROP TRIGGER dtx_capture ON t;
DROP INDEX t_i;
DROP TABLE t;
DROP FUNCTION dtx.branch_control(bigint);
RESET ROLE;
CREATE FOREIGN DATA WRAPPER impostor;
CREATE SERVER impostor FOREIGN DATA WRAPPER impostor;
CREATE USER MAPPING FOR dtx_impostor_other SERVER impostor;
DROP USER MAPPING FOR dtx_impostor_other SERVER impostor;
DROP SERVER impostor;
DROP FOREIGN DATA WRAPPER impostor;
DROP ROLE dtx_impostor_other;
-- and it is no place for the extension
\set SHOW_CONTEXT never
CREATE EXTENSION dtx;
\set SHOW_CONTEXT errors
DROP SCHEMA dtx CASCADE;
-- one with the name of the extension's schema, that is another extension's
CREATE SCHEMA dtx;
CREATE VIEW dtx.undo_log AS SELECT 1 AS x;
ALTER EXTENSION plpgsql ADD SCHEMA dtx;
ALTER EXTENSION plpgsql ADD VIEW dtx.undo_log;
CREATE TABLE t (i integer);
DROP TABLE t;
ALTER EXTENSION plpgsql DROP VIEW dtx.undo_log;
ALTER EXTENSION plpgsql DROP SCHEMA dtx;
DROP SCHEMA dtx CASCADE;

-- in the extension's own schema: what is altered is an error, not a crash
CREATE EXTENSION dtx;
CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE sql;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n', format('ERROR %s: %s', SQLSTATE, SQLERRM),
                     'DETAIL: ' || nullif(regexp_replace(detail, '[0-9]+( columns, .*) [0-9]+\.', 'N\1 M.'), ''));
END
$$;
SELECT try($$ SELECT dtx_open('1 day') $$);
-- each is rolled back
CREATE FUNCTION altered(alter text, sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    BEGIN
        EXECUTE alter;
        result := try(sql);
        RAISE EXCEPTION SQLSTATE 'ZZZZZ';
    EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
        NULL;
    END;
    RETURN result;
END
$$;
SELECT altered($$ ALTER TABLE dtx.global DROP COLUMN name CASCADE $$, $$ SELECT dtx_open() $$);
SELECT altered($$ ALTER TABLE dtx.global ADD COLUMN more text $$, $$ SELECT dtx_open() $$);
SELECT altered($$ ALTER TABLE dtx.global ALTER r TYPE text $$, $$ SELECT dtx_open() $$);
SELECT altered($$ ALTER TABLE dtx.global DROP CONSTRAINT global_pkey $$, $$ SELECT dtx_open() $$);
SELECT altered($$ ALTER TABLE dtx.global DROP CONSTRAINT global_pkey, ADD CONSTRAINT global_pkey PRIMARY KEY (r) $$, $$ SELECT dtx_open() $$);
SELECT altered($$ CREATE INDEX ON dtx.global ((state::text)) $$, $$ SELECT dtx_open() $$);
SELECT altered($$ CREATE INDEX ON dtx.global USING brin (n) $$, $$ SELECT dtx_open() $$);
SELECT altered($$ ALTER EXTENSION dtx DROP TABLE dtx.global $$, $$ SELECT dtx_open() $$);
SELECT altered($$ ALTER TABLE dtx.subscription ALTER uid TYPE text $$, $$ SELECT dtx_pause('x') $$);
SELECT altered($$ ALTER TABLE dtx.message_1 ADD COLUMN more text $$, $$ SELECT dtx_publish('x', '{}') $$);
SELECT altered($$ ALTER TABLE dtx.node DROP COLUMN retired_at $$, $$ SELECT dtx.node_changed(), dtx_open() $$);
SELECT altered($$ ALTER TABLE dtx.ledger ALTER account TYPE text $$, $$ SELECT dtx_transfer(NULL, '1', '2', 3) $$);
-- hooks go without it, and say so
SET client_min_messages = notice;
CREATE TABLE t (i integer);
BEGIN;
ALTER TABLE dtx.undo_log ADD COLUMN more text;
DROP TABLE t;
ROLLBACK;
SET client_min_messages = warning;
-- an index of somebody's is kept, and so is one that is being built anew
CREATE INDEX more ON dtx.global (deadline);
BEGIN;
SELECT dtx_open('1 day') IS NOT NULL;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SELECT count(*) FROM dtx.global WHERE deadline > '-infinity';
ROLLBACK;
DROP INDEX dtx.more;
REINDEX TABLE CONCURRENTLY dtx.global;
SELECT try($$ SELECT dtx_open('1 day') $$);
\c dtx_regression
SET client_min_messages = warning;
DROP DATABASE dtx_impostor WITH (FORCE);
DROP ROLE dtx_impostor_owner;
