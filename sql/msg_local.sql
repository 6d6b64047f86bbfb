--
-- Subscriptions without a server: the handler is called in this database, by a
-- process that runs as the subscription's role.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE TABLE msg.here (n bigint GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION msg.handle_here(topic text, payload jsonb, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO msg.here (what) VALUES (format('%s %s as %s by a %s', topic, payload ->> 'n',
    CASE WHEN current_user = (SELECT username FROM m.place) THEN 'owner' ELSE current_user END,
    (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid())));
  IF payload ->> 'n' = 'poison' THEN
    RAISE EXCEPTION 'poison';
  END IF;
END $$;
CREATE FUNCTION msg.got_here() RETURNS text LANGUAGE sql AS $$
  WITH gone AS (DELETE FROM msg.here RETURNING n, what)
  SELECT string_agg(what, ', ' ORDER BY n) FROM gone $$;
SELECT dtx_subscribe('local', handler => 'msg.handle_here', name => 'local', schedule => '{1ms}', max_attempts => 3);
SELECT msg.publish('local', '1') > 0, msg.publish('other', '2') > 0;
CALL msg.delivered();
SELECT msg.got_here();
SELECT name, server, handler, state, lag, delivered, dead FROM dtx_subscriptions;
-- a process of its own, as the role itself: a session that could be reset to nothing more
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dtx runner' AND datname = current_database() AND usename = current_user;

-- what is rolled back is not handled; a batch, with poison in its middle
BEGIN;
SELECT msg.publish('local', 'rolled back') > 0;
ROLLBACK;
SELECT dtx_pause('local');
SELECT msg.publish('local', '3') > 0, msg.publish('local', 'poison') > 0, msg.publish('local', '4') > 0;
SELECT msg.stand('local');
SELECT dtx_resume('local');
CALL msg.delivered();
SELECT msg.got_here();
SELECT msg.stand('local');
SELECT msg.dead('local');
SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters;

-- many, each once and in order
SELECT count(msg.publish('local', i::text)) FROM generate_series(1, 3000) AS i;
CALL msg.delivered();
SELECT count(*), count(DISTINCT what), bool_and(follows)
FROM (SELECT what, split_part(what, ' ', 2)::integer > lag(split_part(what, ' ', 2)::integer) OVER (ORDER BY n) IS NOT FALSE AS follows FROM msg.here) AS h;
SELECT length(msg.got_here()) > 0;
-- replay
SELECT dtx_seek('local', '-infinity'::timestamptz);
CALL api.wait_until($$ (SELECT count(*) = 3003 FROM msg.here WHERE what NOT LIKE '% poison %') AND (SELECT lag + retrying = 0 FROM dtx_subscriptions) $$);
SELECT count(*), count(DISTINCT what) FROM msg.here;
SELECT length(msg.got_here()) > 0;

-- a handler that is gone when the first message comes after the position was moved
SELECT dtx_pause('local');
SELECT dtx_seek('local', 'infinity'::timestamptz);
ALTER FUNCTION msg.handle_here(text, jsonb, integer) RENAME TO handle_there;
SELECT msg.publish('local', '5') > 0;
SELECT dtx_resume('local');
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions) $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions;
ALTER FUNCTION msg.handle_there(text, jsonb, integer) RENAME TO handle_here;
SELECT dtx_resume('local');
CALL msg.delivered();
SELECT msg.got_here();
SELECT state, lag, attempts, last_error FROM dtx_subscriptions;
-- and one that goes later
ALTER FUNCTION msg.handle_here(text, jsonb, integer) RENAME TO handle_there;
SELECT msg.publish('local', '6') > 0;
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions) $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions;
ALTER FUNCTION msg.handle_there(text, jsonb, integer) RENAME TO handle_here;
SELECT dtx_resume('local');
CALL msg.delivered();
SELECT msg.got_here();
-- handlers here publish, too
CREATE FUNCTION msg.answer(payload jsonb) RETURNS void LANGUAGE sql AS $$
  SELECT dtx_publish('local', payload || '{"n": "answer"}') $$;
