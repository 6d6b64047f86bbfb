--
-- Subscriptions without a handler: dtx_receive, dtx_ack and dtx_nack.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE FUNCTION msg.receive(most integer, visibility interval DEFAULT '1h', subscription text DEFAULT 'pull') RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(msg.shown(topic, key, payload, headers, attempts), ', ' ORDER BY id) FROM dtx_receive(subscription, most, visibility) $$;
-- the ids of messages, by their numbers
CREATE FUNCTION msg.ids(VARIADIC numbers text[]) RETURNS bigint[] LANGUAGE sql AS $$
  SELECT array_agg(id) FROM (SELECT id FROM dtx.message WHERE topic = 'pull' AND payload ->> 'n' = ANY (numbers)) AS m $$;
SELECT dtx_subscribe('pull', name => 'pull', max_attempts => 3);
SELECT name, server, handler, state FROM dtx_subscriptions;
SELECT msg.receive(10);
SELECT msg.publish('pull', '1') > 0, dtx_publish('pull', '{"n": "2"}', 'k', '{"h": 1}') > 0, msg.publish('other', 'x') > 0,
  msg.publish('pull', '3') > 0, msg.publish('pull', '4') > 0;
SELECT msg.stand('pull');
SELECT msg.receive(2);
SELECT msg.receive(1);
SELECT msg.stand('pull');
-- said to be done, once
SELECT dtx_ack('pull', msg.ids('1', '3'));
SELECT dtx_ack('pull', msg.ids('1', '3'));
-- those that were not given out cannot be
SELECT dtx_ack('pull', msg.ids('4')), dtx_nack('pull', msg.ids('4'));
SELECT msg.stand('pull');
-- given back: at once, or later
SELECT dtx_nack('pull', msg.ids('2'));
SELECT msg.stand('pull');
SELECT msg.receive(1);
SELECT dtx_nack('pull', msg.ids('2'), '1 h');
SELECT msg.receive(10);
SELECT dtx_nack('pull', msg.ids('2', '4'));
SELECT msg.receive(10);
SELECT dtx_ack('pull', msg.ids('4'));
-- one that was given back is acknowledged late
UPDATE dtx.undelivered SET next_attempt = now();
SELECT msg.receive(10);
SELECT msg.stand('pull');
-- its last attempt
SELECT dtx_nack('pull', msg.ids('2'));
SELECT msg.stand('pull');
SELECT msg.dead('pull');
SELECT msg.receive(10);
SELECT dtx_ack('pull', msg.ids('2')), dtx_nack('pull', msg.ids('2'));
SELECT dtx_redeliver('pull');
SELECT msg.receive(10);
SELECT dtx_ack('pull', msg.ids('2'));
SELECT msg.stand('pull');

-- a lease that ends: nothing is lost
SELECT msg.publish('pull', '5') > 0;
SELECT msg.receive(1, '1 ms');
CALL api.wait_until($$ EXISTS (SELECT FROM dtx.undelivered WHERE next_attempt <= clock_timestamp()) $$);
SELECT msg.receive(1, '1 ms');
CALL api.wait_until($$ EXISTS (SELECT FROM dtx.undelivered WHERE next_attempt <= clock_timestamp()) $$);
SELECT msg.receive(1, '1 ms');
CALL api.wait_until($$ EXISTS (SELECT FROM dtx.undelivered WHERE next_attempt <= clock_timestamp()) $$);
SELECT msg.receive(1, '1 ms');
SELECT msg.dead('pull');
SELECT dtx_discard(msg.ids('5'));
-- an acknowledgement after the end of the lease counts, as long as nobody else has it
SELECT msg.publish('pull', '6') > 0;
SELECT msg.receive(1, '1 ms');
CALL api.wait_until($$ EXISTS (SELECT FROM dtx.undelivered WHERE next_attempt <= clock_timestamp()) $$);
SELECT dtx_ack('pull', msg.ids('6'));
SELECT msg.receive(1);

-- in a transaction: rolled back, nothing was fetched, nor acknowledged
SELECT msg.publish('pull', '7') > 0;
BEGIN;
SELECT msg.receive(1);
ROLLBACK;
BEGIN;
SELECT msg.receive(1);
SELECT dtx_ack('pull', msg.ids('7'));
ROLLBACK;
BEGIN;
SELECT msg.receive(1);
SELECT dtx_ack('pull', msg.ids('7'));
COMMIT;
SELECT msg.receive(1);
SELECT msg.stand('pull');

-- several consumers: each message is one's
SELECT m.connect('c' || i, 'a') FROM generate_series(1, 3) AS i;
SELECT count(msg.publish('pull', i::text)) FROM generate_series(101, 110) AS i;
SELECT i, m.run('c' || i, 'SELECT msg.receive(3)') FROM generate_series(1, 3) AS i;
SELECT i, m.run('c' || i, 'SELECT msg.receive(3)') FROM generate_series(1, 3) AS i;
-- the second dies before it says so
SELECT m.run('c2', 'BEGIN');
SELECT msg.publish('pull', '111') > 0;
SELECT m.run('c2', 'SELECT msg.receive(3)');
SELECT m.bye('c2');
SELECT m.wait('a', $$ (SELECT count(*) = 0 FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()) $$);
SELECT m.run('c1', 'SELECT msg.receive(3)');
SELECT dtx_ack('pull', (SELECT array_agg(id) FROM dtx.message WHERE topic = 'pull'));
SELECT msg.stand('pull');
-- at the same time: nothing twice, nothing left out
SELECT m.connect('c2', 'a');
SELECT count(msg.publish('pull', i::text)) FROM generate_series(1001, 1300) AS i;
CREATE TABLE msg.taken (id bigint, consumer text);
CREATE PROCEDURE msg.consume(consumer text) LANGUAGE plpgsql AS $$
DECLARE
  ids bigint[];
