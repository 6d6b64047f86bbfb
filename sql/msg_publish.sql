--
-- dtx_publish: a message exists exactly if what published it commits, here and in
-- branches of every mode; what is refused; delayed messages.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT dtx_subscribe('orders', 'peer', 'msg.handle', 'orders');

-- commit, rollback, savepoints, exception blocks
BEGIN;
SELECT msg.publish('orders', '1') < msg.publish('orders', '2', 'a key');
COMMIT;
BEGIN;
SELECT msg.publish('orders', 'rolled back') > 0;
ROLLBACK;
BEGIN;
SELECT msg.publish('orders', '3') > 0;
SAVEPOINT s;
SELECT msg.publish('orders', 'rolled back to s') > 0;
SAVEPOINT t;
SELECT msg.publish('orders', 'rolled back to s, too') > 0;
RELEASE t;
ROLLBACK TO s;
SELECT msg.publish('orders', '4') > 0;
COMMIT;
DO $$
BEGIN
  PERFORM msg.publish('orders', '5');
  BEGIN
    PERFORM msg.publish('orders', 'of the failed block');
    PERFORM 1 / 0;
  EXCEPTION WHEN division_by_zero THEN
    PERFORM msg.publish('orders', '6');
  END;
END $$;
-- it is not out before the commit: of the same transaction's messages none overtakes
BEGIN;
SELECT msg.publish('orders', '8') > 0;
SELECT m.at('a', $$SELECT msg.publish('orders', '7') > 0$$);
CALL m.until($$ m.at('b', 'SELECT count(*)::text FROM msg.handled') = '7' $$);
SELECT msg.got('b');
COMMIT;
CALL msg.delivered();
SELECT msg.got('b');

-- what a message may be: names of topics
SELECT topic, m.try(format('SELECT dtx_publish(%L, ''{}'') > 0', topic))
FROM unnest(ARRAY['', '.', 'a.', '.a', 'a..b', 'a b', 'a*', '*', 'ä', 'a/b', E'a\nb', 'a"b', 'dtx.', 'dtx.transfer.1.1',
                  'A-9_z.b', 'a', 'dtx', 'dtxx.a', 'x.dtx.a']) AS topic;
SELECT m.try(format('SELECT dtx_publish(%L, ''{}'') > 0', repeat('a', 255)));
SELECT m.try(format('SELECT dtx_publish(%L, ''{}'') > 0', repeat('a', 256)));
-- NULLs
SELECT m.try($$SELECT dtx_publish(NULL, '{}')$$);
SELECT m.try($$SELECT dtx_publish('orders', NULL)$$);
SELECT m.try($$SELECT dtx_publish('orders.null', '{}', NULL, NULL, NULL) > 0$$);
-- any JSON is a payload, null too; and any text a key
SELECT m.try(format('SELECT dtx_publish(''orders.any'', %L) > 0', payload))
FROM unnest(ARRAY['null', '1', '"text"', '[]', '[[1], {"a": null}]', 'true']) AS payload;
SELECT m.try($$SELECT dtx_publish('orders', '{"n": "empty key"}', '') > 0$$);
SELECT m.try($$SELECT dtx_publish('orders', '{"n": "strange"}', E'k"\\\n\t''é', '["a\"b"]') > 0$$);
CALL msg.delivered();
SELECT msg.got('b');
-- the limit counts topic, key and headers; it is a superuser's
SET dtx.max_message_size = 1;
SELECT m.try(format('SELECT dtx_publish(''large'', %L) > 0', to_jsonb(repeat('x', 2000))));
SELECT m.try(format('SELECT dtx_publish(''large'', ''1'', %L) > 0', repeat('x', 900)));
SELECT m.try(format('SELECT dtx_publish(''large'', ''1'', %L, %L) > 0', repeat('x', 900), to_jsonb(repeat('x', 200))));
-- up to the last byte
WITH RECURSIVE search(fits, fails) AS (
  SELECT 0, 1100 UNION ALL
  SELECT CASE WHEN ok THEN middle ELSE fits END, CASE WHEN ok THEN fails ELSE middle END
  FROM search, LATERAL (SELECT (fits + fails) / 2 AS middle) AS h,
    LATERAL (SELECT m.try(format('SELECT dtx_publish(''large'', ''1'', %L) > 0', repeat('x', middle))) = 'ok: true' AS ok) AS t
  WHERE fails - fits > 1)
