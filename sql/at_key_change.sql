--
-- AT: the key of a table with rows in doubt does not change, and decisions do
-- not go with a schema or an owner.
--
SELECT * FROM test.at_peer('CREATE TABLE keyed (a integer PRIMARY KEY, b integer NOT NULL, n integer)');
SELECT * FROM test.at_peer('CREATE UNIQUE INDEX keyed_b ON keyed (b)');
SELECT * FROM test.at_peer('INSERT INTO keyed VALUES (1, 10, 0), (2, 20, 0)');
SELECT * FROM test.at_peer('SELECT dtx_attach(''keyed'')::text');
SELECT test.hold('UPDATE keyed SET n = n + 1 WHERE a = 1');
SELECT * FROM test.at_peer('SET lock_timeout = ''50ms''; ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_b');
SELECT * FROM test.at_peer('ALTER TABLE keyed DROP CONSTRAINT keyed_pkey');
-- an index that is no key may go
SELECT * FROM test.at_peer('DROP INDEX keyed_b');
-- the extension's tables hold what is in doubt, however they are to be dropped
SELECT * FROM test.at_peer('DROP EXTENSION dtx CASCADE');
SELECT * FROM test.at_peer('DROP SCHEMA public CASCADE');
SELECT test.let_go('ROLLBACK') AS xid \gset
SELECT dtx_wait(:'xid', '3min');
SELECT * FROM test.at_peer('SELECT a || '' '' || b || '' '' || n FROM keyed ORDER BY a');
-- nothing is in doubt any more
SELECT * FROM test.at_peer('ALTER TABLE keyed DROP CONSTRAINT keyed_pkey');
SELECT * FROM test.at_peer('DROP TABLE keyed');
-- EXPLAIN ANALYZE of what creates a table
SELECT test.branch_error('DO $do$ BEGIN EXECUTE ''EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1 AS one''; END $do$');