BEGIN
  LOOP
    WITH t AS (INSERT INTO msg.taken SELECT id, consumer FROM dtx_receive('pull', 7) RETURNING id) SELECT array_agg(id) INTO ids FROM t;
    EXIT WHEN ids IS NULL;
    COMMIT;
    PERFORM dtx_ack('pull', ids);
    COMMIT;
  END LOOP;
END $$;
SELECT dblink_send_query('c' || i, format('CALL msg.consume(%L)', i)) FROM generate_series(1, 3) AS i;
SELECT (SELECT status FROM dblink_get_result('c' || i) AS r(status text)) FROM generate_series(1, 3) AS i;
SELECT count(*), count(DISTINCT id) FROM msg.taken;
SELECT msg.stand('pull');
SELECT m.bye('c1', 'c2', 'c3');
DROP TABLE msg.taken;

-- pause, seek
SELECT dtx_pause('pull');
SELECT msg.publish('pull', '8') > 0;
SELECT msg.receive(10);
SELECT dtx_resume('pull');
SELECT msg.receive(10);
SELECT dtx_seek('pull', (msg.ids('7'))[1]);
SELECT msg.stand('pull');
SELECT msg.receive(2);
SELECT dtx_seek('pull', 'infinity'::timestamptz);
SELECT msg.receive(2);
SELECT msg.stand('pull');
-- what is left of what was looked at is gone: what came after it is found
SELECT msg.publish('pull', '9') > 0, msg.publish('pull', '10') > 0;
SELECT msg.receive(1);
DELETE FROM dtx.message WHERE topic = 'pull' AND payload ->> 'n' = '10';
SELECT msg.publish('pull', '11') > 0;
SELECT msg.receive(1);
SELECT msg.stand('pull');
SELECT dtx_unsubscribe('pull');

-- ordered: of a key one at a time
SELECT dtx_subscribe('pull', name => 'pull', ordered => true, max_attempts => 2);
SELECT msg.publish('pull', 'a1', 'a') > 0, msg.publish('pull', 'a2', 'a') > 0, msg.publish('pull', 'b1', 'b') > 0,
  msg.publish('pull', '-1') > 0, msg.publish('pull', '-2') > 0, msg.publish('pull', 'a3', 'a') > 0;
SELECT msg.receive(10);
SELECT msg.receive(10);
SELECT msg.stand('pull');
SELECT dtx_ack('pull', msg.ids('b1', '-1', '-2'));
SELECT msg.receive(10);
SELECT dtx_ack('pull', msg.ids('a1'));
SELECT msg.receive(10);
SELECT msg.publish('pull', 'a4', 'a') > 0, msg.publish('pull', 'b2', 'b') > 0;
SELECT msg.receive(10);
-- given back, it is still the first
SELECT dtx_nack('pull', msg.ids('a2'));
SELECT msg.receive(10);
-- dead, it holds up its key until it is discarded
SELECT dtx_nack('pull', msg.ids('a2'));
SELECT msg.receive(10);
SELECT msg.stand('pull');
SELECT dtx_discard(msg.ids('a2'));
SELECT msg.receive(10);
SELECT dtx_ack('pull', msg.ids('a3'));
SELECT msg.receive(10);
SELECT dtx_ack('pull', msg.ids('a4', 'b2'));
SELECT msg.receive(10);
SELECT msg.stand('pull');

-- what is refused
SELECT dtx_subscribe('pull', 'peer', 'msg.handle', 'pushed');
SELECT m.try(call) FROM unnest(ARRAY[
  $$SELECT * FROM dtx_receive('pushed')$$, $$SELECT dtx_ack('pushed', '{1}')$$, $$SELECT dtx_nack('pushed', '{1}')$$,
  $$SELECT * FROM dtx_receive(NULL)$$, $$SELECT * FROM dtx_receive('pull', NULL)$$, $$SELECT * FROM dtx_receive('pull', 1, NULL)$$,
  $$SELECT * FROM dtx_receive('pull', 0)$$, $$SELECT * FROM dtx_receive('pull', 10001)$$, $$SELECT * FROM dtx_receive('pull', 1, '0')$$,
  $$SELECT * FROM dtx_receive('pull', 1, '-1 s')$$, $$SELECT dtx_ack('pull', NULL)$$, $$SELECT dtx_ack('pull', '{NULL,0}')$$]) AS call;
BEGIN READ ONLY;
SELECT m.try($$SELECT * FROM dtx_receive('pull')$$);
ROLLBACK;
SELECT dtx_unsubscribe('pushed'), dtx_unsubscribe('pull');