SELECT m.try(format('SELECT dtx_publish(''large'', ''1'', %L) > 0', repeat('x', min(fails)))) FROM search;
RESET dtx.max_message_size;
SELECT left(m.try($$SET dtx.max_message_size = 0$$), 5);
-- a message of one megabyte goes through, with one beside it
SELECT dtx_publish('orders', jsonb_build_object('n', 'large', 'x', repeat('é"', 300000))) > 0;
SELECT msg.publish('orders', 'small') > 0;
CALL msg.delivered();
SELECT msg.got('b');

-- not in a read-only transaction
BEGIN READ ONLY;
SELECT m.try($$SELECT dtx_publish('orders', '{}')$$);
ROLLBACK;
-- any role may publish
SET ROLE pg_monitor;
SELECT dtx_publish('orders', '{"n": "of a role"}') > 0;
SET dtx.max_message_size = 10;
RESET ROLE;
-- in every isolation level, whatever the snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM msg.trouble;
SELECT m.at('a', $$SELECT msg.publish('orders', 'before') > 0$$);
SELECT msg.publish('orders', 'repeatable read') > 0;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT msg.publish('orders', 'serializable') > 0;
COMMIT;
BEGIN ISOLATION LEVEL READ UNCOMMITTED;
SELECT msg.publish('orders', 'read uncommitted') > 0;
COMMIT;
CALL msg.delivered();
SELECT msg.got('b');

-- in a trigger
CREATE TABLE msg.orders (no integer PRIMARY KEY, amount numeric CHECK (amount > 0));
CREATE FUNCTION msg.announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dtx_publish('orders', jsonb_build_object('n', lower(TG_OP) || ' ' || NEW.no), NEW.no::text);
  RETURN NEW;
END $$;
CREATE TRIGGER announce BEFORE INSERT OR UPDATE ON msg.orders FOR EACH ROW EXECUTE FUNCTION msg.announce();
INSERT INTO msg.orders VALUES (1, 10), (2, 20);
-- the row is refused after its trigger
INSERT INTO msg.orders VALUES (3, 30), (4, -40);
INSERT INTO msg.orders VALUES (1, 11), (5, 50) ON CONFLICT (no) DO UPDATE SET amount = excluded.amount;
-- and in a deferred one, at the very end
CREATE CONSTRAINT TRIGGER announce_late AFTER DELETE ON msg.orders DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION msg.announce();
CREATE OR REPLACE FUNCTION msg.announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dtx_publish('orders', jsonb_build_object('n', lower(TG_OP) || ' ' || OLD.no), OLD.no::text);
  RETURN OLD;
END $$;
BEGIN;
DELETE FROM msg.orders WHERE no = 1;
SELECT count(*) FROM dtx.message WHERE payload ->> 'n' = 'delete 1';
COMMIT;
CALL msg.delivered();
SELECT msg.got('b');
DROP TABLE msg.orders;
-- several statements of a function, cursors, COPY from the result
COPY (SELECT msg.publish('orders', 'copy') > 0) TO STDOUT;

-- many rows in one statement: each once, in order
CREATE TABLE msg.ids (id bigint, n integer);
INSERT INTO msg.ids SELECT dtx_publish('orders', jsonb_build_object('n', i)), i FROM generate_series(1, 10000) AS i;
SELECT count(DISTINCT id), bool_and(follows) FROM (SELECT id, id > lag(id) OVER (ORDER BY n) AS follows FROM msg.ids) AS i;
CALL msg.delivered();
SELECT m.at('b', $$SELECT format('%s handled, %s of them different, in order: %s', count(*), count(DISTINCT id), bool_and(follows))
  FROM (SELECT id, id > lag(id) OVER (ORDER BY n) AS follows FROM msg.handled) AS h$$);
SELECT left(msg.got('b'), 32);
-- and all of them with the statement
SELECT m.try($$INSERT INTO msg.ids SELECT dtx_publish('orders', jsonb_build_object('n', i)), 1 / (1000 - i) FROM generate_series(1, 1000) AS i$$);
SELECT msg.publish('orders', 'after the failed one') > 0;
CALL msg.delivered();
SELECT msg.got('b');
DROP TABLE msg.ids;

