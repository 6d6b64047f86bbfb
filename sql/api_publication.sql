--
-- A publication FOR ALL TABLES, as for a warehouse: nothing of dtx fails for want of a
-- replica identity.
--
\c dtx_regression_peer
SET client_min_messages = error;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE TABLE published (id integer PRIMARY KEY, v text);
INSERT INTO published VALUES (1, 'one');
SELECT dtx_attach('published');
SELECT test.keep('published');
-- what the extension does by SQL; the undo log is written and cleared in other ways
DO $$
DECLARE
    rel regclass;
BEGIN
    FOR rel IN SELECT c.oid FROM pg_class c
               WHERE relnamespace = 'dtx'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'undo_log' ORDER BY relname LOOP
        EXECUTE format('DELETE FROM %s WHERE false', rel);
    END LOOP;
END $$;
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE published SET v = ''changed''');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'published');
BEGIN;
SELECT dtx_exec('peer', 'UPDATE published SET v = ''changed''');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
-- and a node that begins anew
BEGIN;
SELECT dtx_node_reset() IS NOT NULL AS reset;
ROLLBACK;
DROP PUBLICATION everything;
DROP TABLE published;
