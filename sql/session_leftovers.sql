--
-- What a branch, a confirm or a handler leaves in its session does not reach the next one.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
-- Here and at b: a function that leaves what it can, and one that says what it finds.
CREATE FUNCTION m.set_up() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE SEQUENCE m.counter;
  CREATE TABLE m.found (who text, what text);
  CREATE FUNCTION m.find() RETURNS text LANGUAGE plpgsql AS $$
  DECLARE
    last text := '';
  BEGIN
    BEGIN
      last := currval('m.counter');
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
    END;
    RETURN concat_ws(' ', nullif(last, ''), (SELECT string_agg('lock ' || objid, ' ') FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = 1),
      (SELECT string_agg('table ' || relname, ' ') FROM pg_class WHERE relnamespace = pg_my_temp_schema()), nullif(current_setting('m.mark', true), ''));
  END $$;
  CREATE FUNCTION m.leave(with_table boolean) RETURNS text LANGUAGE plpgsql AS $$
  DECLARE
    found text := m.find();
  BEGIN
    PERFORM pg_advisory_lock(4711), nextval('m.counter'), set_config('m.mark', 'mark', false);
    IF with_table THEN
      CREATE TEMP TABLE mine (i integer);
    END IF;
    RETURN 'found:' || found || ', left: ' || m.find();
  END $$;
  CREATE FUNCTION m.leaving() RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO m.found VALUES ('action', m.leave(true));
    RETURN 'done';
  END $$;
  CREATE FUNCTION m.handle_and_leave(p jsonb) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO m.found VALUES ('handler', m.leave(true));
  END $$;
  CREATE FUNCTION m.fail_and_leave(p jsonb) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.leave(true);
    RAISE EXCEPTION 'found nothing';
  END $$;
  CREATE FUNCTION m.listens() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'LISTEN m'; END $$;
  CREATE FUNCTION m.prepares(p jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'PREPARE m AS SELECT 1'; END $$;
  CREATE FUNCTION m.nothing_to_do() RETURNS void LANGUAGE sql AS '';
  PERFORM dtx_tcc_define('leave', 'm.leaving()', 'm.leaving()', 'm.leaving()');
  PERFORM dtx_tcc_define('listen', 'm.nothing_to_do()', 'm.listens()', 'm.nothing_to_do()');
END $_$;
SELECT m.at('b', pg_get_functiondef('m.set_up()'::regprocedure));
SELECT m.at('b', 'SELECT m.set_up()');
SELECT m.set_up();
CREATE FUNCTION m.free() RETURNS text LANGUAGE sql AS
$$ SELECT 'NOT EXISTS (SELECT FROM pg_locks WHERE locktype = ''advisory'' AND objid = 4711 AND objsubid = 1)'::text $$;

-- branches, one after the other on one connection, committed and rolled back
SELECT m.connect('s', 'a');
CREATE FUNCTION m.branch(mode text, ending text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  PERFORM m.run('s', 'BEGIN');
  PERFORM m.run('s', format('SELECT dtx_begin(%L)', mode));
  answer := m.run('s', $x$SELECT x FROM dtx_query('peer', 'SELECT m.leave(false)') AS t(x text)$x$);
  PERFORM m.run('s', ending);
  -- a rollback is not waited for
  RETURN concat_ws(', ', mode, ending, regexp_replace(answer, 'left: \d+', 'left: N'), m.wait('b', m.free()));
END $$;
SELECT m.branch('at', 'COMMIT');
SELECT m.branch('at', 'ROLLBACK');
SELECT m.branch('xa', 'COMMIT');
SELECT m.branch('xa', 'ROLLBACK');
SELECT m.branch('at', 'COMMIT');
SELECT m.settled();
-- a statement that fails leaves nothing either
SELECT split_part(m.run('s', $$SELECT dtx_exec('peer', 'SELECT pg_advisory_lock(4711), 1/0')$$), E'\n', 1), m.wait('b', m.free());
SELECT m.run('s', $$SELECT dtx_exec('peer', 'DECLARE c CURSOR WITH HOLD FOR SELECT 1')$$);
-- tries, confirms and cancels: temporary tables too
SELECT m.run('s', $$SELECT dtx_try('peer', 'leave', '{}')$$);
SELECT m.run('s', $$SELECT dtx_try('peer', 'leave', '{}')$$);
SELECT m.run('s', 'BEGIN');
SELECT m.run('s', $$SELECT dtx_try('peer', 'leave', '{}')$$);
SELECT m.run('s', 'ROLLBACK');
SELECT m.wait('b', '(SELECT count(*) = 6 FROM m.found)');
SELECT m.settled();
SELECT m.at('b', $$SELECT DISTINCT regexp_replace(what, '\d+', 'N') FROM m.found$$);
SELECT m.wait('b', m.free()), m.at('b', $$SELECT count(*) FROM pg_class WHERE relname = 'mine'$$);
SELECT m.bye('s');
-- what would change the session is refused, and said
SELECT dtx_try('peer', 'listen', '{}');
SELECT m.wait('a', 'EXISTS (SELECT FROM dtx_branches WHERE last_error ~ ''not allowed'')');
SELECT DISTINCT last_error FROM dtx_branches WHERE side = 'coordinator';
SELECT m.at('b', $$CREATE OR REPLACE FUNCTION m.listens() RETURNS void LANGUAGE sql AS ''$$);
SELECT m.settled();

-- handlers: of one batch, at a peer and here
SELECT dtx_subscribe('m.leave', 'peer', 'm.handle_and_leave(jsonb)', 'm.there');
SELECT dtx_subscribe('m.leave', NULL, 'm.handle_and_leave(jsonb)', 'm.here');
SELECT count(dtx_publish('m.leave', to_jsonb(i))) FROM generate_series(1, 5) AS i;
SELECT m.wait('b', '(SELECT count(*) = 11 FROM m.found)'), m.wait('a', '(SELECT count(*) = 5 FROM m.found)');
SELECT m.at('b', $$SELECT DISTINCT regexp_replace(what, '\d+', 'N') FROM m.found$$);
SELECT DISTINCT regexp_replace(what, '\d+', 'N') FROM m.found;
SELECT m.wait('a', m.free());
SELECT count(*) FROM pg_class WHERE relname = 'mine';
SELECT dtx_unsubscribe('m.there'), dtx_unsubscribe('m.here');
-- one that fails
SELECT dtx_subscribe('m.leave', NULL, 'm.fail_and_leave(jsonb)', 'm.here', max_attempts => 1);
SELECT dtx_subscribe('m.leave', NULL, 'm.prepares(jsonb)', 'm.prepares', max_attempts => 1);
SELECT dtx_publish('m.leave', '1') > 0;
SELECT m.wait('a', '(SELECT sum(dead) = 2 FROM dtx_subscriptions WHERE name ~ ''^m[.]'')');
SELECT subscription, last_error FROM dtx_dead_letters WHERE subscription ~ '^m[.]' ORDER BY 1;
SELECT m.wait('a', m.free());
SELECT dtx_unsubscribe('m.here'), dtx_unsubscribe('m.prepares');

-- a session of the user's own is the user's
SELECT pg_advisory_lock(4711) IS NULL;
BEGIN;
SELECT dtx_try(NULL, 'listen', '{}');
COMMIT;
SELECT m.find(), pg_listening_channels();
UNLISTEN *;
SELECT pg_advisory_unlock(4711);
SELECT m.settled();

-- clean up
CREATE FUNCTION m.tear_down() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dtx_tcc_drop('leave'), dtx_tcc_drop('listen');
  DROP FUNCTION m.find(), m.leave(boolean), m.leaving(), m.handle_and_leave(jsonb), m.fail_and_leave(jsonb), m.listens(), m.prepares(jsonb), m.nothing_to_do(), m.set_up();
  DROP SEQUENCE m.counter;
  DROP TABLE m.found;
END $$;
SELECT m.at('b', pg_get_functiondef('m.tear_down()'::regprocedure));
SELECT m.at('b', 'SELECT m.tear_down()'), m.at('b', 'DROP FUNCTION m.tear_down()');
SELECT m.tear_down();
DROP FUNCTION m.tear_down(), m.free(), m.branch(text, text);
SELECT m.settled();
