--
-- Half messages: prepared, then committed or rolled back, or checked when neither comes.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT dtx_subscribe('half', 'peer', 'msg.handle', 'half');
-- committed, rolled back
SELECT dtx_message_prepare('half', '{"n": "1"}') AS one, dtx_message_prepare('half', '{"n": "2"}', 'k', NULL, '{"h": 1}') AS two,
  dtx_message_prepare('half', '{"n": "3"}') AS three \gset
SELECT role = current_user, topic, key, payload, headers, state, checker, attempts, next_check, last_error FROM dtx_half_messages ORDER BY id;
SELECT msg.publish('half', 'published') > 0;
CALL msg.delivered();
SELECT msg.got('b');
SELECT dtx_message_commit(:two);
CALL msg.delivered();
SELECT msg.got('b');
SELECT dtx_message_rollback(:one);
SELECT payload ->> 'n' FROM dtx_half_messages;
-- once: afterwards there is none
SELECT regexp_replace(m.try(format('SELECT dtx_message_%s(%s)', what, id)), '\d+ does', 'ID does')
FROM unnest(ARRAY['commit', 'rollback']) AS what, unnest(ARRAY[:one, :two]) AS id;
SELECT m.try('SELECT dtx_message_commit(0)'), m.try('SELECT dtx_message_rollback(NULL) IS NULL');
-- in transactions
BEGIN;
SELECT dtx_message_commit(:three);
ROLLBACK;
BEGIN;
SELECT dtx_message_rollback(:three);
ROLLBACK;
BEGIN;
SELECT dtx_message_prepare('half', '{"n": "rolled back"}') > 0;
ROLLBACK;
SELECT payload ->> 'n' FROM dtx_half_messages;
BEGIN;
SELECT dtx_message_prepare('half', '{"n": "4"}') AS four \gset
SELECT dtx_message_commit(:four);
SELECT dtx_message_commit(:three);
COMMIT;
CALL msg.delivered();
SELECT msg.got('b');
SELECT count(*) FROM dtx_half_messages;
-- without a check function it waits, and is shown
SELECT dtx_message_prepare('half', '{"n": "5"}') AS five \gset
SELECT state, next_check FROM dtx_half_messages;
SELECT dtx_message_commit(:five);

