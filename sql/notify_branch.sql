--
-- Notifications in branches: they are sent when the branch is committed.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- the peer's branch notifies this node
SELECT dtx_on_notification('n.apply');
SELECT m.at('b', $$CREATE FUNCTION n.notify(tx_no text, payload jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS 'SELECT dtx_notify(''a'', tx_no, payload)'$$);
CREATE FUNCTION n.told_by_b() RETURNS text LANGUAGE sql AS $$
  SELECT m.wait('b', 'NOT EXISTS (SELECT FROM dtx_notifications WHERE state = ''pending'') AND NOT EXISTS (SELECT FROM dtx.held_notification)') $$;
BEGIN;
SELECT * FROM dtx_query('peer', $$SELECT n.notify('held', '{"a": 1}')::text$$) AS t(r text);
-- nobody is told of it yet
SELECT m.at('b', $$SELECT count(*) FROM dtx_outcome('held')$$), m.at('b', 'SELECT count(*) FROM dtx.held_notification');
COMMIT;
SELECT n.told_by_b(), n.got();
BEGIN;
SELECT * FROM dtx_query('peer', $$SELECT n.notify('undone')::text$$) AS t(r text);
ROLLBACK;
SELECT m.settled();
SELECT n.told_by_b(), n.got(), m.at('b', $$SELECT count(*) FROM dtx_outcome('undone')$$);
-- the same in two branches: one is rolled back, which does not take the other's with it
BEGIN;
SELECT * FROM dtx_query('peer', $$SELECT n.notify('both')::text$$) AS t(r text);
SELECT m.connect('other', 'a');
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT * FROM dtx_query('peer', 'SELECT n.notify(''both'')::text') AS t(r text)$$);
ROLLBACK;
SELECT m.run('other', 'COMMIT');
SELECT m.bye('other');
SELECT n.told_by_b(), n.got();
-- twice in one branch
BEGIN;
SELECT * FROM dtx_query('peer', $$SELECT concat(n.notify('again'), n.notify('again'))$$) AS t(r text);
SELECT m.try($q$SELECT * FROM dtx_query('peer', 'SELECT n.notify(''again'', ''[]'')::text') AS t(r text)$q$);
COMMIT;
SELECT n.told_by_b(), n.got();
-- what was notified before is known
BEGIN;
SELECT * FROM dtx_query('peer', $$SELECT n.notify('again')::text$$) AS t(r text);
COMMIT;
SELECT m.settled();
SELECT n.told_by_b(), n.got();
-- in XA the prepared transaction holds it
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT * FROM dtx_query('peer', $$SELECT n.notify('xa')::text$$) AS t(r text);
COMMIT;
SELECT m.settled();
SELECT m.wait('b', $$SELECT state = 'delivered' FROM dtx_notifications WHERE tx_no = 'xa'$$), n.got();
-- prepared by hand
BEGIN;
SELECT dtx_notify('peer', 'prepared', '{}') > 0;
PREPARE TRANSACTION 'notify';
SELECT n.stand('prepared');
COMMIT PREPARED 'notify';
SELECT m.wait('a', $$SELECT state = 'delivered' FROM dtx_notifications WHERE tx_no = 'prepared'$$), n.got('b');
-- results cannot be asked for in a branch, nor received
SELECT m.try($q$SELECT dtx_exec('peer', 'DO $$BEGIN PERFORM dtx_reconcile(''a'', ''x''); END$$')$q$);
SELECT m.try($q$SELECT dtx_exec('peer', 'DO $$BEGIN PERFORM dtx_expect(''a'', ''x'', ''1s''); END$$')$q$);
SELECT m.try($q$SELECT dtx_exec('peer', 'DO $$BEGIN PERFORM dtx_target_disable(''a''); END$$')$q$);
SELECT m.try($q$SELECT dtx_exec('peer', 'DO $$BEGIN PERFORM dtx_on_notification(NULL); END$$')$q$);
SELECT m.settled();
SELECT dtx_on_notification(NULL);