-- delayed messages: not before their time, and in its order; one of the past at once
SELECT dtx_publish('orders', '{"n": "in an hour"}', deliver_at => clock_timestamp() + interval '1 h') > 0;
SELECT dtx_publish('orders', '{"n": "long ago"}', deliver_at => clock_timestamp() - interval '1 h') > 0;
SELECT dtx_publish('orders', '{"n": "at once"}', deliver_at => '-infinity') > 0;
SELECT m.try($$SELECT dtx_publish('orders', '{}', deliver_at => 'infinity')$$);
BEGIN;
SELECT dtx_publish('orders', '{"n": "rolled back"}', deliver_at => clock_timestamp() + interval '50 ms') > 0;
ROLLBACK;
BEGIN;
SELECT dtx_publish('orders', '{"n": "third"}', deliver_at => now() + interval '500 ms') > 0;
SELECT dtx_publish('orders', '{"n": "second"}', 'k', '{"h": 1}', now() + interval '300 ms') > 0;
SELECT dtx_publish('orders', '{"n": "first"}') > 0;
SELECT extract(epoch FROM now()) AS began \gset
COMMIT;
CALL api.wait_until($$ m.at('b', 'SELECT count(*)::text FROM msg.handled') = '5' $$);
CALL msg.delivered();
SELECT m.at('b', format($$SELECT string_agg((published_at >= to_timestamp(%1$s) + interval '300 ms' AND handled_at >= published_at)::text, ' ' ORDER BY n)
  FROM msg.handled WHERE what ~ 'second|third'$$, :began));
SELECT msg.got('b');
-- the one that is not due is kept for it, and not in the log
SELECT payload ->> 'n', deliver_at > clock_timestamp() FROM dtx.delayed_message;
SELECT count(*) FROM dtx.message WHERE payload ->> 'n' = 'in an hour';
-- thousands that are due together
SELECT count(dtx_publish('orders', jsonb_build_object('n', i), deliver_at => now() + interval '200 ms')) FROM generate_series(1, 3000) AS i;
CALL api.wait_until($$ m.at('b', 'SELECT count(*)::text FROM msg.handled') = '3000' $$);
SELECT m.at('b', $$SELECT count(DISTINCT id)::text FROM msg.handled$$);
SELECT count(*) FROM dtx.delayed_message;
SELECT length(msg.got('b')) > 0;
DELETE FROM dtx.delayed_message;

-- a prepared transaction of one's own
BEGIN;
SELECT msg.publish('orders', 'prepared') > 0;
PREPARE TRANSACTION 'mine';
SELECT msg.publish('orders', 'meanwhile') > 0;
CALL msg.delivered();
SELECT msg.got('b');
COMMIT PREPARED 'mine';
CALL msg.delivered();
SELECT msg.got('b');
SELECT dtx_unsubscribe('orders');

-- branches at the peer publish there, for a handler here
SELECT m.at('b', $$SELECT dtx_subscribe('news', 'a', 'msg.handle', 'news')$$);
CREATE FUNCTION msg.news(n text) RETURNS SETOF boolean LANGUAGE sql AS $$
  SELECT * FROM dtx_query('peer', format('SELECT msg.publish(''news'', %L) > 0', n)) AS t(ok boolean) $$;
SELECT m.at('b', pg_get_functiondef('msg.publish(text,text,text)'::regprocedure));
-- what is at the peer by now: messages in the log, and held
CREATE FUNCTION msg.at_peer(n text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', format('SELECT format(''%%s in the log, %%s held'', (SELECT count(*) FROM dtx.message WHERE payload ->> ''n'' LIKE %1$L),'
                          ' (SELECT count(*) FROM dtx.held_message))', n)) $$;
