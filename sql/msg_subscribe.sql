--
-- Subscriptions: patterns, several to a topic, pause, seek, what is refused, and rights.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- a handler for each, that says by whom and for which subscription it is called
SELECT m.at('b', $c$ CREATE FUNCTION msg.handle_as(subscription text, topic text, payload jsonb) RETURNS void LANGUAGE sql SECURITY INVOKER AS $$
  INSERT INTO msg.handled (id, what) VALUES (0, format('%s: %s %s as %s', subscription, topic, payload ->> 'n',
    CASE WHEN current_user = (SELECT username FROM m.place) THEN 'owner' ELSE current_user END)) $$ $c$);
SELECT m.at('b', format($c$ CREATE FUNCTION msg.handle_%1$s(topic text, payload jsonb) RETURNS void LANGUAGE sql AS $$
  SELECT msg.handle_as(%1$L, topic, payload) $$ $c$, name)) FROM unnest('{one,two,three,four}'::text[]) AS name;
-- what has been handled, in alphabetical order: subscriptions do not wait for each other
CREATE FUNCTION msg.sorted() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT what FROM regexp_split_to_table(msg.got('b'), ', ') AS what ORDER BY what COLLATE "C" $$;

-- patterns, and several of one topic; a name is made up
SELECT dtx.topic_matches(pattern, topic), pattern, topic
FROM (VALUES ('a', 'a'), ('a', 'A'), ('a', 'ab'), ('a.*', 'a'), ('a.*', 'a.b'), ('a.*', 'a.b.c'), ('a*', 'a'), ('a*', 'a.b'), ('*', 'a'),
  ('*', 'dtx.transfer.1.1'), ('dtx.*', 'dtx.transfer.1.1'), ('*.b', 'a.b'), ('*.b', 'a.b.c'), ('a.*.c', 'a.b.c'), ('a.*.c', 'a.b.b.c'),
  ('a.*.c', 'a.c'), ('*b*', 'abc'), ('*a*b*c', 'xaybzc'), ('*a*b*c', 'xaybzcd'), ('a**', 'a'), ('*aab', 'aaaab')) AS t(pattern, topic);
SELECT dtx_subscribe('shop.orders', 'peer', 'msg.handle_one', 'one');
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_two');
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_three');
SELECT dtx_subscribe('*.paid', 'peer', 'msg.handle_four(text,jsonb)', 'four', batch_size => 1);
SELECT msg.publish('shop.orders', '1') > 0, msg.publish('shop.orders.paid', '2') > 0, msg.publish('shops', '3') > 0, msg.publish('shop.paid', '4') > 0;
CALL msg.delivered();
SELECT msg.sorted();
SELECT name, topic, server, handler, ordered, state, lag, delivered, dead FROM dtx_subscriptions ORDER BY name;
SELECT dtx_unsubscribe('shop.* at peer');
SELECT dtx_unsubscribe('shop.* at peer 2');
SELECT dtx_unsubscribe('four');

-- a subscription begins with what is committed later; from_start, with all there is
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_two', 'two', from_start => true);
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_three', 'three');
CALL msg.delivered();
SELECT msg.sorted();
-- also of a transaction that published before
SELECT m.connect('s', 'a');
SELECT m.run('s', 'BEGIN');
SELECT m.run('s', $$SELECT msg.publish('shop.orders', 'open') > 0$$);
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_four', 'four');
SELECT m.run('s', 'COMMIT');
CALL msg.delivered();
SELECT msg.sorted();
SELECT m.bye('s');
-- rolled back, it never was
BEGIN;
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_four', 'never', from_start => true);
ROLLBACK;
BEGIN;
SELECT dtx_unsubscribe('two'), dtx_pause('three'), dtx_seek('one', 1);
ROLLBACK;
SELECT msg.publish('shop.orders', 'after') > 0;
CALL msg.delivered();
SELECT msg.sorted();
SELECT dtx_unsubscribe('three'), dtx_unsubscribe('four');

