--
-- What the tests named msg_* share, beside what modes_00_setup has made: schema
-- "msg" in this database and at the peer, with a handler of messages, a list of
-- what it has handled, and helpers here.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA msg;

CREATE FUNCTION msg.set_up() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE TABLE msg.handled (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bigint NOT NULL, what text NOT NULL,
                            published_at timestamptz, handled_at timestamptz DEFAULT clock_timestamp());
  -- messages, by "n" of their payload, whose handler is to fail, and how
  CREATE TABLE msg.trouble (n text PRIMARY KEY, what text NOT NULL);
  CREATE FUNCTION msg.shown(topic text, key text, payload jsonb, headers jsonb, attempt integer) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', topic, payload ->> 'n', 'of ' || key, headers::text, CASE WHEN attempt > 1 THEN '#' || attempt END) $$;
  CREATE FUNCTION msg.handle(id bigint, topic text, key text, payload jsonb, headers jsonb, published_at timestamptz, attempt integer)
  RETURNS void LANGUAGE plpgsql AS $$
  DECLARE
    trouble text := (SELECT what FROM msg.trouble t WHERE t.n = payload ->> 'n');
  BEGIN
    INSERT INTO msg.handled (id, what, published_at) VALUES (id, msg.shown(topic, key, payload, headers, attempt), published_at);
    IF trouble = 'refuse' THEN
      RAISE EXCEPTION 'never' USING ERRCODE = 'DX005', DETAIL = 'It is ' || (payload ->> 'n') || '.';
    ELSIF trouble LIKE 'defer %' THEN
      PERFORM set_config('dtx.retry_after', substr(trouble, 7), true);
      RAISE EXCEPTION 'not yet';
    ELSIF trouble LIKE 'twice %' AND attempt > 2 THEN
      RETURN;
    ELSIF trouble IS NOT NULL THEN
      RAISE EXCEPTION '%', trouble;
    END IF;
  END $$;
  -- what has been handled since this was asked last, in that order
  CREATE FUNCTION msg.got() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(what, ', ' ORDER BY n) FROM msg.handled $$;
  CREATE FUNCTION msg.clear() RETURNS void LANGUAGE sql AS $$ DELETE FROM msg.handled $$;
END $_$;
SELECT msg.set_up();
SELECT m.at('b', 'CREATE SCHEMA msg');
SELECT m.at('b', pg_get_functiondef('msg.set_up()'::regprocedure));
SELECT m.at('b', 'SELECT msg.set_up()');

-- what has been handled at a node since this was asked last
CREATE FUNCTION msg.got(node text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  found text := m.at(node, 'SELECT msg.got()');
BEGIN
  PERFORM m.at(node, 'SELECT msg.clear()');
  RETURN found;
END $$;
CREATE FUNCTION msg.trouble(node text, n text, what text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at(node, format('INSERT INTO msg.trouble VALUES (%L, %L)', n, what)) $$;
CREATE FUNCTION msg.mend(node text, n text DEFAULT '%') RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at(node, format('DELETE FROM msg.trouble WHERE n LIKE %L', n)) $$;

-- Waits until there is nothing left to deliver here, or at the peer.
CREATE PROCEDURE msg.delivered() LANGUAGE plpgsql AS $$
BEGIN
  CALL api.wait_until($c$ NOT EXISTS (SELECT FROM dtx_subscriptions WHERE handler IS NOT NULL AND state <> 'paused'
                                      AND lag + retrying + waiting > 0) $c$);
END $$;
CREATE FUNCTION msg.delivered_at_peer() RETURNS text LANGUAGE sql AS $$
  SELECT m.wait('b', $c$ NOT EXISTS (SELECT FROM dtx_subscriptions WHERE handler IS NOT NULL AND state <> 'paused'
                                     AND lag + retrying + waiting > 0) $c$) $$;
-- Publishes a message that is told by its number.
CREATE FUNCTION msg.publish(topic text, n text, key text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
  SELECT dtx_publish(topic, jsonb_build_object('n', n), key) $$;
-- How subscriptions stand, without what differs from run to run.
CREATE FUNCTION msg.stand(name text) RETURNS text LANGUAGE sql AS $$
  SELECT format('%s: %s, lag %s, retrying %s, waiting %s, leased %s, dead %s%s', s.name, state, lag, retrying, waiting, leased, dead,
                ', ' || last_error)
  FROM dtx_subscriptions s WHERE s.name = $1 $$;
CREATE FUNCTION msg.dead(subscription text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT format('%s, attempts %s: %s', msg.shown(topic, key, payload, headers, 0), attempts, last_error)
  FROM dtx_dead_letters d WHERE d.subscription = $1 ORDER BY id $$;

-- and that all of it works
SELECT dtx_subscribe('first', 'peer', 'msg.handle', 'first');
SELECT msg.publish('first', '1', 'one') > 0;
SELECT dtx_publish('first', '{"n": 2, "x": [1.50, "é\\", null]}', headers => '{"a": "b"}') > 0;
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('first');
SELECT dtx_unsubscribe('first');
