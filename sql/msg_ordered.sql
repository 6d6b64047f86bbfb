--
-- Ordered subscriptions: messages of a key one after the other; one that fails holds
-- up its key, and no other.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE FUNCTION msg.publish_keys(VARIADIC names text[]) RETURNS bigint LANGUAGE sql AS $$
  SELECT count(msg.publish('keys', n, nullif(left(n, 1), '-'))) FROM unnest(names) AS n $$;
SELECT dtx_subscribe('keys', 'peer', 'msg.handle', 'keys', ordered => true, schedule => '{1h}', max_attempts => 2);
-- they come as they were published
SELECT msg.publish_keys('a1', 'b1', '-1', 'a2', 'b2', '-2');
CALL msg.delivered();
SELECT msg.got('b');
-- a head that fails, in one batch with those behind it
SELECT msg.trouble('b', 'a3', 'stuck'), msg.trouble('b', '-3', 'stuck');
SELECT dtx_pause('keys');
SELECT msg.publish_keys('a3', 'b3', '-3', 'a4', 'b4', '-4', 'a5');
SELECT dtx_resume('keys');
CALL api.wait_until($$ (SELECT lag = 0 AND retrying = 2 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.got('b');
SELECT msg.stand('keys');
-- and with those that are published later
SELECT msg.publish_keys('a6', 'b5', '-5');
CALL api.wait_until($$ (SELECT lag = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.got('b');
SELECT msg.stand('keys');
-- it succeeds: the others follow, in order
SELECT msg.mend('b');
UPDATE dtx.undelivered SET next_attempt = now() WHERE state = 'r';
SELECT dtx_resume('keys');
CALL msg.delivered();
SELECT m.at('b', $$SELECT string_agg(what, ', ' ORDER BY n) FROM msg.handled WHERE what LIKE '%of a%'$$);
SELECT m.at('b', $$SELECT string_agg(what, ', ' ORDER BY n) FROM msg.handled WHERE what NOT LIKE '%of a%'$$);
SELECT msg.got('b') IS NOT NULL;
-- the second of them fails then
SELECT msg.trouble('b', 'a1', 'twice stuck'), msg.trouble('b', 'a2', 'stuck');
SELECT dtx_unsubscribe('keys');
SELECT dtx_subscribe('keys', 'peer', 'msg.handle', 'keys', ordered => true, schedule => '{1ms}', max_attempts => 3);
SELECT msg.publish_keys('a1', 'a2', 'a3', 'b1', 'a4');
CALL api.wait_until($$ (SELECT dead = 1 AND lag = 0 AND retrying = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT m.at('b', $$SELECT string_agg(what, ', ' ORDER BY what COLLATE "C") FROM msg.handled$$);
SELECT msg.got('b') IS NOT NULL;
-- a dead one holds up its key: those behind it are neither handled, nor dead
SELECT msg.stand('keys');
SELECT msg.dead('keys');
SELECT msg.publish_keys('a5', 'b2');
CALL api.wait_until($$ (SELECT lag = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.got('b');
SELECT msg.stand('keys');
-- until it is discarded
SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters;
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('keys');
-- or delivered after all
SELECT msg.mend('b');
SELECT msg.trouble('b', 'a6', 'refuse'), msg.trouble('b', 'a8', 'refuse');
SELECT msg.publish_keys('a6', 'a7', 'a8', 'a9');
CALL api.wait_until($$ (SELECT dead = 1 AND lag = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.stand('keys');
SELECT msg.mend('b', 'a6');
SELECT dtx_redeliver('keys');
CALL api.wait_until($$ (SELECT dead = 1 AND lag = 0 AND waiting = 1 AND retrying = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.got('b');
SELECT msg.dead('keys');
SELECT msg.mend('b');
SELECT dtx_redeliver('keys');
CALL msg.delivered();
SELECT msg.got('b');
-- one that defers holds up its key as well
SELECT msg.trouble('b', 'a1', 'defer 1h');
SELECT msg.publish_keys('a1', 'a2', 'b1');
CALL api.wait_until($$ (SELECT retrying = 1 AND waiting = 1 AND lag = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.got('b');
SELECT msg.mend('b');
UPDATE dtx.undelivered SET next_attempt = now() WHERE state = 'r';
SELECT dtx_resume('keys');
CALL msg.delivered();
SELECT msg.got('b');
-- many keys, small batches, one in seven fails at first: each key in order, each once
SELECT dtx_unsubscribe('keys');
SELECT m.at('b', $$INSERT INTO msg.trouble SELECT i::text, 'twice stuck' FROM generate_series(1, 300) AS i WHERE i % 7 = 0$$);
SELECT dtx_subscribe('keys', 'peer', 'msg.handle', 'keys', ordered => true, schedule => '{1ms}', batch_size => 9);
SELECT count(msg.publish('keys', i::text, 'k' || i % 10)) FROM generate_series(1, 300) AS i;
CALL msg.delivered();
SELECT m.at('b', $$SELECT format('%s handled, %s of them different, in order: %s', count(*), count(DISTINCT id), bool_and(follows))
  FROM (SELECT id, id > lag(id) OVER (PARTITION BY substring(what from 'of (\w+)') ORDER BY n) IS NOT FALSE AS follows FROM msg.handled) AS h$$);
SELECT m.at('b', 'SELECT msg.clear()');
SELECT msg.mend('b');
SELECT msg.stand('keys');
-- without "ordered" a failing one holds up nothing
SELECT dtx_unsubscribe('keys');
SELECT dtx_subscribe('keys', 'peer', 'msg.handle', 'keys', schedule => '{1h}');
SELECT msg.trouble('b', 'a1', 'stuck');
SELECT msg.publish_keys('a1', 'a2', 'a3');
CALL api.wait_until($$ (SELECT retrying = 1 AND lag = 0 FROM dtx_subscriptions WHERE name = 'keys') $$);
SELECT msg.got('b');
SELECT msg.mend('b');
SELECT dtx_unsubscribe('keys');
