--
-- Who is to blame when a call fails as a whole: a message, whose attempt it was, or the
-- peer. The state of the error does not tell: functions raise what they like.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- refused when the transaction commits, each with the state that is its payload
CREATE FUNCTION msg.set_up_blame() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE TABLE msg.late (state text, topic text);
  CREATE FUNCTION msg.raise_late() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.state ~ '^[0-9A-Z]{5}$' THEN
      RAISE EXCEPTION 'refused at the commit' USING ERRCODE = NEW.state;
    END IF;
    RETURN NULL;
  END $$;
  CREATE CONSTRAINT TRIGGER late AFTER INSERT ON msg.late DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION msg.raise_late();
  CREATE FUNCTION msg.handle_late(topic text, payload jsonb) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO msg.late VALUES (payload ->> 'n', topic) $$;
END $_$;
SELECT msg.set_up_blame();
SELECT m.at('b', pg_get_functiondef('msg.set_up_blame()'::regprocedure));
SELECT m.at('b', 'SELECT msg.set_up_blame()');
CREATE TABLE msg.states AS SELECT state FROM unnest('{23503,P0001,22003,55000,42501,42883,54001,XX000,53100,40001,08006,57014,57P01,28000,3D000,25006,58030,F0000}'::text[]) state;

SELECT dtx_subscribe('late.there', 'peer', 'msg.handle_late', 'there', schedule => '{1ms}', max_attempts => 2);
SELECT dtx_subscribe('late.here', NULL, 'msg.handle_late', 'here', schedule => '{1ms}', max_attempts => 2);
BEGIN;
SELECT count(msg.publish('late.' || place, 'good 1')) FROM unnest('{here,there}'::text[]) place;
SELECT count(msg.publish('late.' || place, state)) FROM msg.states, unnest('{here,there}'::text[]) place;
SELECT count(msg.publish('late.' || place, 'good 2')) FROM unnest('{here,there}'::text[]) place;
COMMIT;
CALL msg.delivered();
SELECT subscription, count(*), (SELECT count(*) FROM msg.states) AS states, min(attempts), max(attempts),
  string_agg(payload ->> 'n', ' ') FILTER (WHERE last_error NOT IN (payload ->> 'n' || ': refused at the commit', '57P02: the process that handled it has ended')) AS others
FROM dtx_dead_letters GROUP BY subscription ORDER BY subscription;
SELECT msg.stand(name) FROM unnest('{here,there}'::text[]) name;
SELECT string_agg(state, ', ' ORDER BY state) FROM msg.late;
SELECT m.at('b', $$SELECT string_agg(state, ', ' ORDER BY state) FROM msg.late$$);
SELECT dtx_unsubscribe('here');

-- the peer, with one of the same states: none has had an attempt
SELECT dtx_discard(array_agg(id)) FROM dtx_dead_letters;
SELECT m.at('b', 'ALTER FUNCTION dtx.deliver RENAME TO gone');
-- (a new connection, which has less stack, too)
ALTER SERVER peer OPTIONS (ADD options '-c max_stack_depth=250kB');
SELECT count(msg.publish('late.there', 'good ' || i)) FROM generate_series(3, 5) i;
CALL api.wait_until($$ (SELECT attempts > 3 FROM dtx_subscriptions WHERE name = 'there') $$);
SELECT regexp_replace(msg.stand('there'), '\(.*\)', '(...)');
SELECT m.at('b', 'ALTER FUNCTION dtx.gone RENAME TO deliver');
SELECT dtx_resume('there');
CALL msg.delivered();
SELECT m.at('b', $$SELECT string_agg(state, ', ' ORDER BY state) FROM msg.late$$);
SELECT dtx_unsubscribe('there');

-- what the receiver cannot read
SELECT dtx_subscribe('deep', 'peer', 'msg.handle', 'deep', schedule => '{1ms}', max_attempts => 2);
BEGIN;
SELECT msg.publish('deep', '1') > 0, dtx_publish('deep', (repeat('[', 4000) || repeat(']', 4000))::jsonb) > 0, msg.publish('deep', '2') > 0;
COMMIT;
CALL msg.delivered();
SELECT msg.got('b');
SELECT msg.stand('deep');
ALTER SERVER peer OPTIONS (DROP options);
SELECT dtx_unsubscribe('deep');

-- a key that no index takes is refused when it is published
SELECT dtx_subscribe('key', name => 'key', ordered => true);
SELECT string_agg(md5(i::text), '') AS long FROM generate_series(1, 100) AS i \gset
SELECT msg.publish('key', '1', left(:'long', 2000)) > 0;
SELECT m.try(format($$SELECT dtx_publish('key', '{}', %L)$$, left(:'long', 2001)));
SELECT m.try(format($$SELECT dtx_message_prepare('key', '{}', %L)$$, left(:'long', 2001)));
SELECT m.try(format($$SELECT dtx_publish('key', '{}', %L)$$, repeat('a', 2001)));
SELECT count(*), max(length(key)) FROM dtx_receive('key', 10);
SELECT dtx_unsubscribe('key');

SELECT m.at('b', 'DROP TABLE msg.late');
SELECT m.at('b', 'DROP FUNCTION msg.handle_late(text, jsonb), msg.raise_late(), msg.set_up_blame()');
DROP TABLE msg.late, msg.states;
DROP FUNCTION msg.handle_late(text, jsonb), msg.raise_late(), msg.set_up_blame();