-- pause keeps messages, resume goes on
SELECT dtx_pause('two');
SELECT msg.publish('shop.orders', 'p1') > 0, msg.publish('shop.other', 'p2') > 0;
CALL api.wait_until($$ (SELECT lag = 0 FROM dtx_subscriptions WHERE name = 'one') $$);
SELECT msg.sorted();
SELECT msg.stand('two');
SELECT lag_seconds > 0 FROM dtx_subscriptions WHERE name = 'two';
SELECT dtx_pause('two');
SELECT dtx_resume('two');
SELECT dtx_resume('two');
CALL msg.delivered();
SELECT msg.sorted();

-- replay and skip
SELECT dtx_unsubscribe('one');
SELECT msg.publish('shop.orders', 's1') > 0;
SELECT msg.publish('shop.orders', 's2') AS id \gset
SELECT msg.publish('shop.orders', 's3') > 0;
CALL msg.delivered();
SELECT msg.sorted();
-- from a message
SELECT dtx_seek('two', :id);
CALL msg.delivered();
SELECT msg.sorted();
-- again: each time is a time of its own
SELECT dtx_seek('two', :id);
CALL msg.delivered();
SELECT dtx_seek('two', :id + 1);
CALL msg.delivered();
SELECT msg.sorted();
-- for a client that sends no types: digits are an id, the rest is a time; a day without anything
-- between its numbers would be an id to come
PREPARE seek AS SELECT dtx_seek($1, $2);
EXECUTE seek('two', :'id');
CALL msg.delivered();
SELECT msg.sorted();
EXECUTE seek('two', '-infinity');
CALL msg.delivered();
SELECT min(what COLLATE "C") FROM msg.sorted() AS what;
EXECUTE seek('two', '29991231');
EXECUTE seek('nobody', '29991231');
DEALLOCATE seek;
-- from one that there is not, yet; and before all
SELECT dtx_seek('two', 9223372036854775807);
SELECT msg.publish('shop.orders', 'skipped') > 0;
CALL msg.delivered();
SELECT msg.sorted();
SELECT dtx_seek('two', -5);
CALL msg.delivered();
SELECT count(*), min(what COLLATE "C") FROM msg.sorted() AS what;
-- from a time
SELECT published_at AS t FROM dtx.message WHERE payload ->> 'n' = 's3' \gset
SELECT dtx_seek('two', :'t'::timestamptz);
CALL msg.delivered();
SELECT msg.sorted();
SELECT dtx_seek('two', '-infinity'::timestamptz);
CALL msg.delivered();
SELECT count(*) FROM msg.sorted();
-- forward, while it is paused: what has been published is not delivered, what comes is
SELECT dtx_pause('two');
SELECT msg.publish('shop.orders', 'skipped, too') > 0;
SELECT dtx_seek('two', 'infinity'::timestamptz);
SELECT msg.stand('two');
SELECT msg.publish('shop.orders', 's4') > 0;
SELECT dtx_resume('two');
CALL msg.delivered();
SELECT msg.sorted();
-- seeking forgets retries and dead letters
SELECT dtx_unsubscribe('two');
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle', 'two', schedule => '{1h}', max_attempts => 2);
SELECT msg.trouble('b', 'bad', 'refuse'), msg.trouble('b', 'worse', 'failure');
SELECT msg.publish('shop.orders', 'bad') > 0, msg.publish('shop.orders', 'worse') > 0;
CALL api.wait_until($$ (SELECT dead + retrying = 2 FROM dtx_subscriptions WHERE name = 'two') $$);
SELECT msg.stand('two');
SELECT msg.mend('b');
SELECT dtx_seek('two', 'infinity'::timestamptz);
SELECT msg.stand('two');
SELECT msg.publish('shop.orders', 's5') > 0;
CALL msg.delivered();
SELECT msg.got('b');
-- unsubscribing, too
SELECT msg.trouble('b', 'bad', 'refuse');
SELECT msg.publish('shop.orders', 'bad') > 0;
CALL api.wait_until($$ (SELECT dead = 1 FROM dtx_subscriptions WHERE name = 'two') $$);
SELECT dtx_unsubscribe('two');
SELECT msg.mend('b');
SELECT count(*) FROM dtx_dead_letters;
SELECT count(*) FROM dtx.undelivered;
SELECT count(*) FROM dtx.position;
-- the name is free, and a new subscription gets nothing that was another's
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle', 'two');
SELECT msg.publish('shop.orders', 's6') > 0;
CALL msg.delivered();
SELECT msg.got('b');
SELECT dtx_unsubscribe('two');