-- what is refused
CREATE FUNCTION msg.check_text(id text) RETURNS text LANGUAGE sql AS 'SELECT ''commit''';
CREATE FUNCTION msg.check_boolean(id bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION msg.check_set(id bigint) RETURNS SETOF text LANGUAGE sql AS 'SELECT ''commit''';
SELECT m.try(format('SELECT dtx_message_prepare(%s)', arguments)) FROM unnest(ARRAY[
  'NULL, ''{}''', '''half'', NULL', '''a b'', ''{}''', '''dtx.x'', ''{}''', '''half'', ''{}'', NULL, ''msg.check_text(text)''',
  '''half'', ''{}'', NULL, ''msg.check_boolean(bigint)''', '''half'', ''{}'', NULL, ''msg.check_set(bigint)''']) AS arguments;
SET dtx.max_message_size = 1;
SELECT m.try($$SELECT dtx_message_prepare('half', to_jsonb(repeat('x', 2000)))$$);
RESET dtx.max_message_size;
BEGIN READ ONLY;
SELECT m.try($$SELECT dtx_message_prepare('half', '{}')$$);
ROLLBACK;

-- checking, by a process of the role's, with short times
ALTER SYSTEM SET dtx.message_check_interval = '1ms';
ALTER SYSTEM SET dtx.message_check_attempts = 3;
SELECT pg_reload_conf();
SET dtx.message_check_first = '1ms';
CREATE TABLE msg.answers (id bigint, answer text);
CREATE TABLE msg.asked (setting text);
CREATE FUNCTION msg.check_setting(id bigint) RETURNS text LANGUAGE sql AS $$
  INSERT INTO msg.asked VALUES (current_setting('dtx.message_check_interval') || ' ' || current_setting('dtx.message_check_attempts'));
  SELECT 'rollback' $$;
-- the process has read them
CREATE PROCEDURE msg.until_read() LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. 1000 LOOP
    DELETE FROM msg.asked;
    PERFORM dtx_message_prepare('half', '{"n": "setting"}', NULL, 'msg.check_setting(bigint)');
    COMMIT;
    CALL api.wait_until('EXISTS (SELECT FROM msg.asked)');
    EXIT WHEN EXISTS (SELECT FROM msg.asked WHERE setting = '1ms 3');
  END LOOP;
END $$;
CALL msg.until_read();
SELECT setting FROM msg.asked;
-- what the table says, by the number in the payload
CREATE FUNCTION msg.check(id bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  found text := (SELECT answer FROM msg.answers a JOIN dtx_half_messages h ON h.payload ->> 'n' = a.id::text WHERE h.id = "check".id);
BEGIN
  IF found = 'fail' THEN
    RAISE EXCEPTION 'who knows';
  END IF;
  RETURN found;
END $$;
INSERT INTO msg.answers VALUES (1, 'commit'), (2, 'rollback'), (3, 'unknown'), (4, 'perhaps'), (5, 'fail'), (6, NULL), (7, 'COMMIT');
SELECT count(dtx_message_prepare('half', jsonb_build_object('n', i), CASE i WHEN 1 THEN 'k' END, 'msg.check(bigint)')) FROM generate_series(1, 7) AS i;
CALL api.wait_until($$ (SELECT count(*) = 5 AND bool_and(state = 'exhausted') FROM dtx_half_messages) $$);
CALL msg.delivered();
SELECT msg.got('b');
SELECT payload ->> 'n', state, attempts, next_check, last_error, checker FROM dtx_half_messages ORDER BY id;
-- they are kept, asked no more, and decided by hand
UPDATE msg.answers SET answer = 'commit';
SELECT count(dtx_message_prepare('half', '{"n": "1"}', NULL, 'msg.check(bigint)'));
CALL api.wait_until($$ (SELECT count(*) = 5 FROM dtx_half_messages) $$);
CALL msg.delivered();
SELECT msg.got('b');
SELECT dtx_message_commit(id) FROM dtx_half_messages WHERE payload ->> 'n' IN ('3', '5');
SELECT dtx_message_rollback(id) FROM dtx_half_messages WHERE payload ->> 'n' NOT IN ('3', '5');
SELECT count(*) FROM dtx_half_messages;
CALL msg.delivered();
SELECT msg.got('b');
-- one that learns it in time
UPDATE msg.answers SET answer = 'unknown' WHERE id = 1;
ALTER SYSTEM SET dtx.message_check_attempts = 100000;
SELECT pg_reload_conf();
SELECT dtx_message_prepare('half', '{"n": "1"}', NULL, 'msg.check(bigint)') > 0;
-- (in between, what the next one is going to answer is not known)
CALL api.wait_until($$ (SELECT attempts > 1 AND state = 'checking' AND last_error IS NULL FROM dtx_half_messages) $$);
UPDATE msg.answers SET answer = 'commit' WHERE id = 1;
CALL api.wait_until($$ NOT EXISTS (SELECT FROM dtx_half_messages) $$);
CALL msg.delivered();
SELECT msg.got('b');
-- the function is gone: kept, and shown
UPDATE msg.answers SET answer = 'unknown';
SELECT dtx_message_prepare('half', '{"n": "2"}', NULL, 'msg.check(bigint)') AS id \gset
DROP FUNCTION msg.check(bigint);
CALL api.wait_until($$ (SELECT last_error IS NOT NULL FROM dtx_half_messages) $$);
SELECT state FROM dtx_half_messages;
SELECT dtx_message_commit(:id);
CALL msg.delivered();
SELECT msg.got('b');

-- rights: they are their role's; it is asked as that role
DROP ROLE IF EXISTS dtx_msg_half, dtx_msg_other, dtx_msg_nologin;
CREATE ROLE dtx_msg_half LOGIN;
CREATE ROLE dtx_msg_other LOGIN;
CREATE ROLE dtx_msg_nologin;
GRANT USAGE ON SCHEMA msg, m, api TO dtx_msg_half, dtx_msg_other, dtx_msg_nologin;
CREATE FUNCTION msg.check_as(id bigint) RETURNS text LANGUAGE sql AS $$
  SELECT CASE WHEN current_user = 'dtx_msg_half' AND session_user = 'dtx_msg_half' THEN 'commit' ELSE 'as ' || current_user END $$;
REVOKE EXECUTE ON FUNCTION msg.check_as(bigint) FROM PUBLIC;
SET ROLE dtx_msg_half;
SELECT m.try($$SELECT dtx_message_prepare('half', '{"n": "of a role"}', NULL, 'msg.check_as(bigint)') > 0$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION msg.check_as(bigint) TO dtx_msg_half, dtx_msg_nologin;
SET ROLE dtx_msg_nologin;
SELECT m.try($$SELECT dtx_message_prepare('half', '{"n": "of a role"}', NULL, 'msg.check_as(bigint)') > 0$$);
SET ROLE dtx_msg_half;
SELECT dtx_message_prepare('half', '{"n": "of a role"}', NULL, 'msg.check_as(bigint)') > 0;
CALL api.wait_until($$ NOT EXISTS (SELECT FROM dtx_half_messages) $$);
SELECT dtx_message_prepare('half', '{"n": "another of it"}') AS id \gset
SET ROLE dtx_msg_other;
SELECT count(*) FROM dtx_half_messages;
SELECT regexp_replace(m.try(format('SELECT dtx_message_commit(%s)', :id)), '\d+ does', 'ID does');
RESET ROLE;
-- which stays as long as it has one
DROP OWNED BY dtx_msg_half, dtx_msg_other, dtx_msg_nologin;
SELECT left(m.try('DO $$ BEGIN DROP ROLE dtx_msg_half; RAISE ''it was dropped''; END $$'), 5);
SELECT count(*) FROM dtx_half_messages;
SELECT dtx_message_commit(:id);
CALL msg.delivered();
SELECT msg.got('b');
DROP ROLE dtx_msg_half, dtx_msg_other, dtx_msg_nologin;
ALTER SYSTEM RESET dtx.message_check_interval;
ALTER SYSTEM RESET dtx.message_check_attempts;
SELECT pg_reload_conf();
SELECT dtx_unsubscribe('half');
DROP TABLE msg.answers, msg.asked;
