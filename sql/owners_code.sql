--
-- Whose code runs as whom: what belongs to a table's owner (index expressions and
-- predicates, checks, exclusion constraints, defaults, partition bounds, casts of
-- foreign keys) runs as the owner, whoever undoes a branch; looking at rows in doubt,
-- attaching and detaching run nobody's code.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
CREATE ROLE owners_mallory LOGIN;
CREATE ROLE owners_bob LOGIN;
CREATE SCHEMA mal AUTHORIZATION owners_mallory;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
GRANT USAGE ON SCHEMA m TO owners_mallory, owners_bob;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA m TO owners_mallory, owners_bob;

SET ROLE owners_mallory;
CREATE TABLE mal.switch (armed boolean NOT NULL);
INSERT INTO mal.switch VALUES (false);
CREATE TABLE mal.log (what text, who text, sess text, path text);
GRANT SELECT ON mal.switch TO PUBLIC;
GRANT SELECT, INSERT ON mal.log TO PUBLIC;
-- tries to become more than it is, and to leave something behind
CREATE FUNCTION mal.strike(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  blow text;
BEGIN
  IF NOT (SELECT armed FROM mal.switch) THEN
    RETURN;
  END IF;
  INSERT INTO mal.log VALUES (what, current_user, session_user, current_setting('search_path'));
  FOREACH blow IN ARRAY '{RESET ROLE, SET SESSION AUTHORIZATION DEFAULT, ALTER ROLE owners_mallory SUPERUSER,
      CREATE TEMP TABLE account (no integer), PREPARE strike AS SELECT 1}'::text[] LOOP
    BEGIN
      EXECUTE blow;
      INSERT INTO mal.log VALUES (what, current_user, session_user, 'could ' || blow);
    EXCEPTION WHEN OTHERS THEN
      NULL;
    END;
  END LOOP;
  PERFORM set_config('search_path', 'mal', false);
