--
-- Handlers that fail: attempts, the schedule, dead letters, delivering those again
-- or giving them up; handlers that defer or refuse; handlers that are not there.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

-- attempts and last error are kept; the schedule says when it is tried again
SELECT dtx_subscribe('work', 'peer', 'msg.handle', 'work', schedule => '{1h,2h}', max_attempts => 3);
SELECT msg.trouble('b', '2', 'out of paper');
SELECT msg.publish('work', '1') > 0, msg.publish('work', '2', 'k') > 0, msg.publish('work', '3') > 0;
CALL api.wait_until($$ (SELECT retrying = 1 AND lag = 0 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT msg.got('b');
SELECT msg.stand('work');
CREATE FUNCTION msg.due() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT format('%s, attempts %s, due in %s: %s', payload ->> 'n', attempts,
    CASE WHEN next_attempt - changed_at BETWEEN '54 min' AND '66 min' THEN 'an hour'
         WHEN next_attempt - changed_at BETWEEN '108 min' AND '132 min' THEN 'two hours'
         ELSE 'no time' END, last_error)
  FROM dtx.undelivered ORDER BY id $$;
SELECT msg.due();
-- its time comes
UPDATE dtx.undelivered SET next_attempt = now();
SELECT dtx_resume('work');
CALL api.wait_until($$ (SELECT attempts = 2 FROM dtx.undelivered) $$);
SELECT msg.due();
-- after the last attempt it is dead, and not tried again, even though the cause is gone
UPDATE dtx.undelivered SET next_attempt = now();
SELECT dtx_resume('work');
CALL api.wait_until($$ (SELECT dead = 1 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT msg.dead('work');
SELECT msg.mend('b');
SELECT msg.publish('work', '4') > 0;
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('work');
SELECT died_at >= published_at, id > 0 FROM dtx_dead_letters;
-- again, with a fresh count of attempts
SELECT dtx_redeliver(array_agg(id)) FROM dtx_dead_letters;
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('work');
SELECT dtx_redeliver(ARRAY[0, NULL]::bigint[]), dtx_redeliver('work'), dtx_discard('{}');
SELECT dtx_unsubscribe('work');

-- an error that goes away by itself; the attempt is the handler's to see
SELECT dtx_subscribe('work', 'peer', 'msg.handle', 'work', schedule => '{1ms}', max_attempts => 5);
SELECT msg.trouble('b', '1', 'twice it fails');
SELECT msg.publish('work', '1') > 0;
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.mend('b');

-- poison in the middle of a batch: no other message is harmed, or handled twice
SELECT dtx_pause('work');
SELECT msg.trouble('b', n::text, CASE n WHEN 50 THEN 'poison' WHEN 51 THEN 'more poison' ELSE 'refuse' END) FROM unnest('{50,51,99}'::integer[]) AS n;
SELECT count(msg.publish('work', i::text)) FROM generate_series(1, 100) AS i;
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT m.at('b', $$SELECT format('%s handled, %s of them different, in order: %s', count(*), count(DISTINCT id), bool_and(follows))
  FROM (SELECT id, id > lag(id) OVER (ORDER BY n) AS follows FROM msg.handled) AS h$$);
SELECT msg.dead('work');
SELECT msg.stand('work');
SELECT m.at('b', 'SELECT msg.clear()');
-- poison of other kinds: an error at the end of the transaction, one that looks like a cancel, or a failure of the peer
SELECT m.at('b', $c$ CREATE TABLE msg.checked (n text CONSTRAINT checked_n UNIQUE DEFERRABLE INITIALLY DEFERRED) $c$);
SELECT m.at('b', $c$ CREATE FUNCTION msg.handle_checked(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO msg.checked VALUES (CASE payload ->> 'n' WHEN '3' THEN '2' ELSE payload ->> 'n' END);
  IF payload ->> 'n' = '5' THEN
    RAISE EXCEPTION 'cancelled' USING ERRCODE = 'query_canceled';
  ELSIF payload ->> 'n' = '6' THEN
    RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full';
  ELSIF payload ->> 'n' = '7' THEN
    ASSERT false;
  END IF;
END $$ $c$);
SELECT dtx_subscribe('check', 'peer', 'msg.handle_checked', 'check', schedule => '{1ms}', max_attempts => 2);
SELECT dtx_pause('check');
SELECT count(msg.publish('check', i::text)) FROM generate_series(1, 8) AS i;
SELECT dtx_resume('check');
CALL msg.delivered();
SELECT m.at('b', $$SELECT string_agg(n, ' ' ORDER BY n) FROM msg.checked$$);
SELECT msg.dead('check');
SELECT dtx_unsubscribe('check');

-- dead letters by filter: nothing else moves
SELECT dtx_redeliver('work', error => '%nothing like it%'), dtx_redeliver('work', 'other'), dtx_redeliver('work', since => now() + interval '1 h');
SELECT msg.mend('b');
SELECT dtx_redeliver('work', 'w*', now() - interval '1 h', '%more poison%');
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.dead('work');
-- given up for good
SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters WHERE payload ->> 'n' = '50';
SELECT dtx_discard(array_agg(id), 'work') FROM dtx_dead_letters WHERE payload ->> 'n' = 'none';
SELECT msg.dead('work');
-- all of the rest
SELECT dtx_redeliver('work');
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('work');
-- in a transaction that is rolled back, it was not
SELECT msg.trouble('b', '1', 'refuse');
SELECT msg.publish('work', '1') > 0;
CALL api.wait_until($$ (SELECT dead = 1 FROM dtx_subscriptions WHERE name = 'work') $$);
BEGIN;
SELECT dtx_redeliver('work');
ROLLBACK;
BEGIN;
SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters;
ROLLBACK;
SELECT msg.dead('work');
-- for a client that sends no types: ids as the text of an array, and a name
PREPARE redeliver AS SELECT dtx_redeliver($1);
PREPARE redeliver_of AS SELECT dtx_redeliver($1, $2);
SELECT array_agg(id) AS ids FROM dtx_dead_letters \gset
BEGIN;
EXECUTE redeliver(:'ids');
EXECUTE redeliver('work');
ROLLBACK;
BEGIN;
EXECUTE redeliver_of(:'ids', 'work');
ROLLBACK;
BEGIN;
EXECUTE redeliver_of('work', 'w*');
ROLLBACK;
SELECT left(m.try($$ EXECUTE redeliver('{none') $$), 5);
DEALLOCATE redeliver;
DEALLOCATE redeliver_of;
SELECT msg.dead('work');
-- one that dies again
SELECT dtx_redeliver('work');
CALL api.wait_until($$ (SELECT dead = 1 AND retrying = 0 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT msg.dead('work');
SELECT dtx_unsubscribe('work');
SELECT msg.mend('b');

-- a handler defers: that is no attempt, and no number of them is too much
SELECT dtx_subscribe('work', 'peer', 'msg.handle', 'work', schedule => '{1h}', max_attempts => 1);
SELECT msg.trouble('b', '1', 'defer 1ms');
SELECT msg.trouble('b', '2', 'defer 1h');
SELECT msg.publish('work', '1') > 0, msg.publish('work', '2') > 0, msg.publish('work', '3') > 0;
CALL api.wait_until($$ (SELECT min(changed_at) < max(changed_at) - interval '100 ms' AND count(*) = 2 FROM dtx.undelivered) $$);
SELECT msg.got('b');
SELECT msg.due();
SELECT msg.stand('work');
SELECT msg.mend('b');
CALL api.wait_until($$ (SELECT count(*) = 1 FROM dtx.undelivered) $$);
-- the first attempt still
SELECT msg.got('b');
UPDATE dtx.undelivered SET next_attempt = now();
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT msg.got('b');
-- what one has set is not the next one's: 1 defers, 2 fails
SELECT dtx_pause('work');
SELECT msg.trouble('b', '1', 'defer 1h'), msg.trouble('b', '2', 'fails');
SELECT msg.publish('work', '1') > 0, msg.publish('work', '2') > 0;
SELECT dtx_resume('work');
CALL api.wait_until($$ (SELECT count(*) = 2 FROM dtx.undelivered) $$);
SELECT msg.due();
SELECT dtx_unsubscribe('work');
SELECT msg.mend('b');

-- it refuses for good: dead at once, however many attempts there were to be
SELECT dtx_subscribe('work', 'peer', 'msg.handle', 'work', max_attempts => 100);
SELECT msg.trouble('b', '1', 'refuse');
SELECT msg.publish('work', '1') > 0;
CALL api.wait_until($$ (SELECT dead = 1 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT msg.dead('work');
SELECT dtx_unsubscribe('work');
SELECT msg.mend('b');

-- no handler, or not for this role: nothing is lost, nothing is dead, and it is shown
SELECT dtx_subscribe('work', 'peer', 'msg.missing', 'work', max_attempts => 1);
SELECT msg.publish('work', '1') > 0, msg.publish('work', '2') > 0;
CALL api.wait_until($$ (SELECT attempts > 1 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT name, state, lag, retrying, dead, attempts > 1, next_attempt IS NOT NULL, last_error FROM dtx_subscriptions;
SELECT m.at('b', 'CREATE FUNCTION msg.missing(other text) RETURNS void LANGUAGE sql AS $$ $$');
CALL api.wait_until($$ (SELECT last_error ~ 'cannot be' FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions;
SELECT m.at('b', 'DROP FUNCTION msg.missing(text)');
SELECT m.at('b', 'ALTER FUNCTION msg.handle(bigint, text, text, jsonb, jsonb, timestamptz, integer) RENAME TO missing');
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT msg.got('b');
SELECT state, lag, dead, attempts, last_error FROM dtx_subscriptions;
-- gone while it is used
SELECT m.at('b', 'ALTER FUNCTION msg.missing(bigint, text, text, jsonb, jsonb, timestamptz, integer) RENAME TO handle');
SELECT msg.publish('work', '3') > 0;
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions;
SELECT dtx_unsubscribe('work');

-- a peer that lets nobody in: nothing counts as an attempt
SELECT dtx_subscribe('work', 'peer', 'msg.handle', 'work', max_attempts => 1);
CALL api.close_peer();
SELECT msg.publish('work', '1') > 0;
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions WHERE name = 'work') $$);
SELECT state, lag, dead, last_error ~ 'not currently accepting connections' FROM dtx_subscriptions;
CALL api.open_peer();
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('work');
SELECT dtx_unsubscribe('work');

-- a handler publishes, and runs branches: all with its message
SELECT m.at('b', $c$ CREATE FUNCTION msg.pass_on(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dtx_publish('passed', payload);
  PERFORM dtx_exec('c', 'UPDATE m.account SET balance = balance + 1 WHERE no = 1');
  IF payload ->> 'n' = '2' THEN
    RAISE EXCEPTION 'not this one' USING ERRCODE = 'DX005';
  END IF;
END $$ $c$);
SELECT m.at('b', $$SELECT dtx_subscribe('passed', 'a', 'msg.handle', 'passed')$$);
SELECT dtx_subscribe('work', 'peer', 'msg.pass_on', 'work');
SELECT dtx_pause('work');
SELECT count(msg.publish('work', i::text)) FROM generate_series(1, 3) AS i;
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT msg.delivered_at_peer();
SELECT msg.got('a');
SELECT m.settled();
SELECT msg.dead('work');
SELECT dtx_unsubscribe('work');
SELECT m.at('b', $$SELECT dtx_unsubscribe('passed')$$);
SELECT m.at('c', 'UPDATE m.account SET balance = 1000 WHERE no = 1');
SELECT m.settled();
-- poison that ends the session of who calls the handler: the others are handled, and it is dead after its last attempt
SELECT m.at('b', $c$ CREATE FUNCTION msg.handle_or_die(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO msg.handled (id, what) VALUES (0, payload ->> 'n');
  IF payload ->> 'n' = '2' THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(10);
  END IF;
END $$ $c$);
SELECT dtx_subscribe('work', 'peer', 'msg.handle_or_die', 'work', schedule => '{1ms}', max_attempts => 2);
SELECT dtx_pause('work');
SELECT count(msg.publish('work', i::text)) FROM generate_series(1, 3) AS i;
SELECT dtx_resume('work');
CALL msg.delivered();
SELECT msg.got('b');
SELECT dead, lag FROM dtx_subscriptions;
SELECT dtx_unsubscribe('work');
