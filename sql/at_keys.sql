--
-- AT: keys whose type has no hash function, alone or somewhere inside: rows are locked
-- and undone all the same. And physical positions, which VACUUM FULL changes.
--
\c dtx_regression_peer
CREATE TYPE pair AS (a integer, m money);
CREATE TYPE plain_pair AS (a integer, b text);
CREATE TYPE cash_range AS RANGE (subtype = money);
CREATE DOMAIN bits AS bit(4)[];
CREATE DOMAIN span AS int4range;
CREATE TABLE k_money (k money PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_moneys (k money[] PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_pair (k pair PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_plain_pair (k plain_pair PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_pairs (k plain_pair[] PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_bits (k bits PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_varbits (k bit varying[], n integer, v integer NOT NULL, PRIMARY KEY (k, n));
CREATE TABLE k_range (k cash_range PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_multirange (k cash_multirange PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_span (k span PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_tsvector (k tsvector PRIMARY KEY, v integer NOT NULL);
CREATE TABLE k_numerics (k numeric[] PRIMARY KEY, v integer NOT NULL);
INSERT INTO k_money VALUES (1.5, 1), (2, 2);
INSERT INTO k_moneys VALUES ('{1.5,2}', 1), ('{1.5}', 2), ('{}', 3);
INSERT INTO k_pair VALUES ('(1,2.5)', 1), ('(1,2.6)', 2), ('(2,)', 3);
INSERT INTO k_plain_pair VALUES ('(1,a)', 1), ('(1,b)', 2);
INSERT INTO k_pairs VALUES ('{"(1,a)","(2,b)"}', 1), ('{"(1,a)"}', 2);
INSERT INTO k_bits VALUES ('{1010}', 1), ('{1010,1111}', 2);
INSERT INTO k_varbits VALUES ('{101}', 1, 1), ('{101}', 2, 2), ('{1}', 1, 3);
INSERT INTO k_range VALUES ('[1,2]', 1), ('[1,3)', 2), ('empty', 3);
INSERT INTO k_multirange VALUES ('{[1,2]}', 1), ('{}', 2);
INSERT INTO k_span VALUES ('[1,2]', 1), ('[1,5]', 2);
INSERT INTO k_tsvector VALUES ('a b', 1), ('a c', 2);
INSERT INTO k_numerics VALUES ('{1.0,2}', 1), ('{1.5}', 2);
SELECT count(dtx_attach(c.oid)::text) FROM pg_class c WHERE relname LIKE 'k\_%' AND relkind = 'r';
-- plain writes
SELECT count(test.keep(c.oid::regclass::text)::text) FROM pg_class c WHERE relname LIKE 'k\_%' AND relkind = 'r';
CREATE FUNCTION everywhere(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    rel   regclass;
    n     bigint;
    total bigint := 0;
BEGIN
    FOR rel IN SELECT c.oid FROM pg_class c WHERE relname LIKE 'k\_%' AND relkind = 'r' ORDER BY relname LOOP
        EXECUTE format(statement, rel);
        GET DIAGNOSTICS n = ROW_COUNT;
        total := total + n;
    END LOOP;
    RETURN total;
END $$;
SELECT everywhere('UPDATE %s SET v = v + 1');
SELECT everywhere('UPDATE %s SET v = v - 1');
\c dtx_regression
-- branches: every row changed twice, and some deleted, and come back
BEGIN;
SELECT dtx_exec('peer', $$DO $do$ BEGIN PERFORM everywhere('UPDATE %s SET v = v + 10'); END $do$ $$);
SELECT dtx_exec('peer', $$DO $do$ BEGIN PERFORM everywhere('DELETE FROM %s WHERE v = 11'); PERFORM everywhere('UPDATE %s SET v = 0'); END $do$ $$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'k_money', 'k_moneys', 'k_pair', 'k_plain_pair', 'k_pairs', 'k_bits', 'k_varbits', 'k_range', 'k_multirange', 'k_span', 'k_tsvector', 'k_numerics');
-- rows are locked, by equality, and others are not
SELECT test.hold('UPDATE k_moneys SET v = 0 WHERE v = 1', 'UPDATE k_pair SET v = 0 WHERE v = 1', 'UPDATE k_numerics SET v = 0 WHERE v = 1');
SELECT r, left(at_peer, 11) AS result
FROM unnest('{"k_moneys SET v = v","k_moneys SET v = v WHERE v <> 0","k_pair SET v = v","k_pair SET v = v WHERE v <> 0","k_numerics SET v = v","k_numerics SET v = v WHERE v <> 0"}'::text[]) AS r,
    LATERAL test.at_peer('SET dtx.lock_timeout = 20; UPDATE ' || r);
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.undone(:'xid', 'k_moneys', 'k_pair', 'k_numerics');
\c dtx_regression_peer
SET client_min_messages = warning;
DROP FUNCTION everywhere;
DO $$
DECLARE
    rel regclass;
BEGIN
    FOR rel IN SELECT c.oid FROM pg_class c WHERE relname LIKE 'k\_%' AND relkind = 'r' LOOP
        EXECUTE format('DROP TABLE %s', rel);
    END LOOP;
END $$;
DROP TYPE pair, plain_pair, cash_range, bits, span CASCADE;

-- tables rewritten while branches with one change and with many are in doubt: the log,
-- those of branches, and the one that was changed
CREATE TABLE filler (id integer PRIMARY KEY, v text);
CREATE TABLE moved (id integer PRIMARY KEY, gone integer, v text);
INSERT INTO filler SELECT i, repeat('x', 500) FROM generate_series(1, 500) AS i;
INSERT INTO moved (id, v) SELECT i, md5(i::text) FROM generate_series(1, 100) AS i;
ALTER TABLE moved DROP gone;
SELECT dtx_attach('filler'), dtx_attach('moved');
SELECT test.keep('filler', 'moved');
CREATE PROCEDURE rewrite_all() LANGUAGE plpgsql AS $$
BEGIN
    -- as VACUUM FULL, which does not run in here
    CLUSTER dtx.undo_log USING undo_log_key_idx;
    CLUSTER dtx.joined_branch USING joined_branch_pkey;
    CLUSTER moved USING moved_pkey;
END $$;
\c dtx_regression
-- what lies before the branches in the log goes meanwhile
BEGIN;
SELECT dtx_exec('peer', 'UPDATE filler SET v = v || ''1''');
SELECT dtx_xid() AS filler \gset
SELECT test.hold('UPDATE moved SET v = ''one'' WHERE id = 1', 'UPDATE moved SET v = ''many'' WHERE id > 90', 'DELETE FROM moved WHERE id = 50');
ROLLBACK;
SELECT dtx_wait(:'filler', '3min');
SELECT test.at_peer('VACUUM FULL dtx.undo_log');
SELECT test.at_peer('VACUUM FULL dtx.joined_branch');
SELECT test.at_peer('VACUUM FULL moved');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT test.undone(:'xid', 'filler', 'moved');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE filler SET v = v || ''1''');
SELECT dtx_xid() AS filler \gset
SELECT test.hold('UPDATE moved SET v = ''one'' WHERE id = 1', 'UPDATE moved SET v = ''many'' WHERE id > 90', 'DELETE FROM moved WHERE id = 50');
ROLLBACK;
SELECT dtx_wait(:'filler', '3min');
SELECT test.at_peer('DO $$ BEGIN CALL rewrite_all(); END $$');
SELECT test.at_peer('REINDEX TABLE CONCURRENTLY dtx.undo_log');
SELECT test.at_peer('REINDEX TABLE CONCURRENTLY moved');
SELECT test.let_go('COMMIT') AS xid \gset
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
SELECT v, count(*) FROM moved WHERE length(v) < 10 GROUP BY v ORDER BY v;
SELECT count(*) FROM moved;
SELECT test.differences('filler');
DROP PROCEDURE rewrite_all;
DROP TABLE filler, moved;