END $$;
CREATE FUNCTION mal.f(what text, x integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  PERFORM mal.strike(what);
  RETURN x;
END $$;

-- what dtx calls as others, it cannot make: operators of keys, output functions of types
SELECT m.try($$CREATE OPERATOR CLASS mal.ops FOR TYPE integer USING btree AS OPERATOR 1 <, FUNCTION 1 btint4cmp(integer, integer)$$);
SELECT m.try($$CREATE TYPE mal.base (INPUT = mal.f, OUTPUT = mal.f)$$);
SELECT m.try($$CREATE FUNCTION mal.out(integer) RETURNS cstring LANGUAGE internal AS 'int4out'$$);
-- one table for each kind of constraint that is checked by itself
CREATE TABLE mal.excluded (id integer PRIMARY KEY, v integer, EXCLUDE USING btree ((mal.f('exclusion constraint', v)) WITH =) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE mal.indexed (id integer PRIMARY KEY, v integer CHECK (mal.f('check', v) > 0));
CREATE INDEX ON mal.indexed ((mal.f('index expression', v)));
CREATE INDEX ON mal.indexed (id) WHERE mal.f('index predicate', v) > 0;
CREATE INDEX indexed_folded ON mal.indexed ((v + mal.f('folded index expression', 1)));
CREATE TABLE mal.parted (id integer, v integer) PARTITION BY RANGE ((mal.f('partition bound', v)));
CREATE TABLE mal.part PARTITION OF mal.parted FOR VALUES FROM (0) TO (100);
ALTER TABLE mal.part ADD PRIMARY KEY (id);
CREATE TYPE mal.letter AS ENUM ('a', 'b', 'c');
CREATE FUNCTION mal.letter_number(x mal.letter) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  PERFORM mal.strike('cast of a foreign key');
  RETURN pg_catalog.ascii(pg_catalog.textin(pg_catalog.enum_out(x))) - 96;
END $$;
CREATE CAST (mal.letter AS integer) WITH FUNCTION mal.letter_number(mal.letter) AS IMPLICIT;
CREATE TABLE mal.referenced (k integer PRIMARY KEY, v integer);
CREATE TABLE mal.referencing (id integer PRIMARY KEY, k mal.letter REFERENCES mal.referenced);
INSERT INTO mal.excluded VALUES (1, 1), (2, 2);
INSERT INTO mal.indexed VALUES (1, 1), (2, 2);
INSERT INTO mal.parted VALUES (1, 1), (2, 2);
INSERT INTO mal.referenced VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO mal.referencing VALUES (1, 'a'), (2, 'b');
GRANT SELECT, INSERT, UPDATE, DELETE ON mal.excluded, mal.indexed, mal.parted, mal.part, mal.referenced, mal.referencing TO owners_bob;
RESET ROLE;

-- attaching as the owner: event triggers of superusers' are not called as somebody else,
-- in a session with mallory's temporary tables
CREATE TABLE public.ddl (command text);
GRANT INSERT ON public.ddl TO PUBLIC;
CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ddl VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER owners_log_ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl();
CREATE EVENT TRIGGER owners_log_drop ON sql_drop EXECUTE FUNCTION public.log_ddl();
SELECT m.connect('mallory', 'a', 'owners_mallory');
SELECT m.run('mallory', 'CREATE TEMP TABLE ddl (command text)');
SELECT m.run('mallory', 'GRANT INSERT ON ddl TO PUBLIC');
SELECT m.run('mallory', $$CREATE FUNCTION mal.on_ddl() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM mal.strike(''event trigger''); RETURN new; END'$$);
SELECT m.run('mallory', 'CREATE TRIGGER strike BEFORE INSERT ON ddl FOR EACH ROW EXECUTE FUNCTION mal.on_ddl()');
SELECT m.run('mallory', 'UPDATE mal.switch SET armed = true');
SELECT m.run('mallory', $$SELECT dtx_attach('mal.excluded')$$);
SELECT m.run('mallory', $$SELECT dtx_attach('mal.indexed')$$);
SELECT m.run('mallory', $$SELECT dtx_detach('mal.indexed')$$);
SELECT m.run('mallory', $$SELECT dtx_attach(rel) FROM unnest('{mal.indexed, mal.part, mal.referenced, mal.referencing}'::regclass[]) AS rel$$);
SELECT m.bye('mallory');
DROP EVENT TRIGGER owners_log_ddl;
DROP EVENT TRIGGER owners_log_drop;

-- What was called, as whom, since the last look; and whether that gained anything.
CREATE FUNCTION m.struck() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  UPDATE mal.switch SET armed = false;
  RETURN QUERY SELECT DISTINCT format('%s as %s in a session of %s', what, who, CASE WHEN rolsuper THEN 'a superuser' ELSE sess END)
               FROM mal.log JOIN pg_roles ON rolname = sess ORDER BY 1;
  -- nothing but what code of the same owner has set
  RETURN QUERY SELECT DISTINCT what || ': ' || path FROM mal.log WHERE path NOT IN ('pg_catalog, pg_temp', 'mal');
  DELETE FROM mal.log;
  RETURN QUERY SELECT 'is superuser' FROM pg_roles WHERE rolname = 'owners_mallory' AND rolsuper;
  ALTER ROLE owners_mallory NOSUPERUSER;
END $$;
SELECT m.struck();
SELECT DISTINCT tgenabled, tgtype FROM pg_trigger WHERE tgname = 'dtx_capture' AND tgrelid::regclass::text LIKE 'mal.%';

-- A branch: joins, runs statements, commits. Says what went wrong.
CREATE FUNCTION m.join(session text, xid text, statements text[]) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT answer FROM unnest(ARRAY['BEGIN', format('SELECT dtx_join(%L)', xid)] || statements || 'COMMIT'::text) AS statement,
                     m.run(session, statement) AS answer
  WHERE answer ~ '^[0-9A-Z]{5}: ' $$;
-- what a branch does, unharmed; then the indexes are opened anew
CREATE FUNCTION m.work() RETURNS text[] LANGUAGE sql AS $$
  SELECT '{UPDATE mal.excluded SET v = v + 10,DELETE FROM mal.indexed WHERE id = 2,UPDATE mal.indexed SET v = v + 10,
           INSERT INTO mal.indexed VALUES (3\, 3),UPDATE mal.part SET v = v + 10,DELETE FROM mal.part WHERE id = 1,
           UPDATE mal.referencing SET k = ''c'',DELETE FROM mal.referenced WHERE k = 2}'::text[] $$;
CREATE FUNCTION m.never(id bigint) RETURNS text LANGUAGE sql AS $$ SELECT 'unknown' $$;
CREATE FUNCTION m.arm(number integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE mal.indexed ADD COLUMN d%s integer DEFAULT mal.f(''default'', 1)', number);
  EXECUTE format('ALTER INDEX mal.indexed_folded SET (fillfactor = %s)', 90 + number);
  UPDATE mal.switch SET armed = true;
END $$;
CREATE FUNCTION m.rows() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT concat_ws(' ', (SELECT string_agg(v::text, ',' ORDER BY id) FROM mal.excluded), (SELECT string_agg(v::text, ',' ORDER BY id) FROM mal.indexed),
                   (SELECT string_agg(v::text, ',' ORDER BY id) FROM mal.part), (SELECT string_agg(chr(96 + k), ',' ORDER BY k) FROM mal.referenced),
                   (SELECT string_agg(textin(enum_out(k)), ',' ORDER BY id) FROM mal.referencing)) $$;
SELECT m.rows();
-- a shared transaction of a superuser's, rolled back by dtx_rollback
SELECT m.connect('s1', 'a');
SELECT dtx_open('1 h') AS xid \gset
SELECT m.join('s1', :'xid', m.work());
SELECT m.rows();
SELECT m.arm(1);
SELECT dtx_rollback(:'xid');
SELECT m.struck();
SELECT current_setting('search_path');
SELECT dtx_wait(:'xid', '3min');
SELECT m.rows();
-- of somebody who may write the tables
SELECT m.connect('bob', 'a', 'owners_bob');
CREATE TABLE m.xid (xid text);
GRANT INSERT ON m.xid TO owners_bob;
SELECT m.run('bob', 'INSERT INTO m.xid SELECT dtx_open(''1 h'')');
DELETE FROM m.xid RETURNING xid \gset
SELECT m.join('bob', :'xid', m.work());
SELECT m.arm(2);
SELECT m.run('bob', format('SELECT dtx_rollback(%L)', :'xid'));
SELECT m.struck();
SELECT m.run('bob', 'SHOW search_path');
SELECT dtx_wait(:'xid', '3min');
SELECT m.rows();
-- by its deadline: not in the worker, but in a process of who has joined
SELECT m.run('bob', 'INSERT INTO m.xid SELECT dtx_open(''1 h'')');
DELETE FROM m.xid RETURNING xid \gset
SELECT m.join('bob', :'xid', m.work());
SELECT m.arm(3);
UPDATE dtx.global SET deadline = clock_timestamp() WHERE xid = :'xid';
SELECT dtx_wait(:'xid', '60 s');
SELECT m.struck();
SELECT m.rows();
-- one that cannot log in has no process; who opened it, or a superuser, rolls it back
SELECT m.run('bob', 'INSERT INTO m.xid SELECT dtx_open(''1 h'')');
DELETE FROM m.xid RETURNING xid \gset
SELECT m.join('bob', :'xid', m.work());
SELECT m.arm(4);
ALTER ROLE owners_bob NOLOGIN;
UPDATE dtx.global SET deadline = clock_timestamp() WHERE xid = :'xid';
SELECT m.wait('a', 'EXISTS (SELECT FROM dtx_branches WHERE state = ''rolling back'' AND last_error IS NOT NULL)');
SELECT state, attempts, last_error FROM dtx_branches WHERE side = 'coordinator';
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.struck();
SELECT m.rows();
ALTER ROLE owners_bob LOGIN;
-- nor one that may not connect to the database
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SET ROLE owners_bob;
SELECT m.try($$SELECT dtx_message_prepare('owners', '1', "check" => 'm.never')$$);
RESET ROLE;
SELECT format('GRANT CONNECT ON DATABASE %I TO PUBLIC', current_database()) \gexec
SELECT m.bye('s1', 'bob');

-- a coordinator's session
SELECT m.connect('b', 'b');
SELECT m.run('b', 'BEGIN');
SELECT count(*) FROM unnest(m.work()) AS statement, m.run('b', format('SELECT dtx_exec(''a'', %L)', statement));
SELECT x AS xid FROM dblink('b', 'SELECT dtx_xid()') AS t(x text) \gset
SELECT m.arm(5);
SELECT m.run('b', 'ROLLBACK');
SELECT m.wait('b', format('dtx_wait(%L) = ''rolled back''', :'xid'));
SELECT m.wait('a', 'NOT EXISTS (SELECT FROM dtx_branches)');
SELECT m.struck();
SELECT m.rows();
-- an operator
SELECT m.run('b', 'BEGIN');
SELECT count(*) FROM unnest(m.work()) AS statement, m.run('b', format('SELECT dtx_exec(''a'', %L)', statement));
SELECT x AS xid FROM dblink('b', 'SELECT dtx_xid()') AS t(x text) \gset
SELECT m.arm(6);
SELECT dtx_resolve(:'xid', 'rollback') > 0;
SELECT m.struck();
SELECT current_setting('search_path');
SELECT m.rows();
SELECT m.run('b', 'ROLLBACK');
SELECT m.settled();
SELECT dtx_resolve(:'xid', 'forget') > 0;

-- Who looks: casts to json are called by nobody
SET ROLE owners_mallory;
CREATE FUNCTION mal.letter_json(x mal.letter) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM mal.strike('cast to json'); RETURN '"x"'; END $$;
CREATE CAST (mal.letter AS json) WITH FUNCTION mal.letter_json(mal.letter);
CREATE FUNCTION mal.positive(x integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM mal.strike('check of a domain'); RETURN true; END $$;
CREATE DOMAIN mal.amount AS integer CHECK (mal.positive(value));
CREATE DOMAIN mal.initial AS mal.letter;
CREATE TYPE mal.pair AS (l mal.letter, n mal.amount);
CREATE FUNCTION mal.pair_json(x mal.pair) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM mal.strike('cast to json'); RETURN '"x"'; END $$;
CREATE CAST (mal.pair AS json) WITH FUNCTION mal.pair_json(mal.pair);
CREATE FUNCTION mal.difference(a mal.letter, b mal.letter) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mal.strike('difference of a range'); RETURN 1; END $$;
CREATE TYPE mal.letters AS RANGE (subtype = mal.letter, subtype_diff = mal.difference);
CREATE TABLE mal.shown (
    id integer PRIMARY KEY, l mal.letter, i mal.initial, a mal.amount, p mal.pair, r mal.letters, ls mal.letter[], ps mal.pair[],
    b boolean, s smallint, big bigint, f4 real, f8 float8, n numeric, nan numeric, inf float8, d date, t timestamp, tz timestamptz,
    iv interval, bytes bytea, js json, jb jsonb, scalar jsonb, grid integer[], empty text[], x text, nil text, long text);
CREATE INDEX ON mal.shown USING gist (r);
INSERT INTO mal.shown VALUES (1, 'a', 'b', 3, ('c', 4), '[a,b]', '{a,c}', ARRAY[('a', 1)::mal.pair, NULL],
    true, 1, 9007199254740993, 1.5, 1e300, 12.50, 'NaN', '-Infinity', '2026-01-02', '2026-01-02 03:04:05.6', '2026-01-02 03:04:05+00',
    '1 day', '\x00ff', '{"a": "\u0000"}', '{"k": [1, "x", null]}', '"s"', '{{1,2},{3,NULL}}', '{}', 'quo"te', NULL, repeat('x', 2000000));
SELECT dtx_attach('mal.shown');
RESET ROLE;
SELECT m.connect('mallory', 'a', 'owners_mallory');
SELECT m.run('mallory', 'INSERT INTO mal.log SELECT dtx_open(''1 h'')');
DELETE FROM mal.log RETURNING what AS mine \gset
SELECT m.join('mallory', :'mine', ARRAY['UPDATE mal.shown SET id = 2']);
UPDATE mal.switch SET armed = true;
SELECT key, value FROM dtx_undo, jsonb_each(before) WHERE relation = 'mal.shown' ORDER BY key COLLATE "C";
SELECT op, after->'id', after - '{id,js,ls,ps}'::text[] = before - '{id,js,ls,ps}'::text[] FROM dtx_undo WHERE relation = 'mal.shown';
SELECT row->'id', row->'l', row->'p' FROM dtx_locks WHERE relation = 'mal.shown' ORDER BY 1;
-- what is not of a user's type looks as to_jsonb shows it
SELECT key FROM dtx_undo, jsonb_each(before) WHERE relation = 'mal.shown'
  AND value <> (SELECT to_jsonb(s) -> key FROM (SELECT b, s, big, f4, f8, n, nan, inf, d, t, tz, iv, bytes, jb, scalar, grid, empty, x, nil FROM mal.shown) AS s) ORDER BY 1;
SELECT m.struck();
SELECT m.run('mallory', format('SELECT dtx_rollback(%L)', :'mine'));
SELECT m.run('mallory', format('SELECT dtx_wait(%L)', :'mine'));
SELECT m.bye('mallory');
SELECT m.settled();
DROP FUNCTION public.log_ddl();
DROP TABLE public.ddl;
DROP SCHEMA mal CASCADE;
DROP TABLE m.xid;
DROP FUNCTION m.never(bigint), m.struck(), m.join(text, text, text[]), m.work(), m.arm(integer), m.rows();
DROP OWNED BY owners_mallory, owners_bob;
DROP ROLE owners_mallory, owners_bob;