-- what is refused
SELECT m.try(call) FROM unnest(ARRAY[
  $$SELECT dtx_subscribe(NULL)$$, $$SELECT dtx_subscribe('')$$, $$SELECT dtx_subscribe('a b')$$, $$SELECT dtx_subscribe('dtx.*')$$,
  $$SELECT dtx_subscribe('a', 'peer')$$, $$SELECT dtx_subscribe('a', 'nowhere', 'msg.handle')$$,
  $$SELECT dtx_subscribe('a', name => '')$$,
  $$SELECT dtx_subscribe('a', max_attempts => 0)$$, $$SELECT dtx_subscribe('a', batch_size => 0)$$, $$SELECT dtx_subscribe('a', batch_size => 10001)$$,
  $$SELECT dtx_subscribe('a', schedule => '{}')$$, $$SELECT dtx_subscribe('a', schedule => '{1s,NULL}')$$, $$SELECT dtx_subscribe('a', schedule => '{-1s}')$$,
  $$SELECT dtx_unsubscribe('nobody')$$, $$SELECT dtx_pause('nobody')$$, $$SELECT dtx_resume('nobody')$$,
  $$SELECT dtx_seek('nobody', 1)$$, $$SELECT dtx_seek('nobody', now())$$, $$SELECT dtx_redeliver('nobody')$$, $$SELECT dtx_redeliver(NULL::text)$$,
  $$SELECT dtx_redeliver('{1}'::bigint[], 'nobody')$$, $$SELECT dtx_discard('{1}', 'nobody')$$, $$SELECT * FROM dtx_receive('nobody')$$,
  $$SELECT dtx_ack('nobody', '{1}')$$, $$SELECT dtx_nack('nobody', '{1}')$$,
  $$SELECT dtx_redeliver('{1}'::bigint[])$$, $$SELECT dtx_redeliver(NULL::bigint[])$$, $$SELECT dtx_discard('{1}')$$, $$SELECT dtx_discard(NULL)$$,
  $$SELECT dtx_unsubscribe(NULL) IS NULL$$]) AS call;