-- AT: phase 1 is committed, the message is not out
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.news('at 1');
SELECT msg.news('at 2');
SELECT msg.at_peer('at %');
-- what is published beside it is not held up by it
SELECT m.at('b', $$SELECT msg.publish('news', 'meanwhile') > 0$$);
CALL m.until($$ (SELECT count(*) FROM m.at('a', 'SELECT msg.got()') AS g WHERE g = 'news meanwhile') = 1 $$);
SELECT msg.got('a');
COMMIT;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
SELECT msg.at_peer('at %');
-- rolled back; and to a savepoint
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.news('rolled back at 1');
SELECT msg.at_peer('rolled back %');
ROLLBACK;
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.news('at 3');
SAVEPOINT s;
SELECT msg.news('rolled back at 2');
ROLLBACK TO s;
SELECT msg.news('at 4');
COMMIT;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
SELECT msg.at_peer('rolled back %');
-- a statement that fails takes its messages along
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.news('at 5');
SELECT split_part(m.try($$SELECT * FROM dtx_query('peer', 'SELECT msg.publish(''news'', ''rolled back at 3'') / 0') AS t(n bigint)$$), E'\n', 1);
COMMIT;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
-- a delayed one is held too, and then waits for its time
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT * FROM dtx_query('peer', $$SELECT dtx_publish('news', '{"n": "at 6"}', deliver_at => clock_timestamp() + interval '1 h') > 0$$) AS t(ok boolean);
SELECT * FROM dtx_query('peer', $$SELECT dtx_publish('news', '{"n": "at 7"}', 'k', '{"h": 1}', clock_timestamp() + interval '100 ms') > 0$$) AS t(ok boolean);
SELECT msg.at_peer('at 6');
SELECT m.at('b', 'SELECT count(*)::text FROM dtx.delayed_message');
COMMIT;
SELECT m.settled();
CALL api.wait_until($$ EXISTS (SELECT FROM msg.handled WHERE what LIKE 'news at 7%') $$);
SELECT m.at('b', $$SELECT payload ->> 'n' FROM dtx.delayed_message$$);
SELECT m.at('b', 'DELETE FROM dtx.delayed_message');
SELECT msg.got('a');

-- XA: the prepared transaction has it
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT msg.news('xa 1');
SELECT msg.at_peer('xa %');
COMMIT;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT msg.news('rolled back xa 1');
ROLLBACK;
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT msg.news('xa 2');
SAVEPOINT s;
SELECT msg.news('rolled back xa 2');
ROLLBACK TO s;
COMMIT;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');

-- TCC: what its try publishes goes out when it is confirmed; confirm and cancel publish at once
SELECT m.at('b', format('CREATE FUNCTION msg.tell_%1$s(n text) RETURNS void LANGUAGE sql AS %2$L', step,
                        format('SELECT msg.publish(''news'', %L || n)', step || ' ')))
FROM unnest('{try,confirm,cancel}'::text[]) AS step;
SELECT m.at('b', $$SELECT dtx_tcc_define('tell', 'msg.tell_try(text)', 'msg.tell_confirm(text)', 'msg.tell_cancel(text)')$$);
BEGIN;
SELECT dtx_try('peer', 'tell', '{"n": "tcc 1"}') IS NULL;
SELECT msg.at_peer('%tcc 1');
COMMIT;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
BEGIN;
SELECT dtx_try('peer', 'tell', '{"n": "tcc 2"}') IS NULL;
ROLLBACK;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
-- and of the coordinator itself, where the try is part of the local transaction
SELECT m.at('b', $$BEGIN; DO 'BEGIN PERFORM dtx_try(NULL, ''tell'', ''{"n": "tcc 3"}''); END'; COMMIT$$);
SELECT m.at('b', $$BEGIN; DO 'BEGIN PERFORM dtx_try(NULL, ''tell'', ''{"n": "tcc 4"}''); END'; ROLLBACK$$);
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');

