--
-- Reconciliation: dtx_outcome, dtx_reconcile, dtx_expect. What is told and what is
-- asked for is applied once.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE FUNCTION n.asks(tx_no text) RETURNS text LANGUAGE sql AS $$ SELECT m.at('b', format('SELECT dtx_reconcile(''a'', %L)', tx_no)) $$;
CREATE FUNCTION n.outcome(tx_no text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT concat_ws(' ', coalesce(server, 'nobody'), state, payload, attempts, delivered_at >= notified_at, last_status, last_error) FROM dtx_outcome(tx_no) $$;
-- nothing is known of it
SELECT n.outcome('no such'), n.asks('no such');
SELECT n.asks('no such'), n.got('b');
-- told, then asked for
SELECT dtx_notify('peer', 'r1', '{"a": 1}') > 0;
SELECT n.told('r1'), n.outcome('r1'), n.asks('r1'), n.got('b');
-- asked for, then told
SELECT dtx_target_disable('peer');
SELECT dtx_notify('peer', 'r2', '{"a": 2}') > 0;
SELECT n.outcome('r2');
SELECT n.asks('r2'), n.got('b');
SELECT n.asks('r2'), n.got('b');
SELECT dtx_target_enable('peer');
SELECT n.told('r2'), n.got('b'), n.stand('r2');
-- never told, but registered
SELECT dtx_notify(NULL, 'r3', '{"a": 3}') > 0;
SELECT n.outcome('r3'), n.asks('r3'), n.asks('r3'), n.got('b');
-- exhausted
SELECT n.trouble('r4', 'not now');
SELECT dtx_notify('peer', 'r4', '{"a": 4}', '{}') > 0;
SELECT n.told('r4'), n.outcome('r4');
SELECT n.asks('r4'), n.got('b');
SELECT n.mend('r4'), n.asks('r4'), n.got('b');
SELECT dtx_redeliver(array_agg(id)) FROM dtx_notifications WHERE tx_no = 'r4';
SELECT n.told('r4'), n.got('b'), n.stand('r4');
-- both at once: the one that asks is in the middle when it is told
SELECT dtx_target_disable('peer');
SELECT dtx_notify('peer', 'r5', '{"a": 5}') > 0;
SELECT m.connect('asker', 'b');
SELECT m.run('asker', 'BEGIN');
SELECT m.run('asker', $$SELECT dtx_reconcile('a', 'r5')$$);
SELECT dtx_target_enable('peer');
SELECT m.wait('b', $$SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'$$);
SELECT m.run('asker', 'COMMIT');
SELECT n.told('r5'), n.got('b'), n.stand('r5');
-- and when that is rolled back it was not applied
SELECT dtx_target_disable('peer');
SELECT dtx_notify('peer', 'r6', '{"a": 6}') > 0;
SELECT m.run('asker', 'BEGIN');
SELECT m.run('asker', $$SELECT dtx_reconcile('a', 'r6')$$);
SELECT dtx_target_enable('peer');
SELECT m.wait('b', $$SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'$$);
SELECT m.run('asker', 'ROLLBACK');
SELECT n.told('r6'), n.got('b'), n.stand('r6');
SELECT m.bye('asker');
-- several results: the node that asks gets its own; who is nobody's target must say which
SELECT dtx_notify('peer', 'r7', '{"for": "peer"}', '{}') > 0, dtx_notify(NULL, 'r7', '{"for": "all"}') > 0;
SELECT n.told('r7'), n.got('b'), n.asks('r7');
SELECT m.at('c', 'CREATE FUNCTION m.note(payload jsonb) RETURNS void LANGUAGE sql AS $$ SELECT m.log(payload::text) $$');
SELECT m.at('c', $$SELECT dtx_on_notification('m.note', 'dtx_regression')$$);
SELECT m.at('c', $$SELECT dtx_reconcile('a', 'r7')$$);
SELECT m.at('c', $$SELECT dtx_reconcile('a', 'r3')$$), m.at('c', 'SELECT m.said()');
-- a handler is named for a sender, or for all
SELECT m.at('c', $$SELECT dtx_on_notification('m.note', 'somebody_else')$$), m.at('c', $$SELECT dtx_on_notification(NULL, 'dtx_regression')$$);
SELECT m.at('c', $$SELECT dtx_reconcile('a', 'r1')$$);
SELECT m.at('c', $$SELECT dtx_on_notification('m.note')$$), m.at('c', $$SELECT dtx_reconcile('a', 'r1')$$), m.at('c', 'SELECT m.said()');
-- functions that cannot be one
CREATE FUNCTION n.set(payload jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION n.topic(topic text, payload jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION n.number(tx_no bigint) RETURNS void LANGUAGE sql AS '';
SELECT m.try($$SELECT dtx_on_notification('n.set')$$);
SELECT m.try($$SELECT dtx_on_notification('n.topic')$$);
SELECT m.try($$SELECT dtx_on_notification('n.number')$$);
SELECT m.try($$SELECT dtx_on_notification('n.nobody')$$);
SELECT m.try($$SELECT dtx_on_notification('n.apply', '')$$);
SELECT m.try($$SELECT dtx_subscribe('x', NULL, 'n.apply')$$);
-- what cannot be asked
SELECT m.try($$SELECT dtx_reconcile('nobody', 'x')$$);
SELECT m.try($$SELECT dtx_reconcile('peer', '')$$);
SELECT dtx_reconcile(NULL, 'x') IS NULL, dtx_reconcile('peer', NULL) IS NULL;
CREATE SERVER n_http FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://shop.example/');
CREATE USER MAPPING FOR CURRENT_USER SERVER n_http OPTIONS (unsigned 'true');
SELECT m.try($$SELECT dtx_reconcile('n_http', 'x')$$);
SELECT m.try($$SELECT dtx_expect('n_http', 'x', '1s')$$);
SELECT m.try($$SELECT dtx_ping('n_http')$$);
SELECT m.try($$SELECT dtx_exec('n_http', 'SELECT 1')$$);
SELECT m.try($$SELECT dtx_subscribe('x', 'n_http', 'h')$$);
DROP SERVER n_http CASCADE;
BEGIN READ ONLY;
SELECT server FROM dtx_outcome('r1');
SELECT dtx_reconcile('peer', 'x');
ROLLBACK;

-- expected, and it does not come: asked for
SELECT dtx_notify(NULL, 'e1', '{"e": 1}') > 0;
SELECT m.at('b', $$SELECT dtx_expect('a', 'e1', '10ms')$$);
CREATE FUNCTION n.expected(tx_no text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', format($q$SELECT concat_ws(' ', tx_no, server, state, 'attempts ' || attempts, last_error) FROM dtx_expectations WHERE tx_no = %L$q$, tx_no)) $$;
SELECT m.wait('b', $$SELECT state = 'come' FROM dtx_expectations WHERE tx_no = 'e1'$$), n.got('b');
SELECT n.expected('e1');
-- it comes in time: nobody has to ask
SELECT m.at('b', $$SELECT dtx_expect('a', 'e2', '300ms')$$);
SELECT value AS asked FROM dtx_stats WHERE name = 'outcomes_asked' \gset
SELECT dtx_notify('peer', 'e2', '{"e": 2}') > 0;
SELECT n.told('e2'), n.got('b');
SELECT m.wait('b', $$SELECT state = 'come' FROM dtx_expectations WHERE tx_no = 'e2'$$), n.got('b');
SELECT value = :asked FROM dtx_stats WHERE name = 'outcomes_asked';
-- there is no result yet: asked again, by the schedule
SELECT m.at('b', $$SELECT dtx_expect('a', 'e3', '0', array_fill('20ms'::interval, '{10000}'))$$);
SELECT m.wait('b', $$SELECT attempts > 1 AND state = 'waiting' AND last_error LIKE '%knows no result%' FROM dtx_expectations WHERE tx_no = 'e3'$$);
SELECT dtx_notify(NULL, 'e3', '{"e": 3}') > 0;
SELECT m.at('b', $$SELECT dtx_expect('a', 'e3', '0')$$);
SELECT m.wait('b', $$SELECT state = 'come' FROM dtx_expectations WHERE tx_no = 'e3'$$), n.got('b');
-- until the end of it
SELECT m.at('b', $$SELECT dtx_expect('a', 'e4', '0', '{10ms}')$$);
SELECT m.wait('b', $$SELECT state = 'exhausted' FROM dtx_expectations WHERE tx_no = 'e4'$$);
SELECT m.wait('b', $$SELECT last_error LIKE '%knows no result%' FROM dtx_expectations WHERE tx_no = 'e4'$$), n.expected('e4');
-- a handler that fails is an attempt, too
SELECT n.trouble('e5', 'not now');
SELECT dtx_notify(NULL, 'e5', '{"e": 5}') > 0;
SELECT m.at('b', $$SELECT dtx_expect('a', 'e5', '0', '{}')$$);
SELECT m.wait('b', $$SELECT last_error LIKE '%not now%' FROM dtx_expectations WHERE tx_no = 'e5'$$), n.expected('e5'), n.got('b');
SELECT n.mend('e5'), m.at('b', $$SELECT dtx_expect('a', 'e5', '0')$$);
SELECT m.wait('b', $$SELECT state = 'come' FROM dtx_expectations WHERE tx_no = 'e5'$$), n.got('b');
-- taken back; and it keeps what it needs meanwhile
SELECT m.at('b', $$SELECT dtx_expect('a', 'e6', '1 day')$$), n.expected('e6');
SELECT m.at('b', 'DROP SERVER a CASCADE');
SELECT m.at('b', $$SELECT dtx_unexpect('a', 'e6')$$), m.at('b', $$SELECT dtx_unexpect('a', 'e6')$$);
SELECT m.try($$SELECT dtx_expect('peer', NULL, '1s')$$);
SELECT m.try($$SELECT dtx_expect('peer', 'x', '1s', '{NULL}')$$);
SELECT m.try($$SELECT dtx_expect('peer', '', '1s')$$);