SELECT dtx_subscribe('a', name => 'taken');
SELECT m.try($$SELECT dtx_subscribe('a', name => 'taken')$$);
SELECT dtx_unsubscribe('taken');
-- here the handler is looked at
CREATE FUNCTION msg.of_numbers(payload integer) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION msg.of_others(other text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION msg.of_nameless(text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION msg.of_any(anything jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION msg.of_set(payload jsonb) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION msg.of_out(payload jsonb, OUT x integer) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION msg.of_strict(payload jsonb, key text) RETURNS void LANGUAGE sql STRICT AS '';
CREATE FUNCTION msg.of_two(payload jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION msg.of_two(payload jsonb, key text) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE msg.of_procedure(payload jsonb) LANGUAGE sql AS '';
SELECT m.try(format('SELECT dtx_subscribe(''a'', NULL, %L, ''here'')', handler))
FROM unnest('{msg.none,"msg.none(jsonb)",msg.of_numbers,msg.of_others,msg.of_nameless,msg.of_set,msg.of_out,msg.of_strict,msg.of_two,msg.of_procedure,sum(integer),"msg.handle(",""}'::text[]) AS handler;
SELECT m.try('SELECT dtx_subscribe(''a'', NULL, ''msg.of_two(jsonb,text)'')'), m.try('SELECT dtx_subscribe(''a'', NULL, ''msg.of_any'')');
SELECT dtx_unsubscribe(name) FROM dtx_subscriptions;
BEGIN READ ONLY;
SELECT m.try($$SELECT dtx_subscribe('a')$$);
ROLLBACK;

-- nor has a peer an empty one
SELECT split_part(m.try($$SELECT dtx_subscribe('a', 'peer', '', 'empty')$$), ':', 1);
SELECT dtx_unsubscribe(name) FROM dtx_subscriptions;
-- rights: a subscription is its role's
DROP ROLE IF EXISTS dtx_msg_owner, dtx_msg_other, dtx_msg_nologin;
CREATE ROLE dtx_msg_owner LOGIN;
CREATE ROLE dtx_msg_other LOGIN;
CREATE ROLE dtx_msg_nologin;
GRANT USAGE ON SCHEMA msg, m, api TO dtx_msg_owner, dtx_msg_other, dtx_msg_nologin;
SET ROLE dtx_msg_owner;
SELECT m.try($$SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_one', 'owned')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION dtx_subscribe TO dtx_msg_owner, dtx_msg_other;
SET ROLE dtx_msg_owner;
SELECT m.try($$SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_one', 'owned')$$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER peer TO dtx_msg_owner;
SET ROLE dtx_msg_owner;
SELECT m.try($$SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_one', 'owned')$$);
RESET ROLE;
CREATE USER MAPPING FOR dtx_msg_owner SERVER peer OPTIONS (user 'dtx_msg_owner', password_required 'false');
SET ROLE dtx_msg_owner;
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_one', 'owned', schedule => '{1ms}');
RESET ROLE;
-- it is not let in there, as long as nobody has admitted it; then it must be able to call the handler
SELECT msg.publish('shop.orders', 'r1') > 0;
CALL api.wait_until($$ (SELECT attempts > 0 FROM dtx_subscriptions WHERE name = 'owned') $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions WHERE name = 'owned';
SELECT m.at('b', 'SELECT dtx_admit(''dtx_msg_owner'')');
CALL api.wait_until($$ (SELECT last_error LIKE '%schema msg%' FROM dtx_subscriptions WHERE name = 'owned') $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions WHERE name = 'owned';
SELECT m.at('b', 'GRANT USAGE ON SCHEMA msg, m TO dtx_msg_owner');
SELECT m.at('b', 'REVOKE EXECUTE ON FUNCTION msg.handle_one(text, jsonb) FROM PUBLIC');
CALL api.wait_until($$ (SELECT last_error LIKE '%function%' FROM dtx_subscriptions WHERE name = 'owned') $$);
SELECT state, lag, dead, last_error FROM dtx_subscriptions WHERE name = 'owned';
SELECT m.at('b', 'GRANT EXECUTE ON FUNCTION msg.handle_one(text, jsonb) TO dtx_msg_owner');
SELECT m.at('b', 'GRANT INSERT ON msg.handled TO dtx_msg_owner');
SELECT m.at('b', 'GRANT SELECT ON m.place TO dtx_msg_owner');
SELECT dtx_resume('owned');
CALL msg.delivered();
-- nothing was lost, and the handler ran as the mapped user
SELECT msg.sorted();
SELECT msg.stand('owned');
-- others neither touch it, nor see it
SET ROLE dtx_msg_other;
SELECT count(*) FROM dtx_subscriptions;
SELECT m.try(call) FROM unnest(ARRAY[$$SELECT dtx_unsubscribe('owned')$$, $$SELECT dtx_pause('owned')$$, $$SELECT dtx_resume('owned')$$,
  $$SELECT dtx_seek('owned', 1)$$, $$SELECT dtx_seek('owned', 'infinity'::timestamptz)$$, $$SELECT dtx_redeliver('owned')$$,
  $$SELECT dtx_redeliver('{1}'::bigint[], 'owned')$$, $$SELECT dtx_discard('{1}', 'owned')$$, $$SELECT * FROM dtx_receive('owned')$$,
  $$SELECT dtx_ack('owned', '{1}')$$, $$SELECT dtx_nack('owned', '{1}')$$, $$SELECT * FROM dtx.message$$, $$SELECT * FROM dtx.undelivered$$,
  $$SELECT * FROM dtx.backlog(1, 10)$$, $$SELECT dtx_subscribe('a', name => 'owned')$$,
  $$SELECT * FROM dtx.deliver(1, 1, 1, 0, 0, false, 0, 'msg.handle', '[]')$$]) AS call;
RESET ROLE;
-- a member does, and who monitors sees
GRANT dtx_msg_owner TO dtx_msg_other;
SET ROLE dtx_msg_other;
SELECT name, role FROM dtx_subscriptions;
SELECT dtx_pause('owned'), dtx_resume('owned');
RESET ROLE;
REVOKE dtx_msg_owner FROM dtx_msg_other;
GRANT pg_monitor TO dtx_msg_other;
SET ROLE dtx_msg_other;
SELECT name, state, lag FROM dtx_subscriptions;
SELECT m.try($$SELECT dtx_pause('owned')$$);
RESET ROLE;
REVOKE pg_monitor FROM dtx_msg_other;
-- who monitors sees no payload: dead letters are the owner's
SELECT m.at('b', 'REVOKE INSERT ON msg.handled FROM dtx_msg_owner');
SELECT dtx_unsubscribe('owned');
SET ROLE dtx_msg_owner;
SELECT dtx_subscribe('shop.*', 'peer', 'msg.handle_one', 'owned', schedule => '{1ms}', max_attempts => 2);
RESET ROLE;
SELECT msg.publish('shop.orders', 'r2') > 0;
CALL api.wait_until($$ (SELECT dead = 1 FROM dtx_subscriptions WHERE name = 'owned') $$);
SELECT subscription, payload, attempts, last_error FROM dtx_dead_letters;
GRANT pg_monitor TO dtx_msg_other;
SET ROLE dtx_msg_other;
SELECT dead FROM dtx_subscriptions;
SELECT count(*) FROM dtx_dead_letters;
SELECT dtx_redeliver(array_agg(n)) FROM generate_series(1, 100000) AS n;
SELECT dtx_discard(array_agg(n)) FROM generate_series(1, 100000) AS n;
SET ROLE dtx_msg_owner;
SELECT count(*) FROM dtx_dead_letters;
RESET ROLE;
REVOKE pg_monitor FROM dtx_msg_other;
SELECT m.at('b', 'GRANT INSERT ON msg.handled TO dtx_msg_owner');

-- what it needs stays
SELECT m.try('DROP SERVER peer CASCADE');
SELECT m.try('DROP USER MAPPING FOR dtx_msg_owner SERVER peer');
SELECT m.try('DROP ROLE dtx_msg_owner');
SELECT m.try('DROP OWNED BY dtx_msg_owner');
SELECT m.try('DROP EXTENSION dtx CASCADE');
SELECT m.try('SELECT dtx_redeliver(''owned'')');
CALL msg.delivered();
SELECT msg.sorted();
SELECT dtx_unsubscribe('owned');
-- and one that is used by nothing else goes
DROP USER MAPPING FOR dtx_msg_owner SERVER peer;
SELECT m.at('b', 'DROP OWNED BY dtx_msg_owner');
DROP OWNED BY dtx_msg_owner, dtx_msg_other, dtx_msg_nologin;
DROP ROLE dtx_msg_owner, dtx_msg_other, dtx_msg_nologin;
-- pulled messages need no server
SELECT dtx_subscribe('shop.*', name => 'pulled');
SELECT count(*) FROM dtx_subscriptions;
SELECT dtx_unsubscribe('pulled');