-- a transaction that services share: committed there, and held until dtx_commit
SELECT m.connect('s', 'b');
SELECT dtx_open() AS xid \gset
SELECT m.run('s', 'BEGIN');
SELECT m.run('s', format('SELECT dtx_join(%L) IS NOT NULL', :'xid'));
SELECT m.run('s', $$SELECT msg.publish('news', 'joined 1') > 0$$);
SELECT m.run('s', 'COMMIT');
SELECT msg.at_peer('joined %');
SELECT dtx_commit(:'xid') IS NOT NULL;
SELECT m.settled();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
SELECT dtx_open() AS xid \gset
SELECT m.run('s', 'BEGIN');
SELECT m.run('s', format('SELECT dtx_join(%L) IS NOT NULL', :'xid'));
SELECT m.run('s', $$SELECT msg.publish('news', 'rolled back joined') > 0$$);
SELECT m.run('s', 'COMMIT');
SELECT msg.at_peer('rolled back joined');
SELECT dtx_rollback(:'xid') IS NOT NULL;
SELECT m.settled();
-- of which a service in the opener's own database is a branch, too
SELECT dtx_subscribe('orders', 'peer', 'msg.handle', 'orders');
SELECT dtx_open() AS xid \gset
BEGIN;
SELECT dtx_join(:'xid') IS NOT NULL;
SELECT msg.publish('orders', 'joined here') > 0;
COMMIT;
SELECT count(*) FROM dtx.held_message;
SELECT msg.publish('orders', 'not joined') > 0;
CALL msg.delivered();
SELECT dtx_commit(:'xid') IS NOT NULL;
CALL msg.delivered();
SELECT msg.got('b');
SELECT dtx_unsubscribe('orders');
SELECT m.bye('s');
SELECT msg.at_peer('%joined%');

-- a branch of a branch: held until the first of them all is decided
SELECT m.at('c', $$SELECT dtx_subscribe('far', 'a', 'msg.handle', 'far')$$);
CREATE FUNCTION msg.far(n text) RETURNS SETOF boolean LANGUAGE sql AS $_$
  SELECT * FROM dtx_query('peer', format('SELECT * FROM dtx_query(''c'', %L) AS t(ok boolean)',
    format('SELECT dtx_publish(''far'', %L) > 0', jsonb_build_object('n', n)))) AS t(ok boolean) $_$;
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.far('nested 1');
SELECT m.at('c', 'SELECT count(*)::text FROM dtx.held_message');
COMMIT;
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.far('rolled back nested');
ROLLBACK;
SELECT m.settled();
SELECT m.at('c', $$SELECT dtx_publish('far', '{"n": "last"}') > 0$$);
CALL api.wait_until($$ EXISTS (SELECT FROM msg.handled WHERE what = 'far last') $$);
SELECT msg.got('a');

-- the coordinator's own, with its branches
SELECT dtx_subscribe('orders', 'peer', 'msg.handle', 'orders');
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.publish('orders', 'together') > 0;
SELECT msg.news('together');
COMMIT;
BEGIN;
SELECT dtx_begin() IS NOT NULL;
SELECT msg.publish('orders', 'rolled back together') > 0;
SELECT msg.news('rolled back together');
ROLLBACK;
SELECT m.settled();
SELECT msg.publish('orders', 'last') > 0;
CALL msg.delivered();
SELECT m.at('b', $$SELECT msg.publish('news', 'last') > 0$$);
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
SELECT msg.got('b');

-- nothing of subscriptions or half messages in a branch
SELECT split_part(m.try(format('SELECT * FROM dtx_query(''peer'', %L) AS t(a text)', call)), E'\n', 1)
FROM unnest(ARRAY['SELECT dtx_subscribe(''x'')', 'SELECT dtx_unsubscribe(''news'')::text', 'SELECT dtx_pause(''news'')::text',
  'SELECT dtx_resume(''news'')::text', 'SELECT dtx_seek(''news'', ''infinity''::timestamptz)::text',
  'SELECT dtx_redeliver(''{1}''::bigint[])::text', 'SELECT dtx_redeliver(''news'')::text', 'SELECT dtx_discard(''{1}'')::text',
  'SELECT dtx_message_prepare(''x'', ''{}'')::text', 'SELECT dtx_message_commit(1)::text', 'SELECT dtx_message_rollback(1)::text',
  'SELECT id::text FROM dtx_receive(''news'')',
  'SELECT outcome FROM dtx.deliver(1, 1, 1, 0, 0, false, 0, ''msg.handle'', ''[]'')']) AS call;
-- all is as it was
SELECT dtx_unsubscribe('orders');
SELECT m.at('b', $$SELECT dtx_unsubscribe('news')$$);
SELECT m.at('c', $$SELECT dtx_unsubscribe('far')$$);
SELECT m.at('b', $$SELECT dtx_tcc_drop('tell')$$);
SELECT m.at('b', $$SELECT count(*)::text FROM dtx.held_message$$);
SELECT m.settled();
