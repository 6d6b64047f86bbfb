--
-- With what search path, as whom, and with whose temporary tables runs what is called
-- later than it was asked for: confirms, cancels, handlers, check functions, what is
-- expected. And what it sets is gone when it is over.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
CREATE ROLE later_alice LOGIN;
CREATE ROLE later_mallory LOGIN;
CREATE SCHEMA shop AUTHORIZATION later_alice;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
CREATE SCHEMA mal AUTHORIZATION later_mallory;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
CREATE TABLE m.later (id integer GENERATED ALWAYS AS IDENTITY, what text);
GRANT USAGE ON SCHEMA m TO PUBLIC;
GRANT INSERT ON m.later TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA m TO later_mallory;
GRANT SELECT ON m.place TO later_mallory;
CREATE FUNCTION m.happened() RETURNS SETOF text LANGUAGE sql AS $$
  WITH gone AS (DELETE FROM m.later RETURNING id, what) SELECT what FROM gone ORDER BY id $$;

-- Alice's action, and her functions that book with it for anybody.
SET ROLE later_alice;
SET search_path = shop;
CREATE TABLE seat (no integer PRIMARY KEY, state text);
INSERT INTO seat SELECT g, 'free' FROM generate_series(1, 9) g;
CREATE FUNCTION note(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO m.later (what) VALUES (format('%s as %s, path %s', what, current_user, current_setting('search_path')));
  PERFORM set_config('search_path', 'mal', false), set_config('application_name', 'left behind', false);
END $$;
-- the try names its table in full, the others do not
CREATE FUNCTION seat_try(no integer) RETURNS void LANGUAGE sql AS $$ UPDATE shop.seat s SET state = 'reserved' WHERE s.no = seat_try.no $$;
CREATE FUNCTION seat_confirm(no integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE seat s SET state = 'taken' WHERE s.no = seat_confirm.no;
  PERFORM note('confirm');
END $$;
CREATE FUNCTION seat_cancel(no integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE seat s SET state = 'free' WHERE s.no = seat_cancel.no;
  PERFORM note('cancel');
END $$;
SELECT public.dtx_tcc_define('later', 'seat_try(integer)', 'seat_confirm(integer)', 'seat_cancel(integer)');
-- how its arguments are read must not change between try and confirm
CREATE FUNCTION at_try(day date, due timestamptz, after interval) RETURNS void LANGUAGE sql SET datestyle = iso SET timezone = utc SET intervalstyle = postgres AS
  $$ INSERT INTO m.later (what) VALUES (format('try %s %s %s', day, due, after)) $$;
CREATE FUNCTION at_confirm(day date, due timestamptz, after interval) RETURNS void LANGUAGE sql SET datestyle = iso SET timezone = utc SET intervalstyle = postgres AS
  $$ INSERT INTO m.later (what) VALUES (format('confirm %s %s %s', day, due, after)) $$;
SELECT public.dtx_tcc_define('later at', 'at_try(date,timestamptz,interval)', 'at_confirm(date,timestamptz,interval)', NULL);
CREATE FUNCTION book_at(args jsonb) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = shop, pg_temp AS
  $$ SELECT public.dtx_try(NULL, 'later at', args) $$;
CREATE FUNCTION book(no integer) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = shop, pg_temp AS
  $$ SELECT public.dtx_try(NULL, 'later', jsonb_build_object('no', no)) $$;
CREATE FUNCTION book_careless(no integer) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = shop AS
  $$ SELECT public.dtx_try(NULL, 'later', jsonb_build_object('no', no)) $$;
RESET ROLE;
RESET search_path;

-- Mallory has a temporary table of that name, with a trigger.
SELECT m.connect('mallory', 'a', 'later_mallory');
SELECT m.run('mallory', 'SET search_path = mal');
SELECT m.run('mallory', $x$CREATE FUNCTION mal.strike() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO m.later (what) VALUES (format('%s was struck', current_user));
  RETURN new;
END $$ $x$);
SELECT m.run('mallory', 'CREATE TEMP TABLE seat (no integer, state text)');
SELECT m.run('mallory', 'INSERT INTO seat SELECT g FROM generate_series(1, 9) g');
SELECT m.run('mallory', 'GRANT ALL ON seat TO PUBLIC');
SELECT m.run('mallory', 'CREATE TRIGGER strike BEFORE UPDATE ON seat FOR EACH ROW EXECUTE FUNCTION mal.strike()');
SELECT m.run('mallory', 'CREATE FUNCTION mal.note(what text) RETURNS void LANGUAGE sql AS ''INSERT INTO m.later (what) VALUES (current_user || '''' called mallory'''')''');
SELECT m.run('mallory', 'SELECT shop.book(1)');
SELECT m.happened();
SELECT m.run('mallory', 'SELECT shop.book_careless(2)');
SELECT m.happened();
-- confirmed before the commit
SELECT m.run('mallory', 'BEGIN');
SELECT m.run('mallory', 'SELECT concat(shop.book(3), shop.book_careless(4))');
SELECT m.run('mallory', 'SET CONSTRAINTS ALL IMMEDIATE');
SELECT m.run('mallory', 'COMMIT');
SELECT m.happened();
SELECT m.run('mallory', 'SHOW search_path'), m.run('mallory', 'SHOW application_name');
SELECT m.run('mallory', setting) FROM unnest('{BEGIN,SET datestyle = dmy,SET timezone = ''Asia/Shanghai'',SET intervalstyle = postgres}'::text[]) AS setting;
SELECT m.run('mallory', $$SELECT shop.book_at('{"day": "1/2/2026", "due": "2026-01-01 00:00", "after": "-1 2:03"}')$$);
SELECT m.run('mallory', setting) FROM unnest('{SET datestyle = mdy,SET timezone = ''America/New_York'',SET intervalstyle = sql_standard,COMMIT}'::text[]) AS setting;
SELECT m.happened();
SELECT m.run('mallory', 'RESET ALL');
SELECT m.run('mallory', 'SET search_path = mal');
-- who tries as itself has its own path, and its own temporary tables first, in the confirm as in the try
SELECT m.run('mallory', 'SELECT public.dtx_try(NULL, ''later'', ''{"no": 5}'')');
SELECT m.run('mallory', 'GRANT ALL ON seat TO later_mallory');
SELECT m.at('a', 'GRANT SELECT, UPDATE ON shop.seat TO later_mallory');
SELECT m.run('mallory', 'SELECT public.dtx_try(NULL, ''later'', ''{"no": 5}'')');
SELECT m.happened();
SELECT m.at('a', 'REVOKE ALL ON shop.seat FROM later_mallory');
SELECT m.bye('mallory');
SELECT no, state FROM shop.seat WHERE state <> 'free' ORDER BY no;

-- At a peer: what is settled in another session finds what the try found.
SELECT m.at('b', 'CREATE TABLE m.later (id integer GENERATED ALWAYS AS IDENTITY, what text)');
SELECT m.at('b', 'CREATE SCHEMA shop');
SELECT m.at('b', $x$CREATE FUNCTION shop.note(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO m.later (what) VALUES (format('%s, path %s%s', what, current_setting('search_path'), CASE current_setting('lock_timeout') WHEN '7777ms' THEN ', left behind' END));
  IF what <> 'try' THEN
    PERFORM set_config('search_path', 'mal', false), set_config('lock_timeout', '7777', false);
  END IF;
END $$ $x$);
SELECT m.at('b', format('CREATE FUNCTION shop.%1$s(no integer) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM note(%1$L); END $$', step)) FROM unnest('{try,confirm,cancel}'::text[]) AS step;
SELECT m.at('b', $$SELECT dtx_tcc_define('later', 'shop.try(integer)', 'shop.confirm(integer)', 'shop.cancel(integer)')$$);
SELECT m.at('b', $x$CREATE FUNCTION shop.book() RETURNS void LANGUAGE plpgsql SET search_path = shop AS $$
BEGIN
  PERFORM public.dtx_try(NULL, 'later', '{"no": 1}'), public.dtx_try(NULL, 'later', '{"no": 2}');
END $$ $x$);
BEGIN;
SELECT count(*) FROM dtx_query('peer', 'SELECT 1 FROM shop.book()') AS t(one integer);
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'WITH gone AS (DELETE FROM m.later RETURNING id, what) SELECT what FROM gone ORDER BY id');
BEGIN;
SELECT count(*) FROM dtx_query('peer', 'SELECT 1 FROM shop.book()') AS t(one integer);
ROLLBACK;
SELECT m.settled();
SELECT m.at('b', 'WITH gone AS (DELETE FROM m.later RETURNING id, what) SELECT what FROM gone ORDER BY id');
SELECT m.at('b', 'DROP SCHEMA shop CASCADE');
SELECT m.at('b', 'DROP TABLE m.later');

-- Handlers, check functions and what is expected: found with the path of who names them,
-- run with the role's own.
GRANT EXECUTE ON FUNCTION dtx_subscribe TO later_alice;
ALTER ROLE later_alice SET search_path = pg_catalog, shop;
SET ROLE later_alice;
SET search_path = shop, public;
CREATE FUNCTION handle(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM note('handler of ' || (payload #>> '{}')); END $$;
CREATE FUNCTION look(id bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM note('check'); RETURN 'rollback'; END $$;
CREATE FUNCTION applied(tx_no text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM shop.note('result ' || tx_no); END $$;
SELECT dtx_subscribe('later', handler => 'handle', name => 'later');
SELECT dtx_subscribe('never', handler => 'handle(jsonb)', name => 'later by signature');
SELECT name, handler FROM dtx_subscriptions ORDER BY name;
SELECT dtx_unsubscribe('later by signature');
RESET ROLE;
SET search_path = public;
SELECT dtx_publish('later', '1') > 0, dtx_publish('later', '2') > 0;
CALL m.until('(SELECT count(*) >= 2 FROM m.later)');
SELECT m.happened();
SET ROLE later_alice;
SELECT dtx_unsubscribe('later');
SET search_path = shop, public;
SET dtx.message_check_first = 0;
SELECT dtx_message_prepare('later', '1', "check" => 'look') > 0;
RESET ROLE;
RESET search_path;
CALL m.until('(SELECT count(*) >= 1 FROM m.later)');
SELECT m.happened();
CALL m.until('NOT EXISTS (SELECT FROM dtx_half_messages)');
SET search_path = shop, public;
SELECT dtx_on_notification('applied');
RESET search_path;
SELECT m.at('b', $$SELECT dtx_notify(NULL, 'later 1', '{}') > 0$$);
SELECT dtx_expect('peer', 'later 1', '0');
CALL m.until('(SELECT count(*) >= 1 FROM m.later)');
SELECT replace(what, current_user, 'a superuser') FROM m.happened() AS what;
CALL m.until('NOT EXISTS (SELECT FROM dtx_expectations WHERE state = ''waiting'')');
SELECT dtx_on_notification(NULL);

SELECT m.settled();
DROP TABLE m.later;
DROP FUNCTION m.happened();
SELECT dtx_tcc_drop('later'), dtx_tcc_drop('later at');
SELECT m.at('b', 'SELECT dtx_tcc_drop(''later'')');
DROP SCHEMA shop, mal CASCADE;
DELETE FROM dtx.expectation;
DELETE FROM dtx.received WHERE tx_no = 'later 1';
SELECT m.at('b', 'DELETE FROM dtx.notification WHERE tx_no = ''later 1''');
REVOKE EXECUTE ON FUNCTION dtx_subscribe FROM later_alice;
DROP OWNED BY later_alice, later_mallory;
DROP ROLE later_alice, later_mallory;