SELECT dtx_subscribe('question', NULL, 'msg.answer', 'question');
SELECT msg.publish('question', '1') > 0;
CALL api.wait_until($$ EXISTS (SELECT FROM msg.here) $$);
CALL msg.delivered();
SELECT msg.got_here();
SELECT dtx_unsubscribe('question');
-- poison that ends the process: another one goes on
CREATE FUNCTION msg.handle_or_die(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO msg.here (what) VALUES (payload ->> 'n');
  IF payload ->> 'n' = '2' THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(10);
  END IF;
END $$;
SELECT dtx_subscribe('die', NULL, 'msg.handle_or_die', 'die', schedule => '{1ms}', max_attempts => 2);
SELECT dtx_pause('die');
SELECT msg.publish('die', '1') > 0, msg.publish('die', '2') > 0, msg.publish('die', '3') > 0;
SELECT dtx_resume('die');
CALL msg.delivered();
SELECT msg.got_here();
SELECT dead, lag FROM dtx_subscriptions WHERE name = 'die';
SELECT dtx_unsubscribe('die');
-- and one that was ended is started again, without anything else to wake it
CREATE FUNCTION msg.handle_slowly(payload jsonb) RETURNS void LANGUAGE sql AS $$
  SELECT pg_advisory_xact_lock(4711);
  INSERT INTO msg.here (what) VALUES (payload ->> 'n') $$;
SELECT dtx_subscribe('slow', NULL, 'msg.handle_slowly', 'slow');
SELECT pg_advisory_lock(4711);
SELECT msg.publish('slow', '1') > 0;
CALL api.wait_until($$ EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted) $$);
SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted;
SELECT pg_advisory_unlock(4711);
CALL msg.delivered();
SELECT msg.got_here();
SELECT dtx_unsubscribe('slow');
-- keys in order
SELECT dtx_unsubscribe('local');
SELECT dtx_subscribe('keys', NULL, 'msg.handle', 'keys', ordered => true, schedule => '{1h}');
SELECT msg.trouble('a', 'a1', 'stuck');
SELECT msg.publish('keys', 'a1', 'a') > 0, msg.publish('keys', 'a2', 'a') > 0, msg.publish('keys', 'b1', 'b') > 0;
CALL api.wait_until($$ (SELECT retrying = 1 AND waiting = 1 AND lag = 0 FROM dtx_subscriptions) $$);
SELECT msg.got('a');
SELECT msg.mend('a');
UPDATE dtx.undelivered SET next_attempt = now() WHERE state = 'r';
SELECT dtx_resume('keys');
CALL msg.delivered();
SELECT msg.got('a');
-- deferred, and refused
SELECT msg.trouble('a', 'a1', 'defer 1ms'), msg.trouble('a', 'b1', 'refuse');
SELECT msg.publish('keys', 'a1', 'a') > 0, msg.publish('keys', 'b1', 'b') > 0;
CALL api.wait_until($$ (SELECT dead = 1 AND retrying = 1 FROM dtx_subscriptions) $$);
SELECT msg.mend('a');
CALL msg.delivered();
SELECT msg.got('a');
SELECT msg.dead('keys');
SELECT dtx_unsubscribe('keys');

-- as another role: its rights, and no more
DROP ROLE IF EXISTS dtx_msg_local, dtx_msg_nologin;
CREATE ROLE dtx_msg_local LOGIN;
CREATE ROLE dtx_msg_nologin;
GRANT USAGE ON SCHEMA msg, m, api TO dtx_msg_local, dtx_msg_nologin;
SET ROLE dtx_msg_local;
SELECT m.try($$SELECT dtx_subscribe('local', NULL, 'msg.handle_here')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION dtx_subscribe TO dtx_msg_local, dtx_msg_nologin;
SET ROLE dtx_msg_nologin;
SELECT m.try($$SELECT dtx_subscribe('local', NULL, 'msg.handle_here')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION msg.handle_here(text, jsonb, integer) FROM PUBLIC;
SET ROLE dtx_msg_local;
SELECT m.try($$SELECT dtx_subscribe('local', NULL, 'msg.handle_here')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION msg.handle_here(text, jsonb, integer) TO dtx_msg_local;
SET ROLE dtx_msg_local;
SELECT dtx_subscribe('local', NULL, 'msg.handle_here', 'of a role', schedule => '{1ms}', max_attempts => 2);
RESET ROLE;
SELECT msg.publish('local', '6') > 0;
CALL api.wait_until($$ (SELECT dead = 1 FROM dtx_subscriptions) $$);
SELECT last_error FROM dtx_dead_letters;
GRANT INSERT ON msg.here TO dtx_msg_local;
GRANT SELECT ON m.place TO dtx_msg_local;
SET ROLE dtx_msg_local;
SELECT dtx_redeliver('of a role');
RESET ROLE;
CALL msg.delivered();
SELECT msg.got_here();
REVOKE EXECUTE ON FUNCTION msg.handle_here(text, jsonb, integer) FROM dtx_msg_local;
SELECT msg.publish('local', '7') > 0;
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions) $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions;
SELECT m.try('DROP ROLE dtx_msg_local');
GRANT EXECUTE ON FUNCTION msg.handle_here(text, jsonb, integer) TO dtx_msg_local;
SELECT dtx_resume('of a role');
CALL msg.delivered();
SELECT msg.got_here();
-- a message that somebody has put into the log twice is not handled
SELECT dtx_pause('of a role');
SELECT msg.publish('local', '8') > 0;
SELECT relation::regclass AS segment FROM dtx.message_segment ORDER BY message_segment DESC LIMIT 1 \gset
INSERT INTO :segment SELECT * FROM dtx.message WHERE topic = 'local' AND payload ->> 'n' = '8';
SELECT dtx_resume('of a role');
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions) $$);
SELECT state, lag, dead, regexp_replace(last_error, '\d+ is', 'N is') FROM dtx_subscriptions;
SELECT msg.got_here();
DELETE FROM :segment m WHERE ctid > (SELECT min(ctid) FROM :segment o WHERE o.id = m.id);
SELECT dtx_resume('of a role');
CALL msg.delivered();
SELECT msg.got_here();
SELECT dtx_unsubscribe('of a role');
DROP OWNED BY dtx_msg_local, dtx_msg_nologin;
DROP ROLE dtx_msg_local, dtx_msg_nologin;
DROP FUNCTION msg.handle_here(text, jsonb, integer), msg.answer(jsonb);
