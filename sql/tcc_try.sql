--
-- TCC: dtx_try. Arguments, confirm and cancel once each, the guards, retries,
-- tries of the local transaction, rights, and what cannot be dropped meanwhile.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT m.settled();

-- committed: confirmed once; rolled back: cancelled once
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 100}');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
BEGIN;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 7}');
SELECT dtx_try('peer', 'debit', '{"no": 2, "amount": 40.50}');
SELECT dtx_xid() AS xid \gset
SELECT m.at('b', 'SELECT count(*) FROM m.frozen');
SELECT m.at('b', $$SELECT concat_ws(' ', state, mode, side) FROM dtx_branches ORDER BY gid$$);
-- a try takes no row locks once it is over
SELECT m.at('b', 'UPDATE m.account SET balance = balance');
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
-- together: they are cancelled in the reverse order
SELECT m.at('b', 'SELECT m.said()');
-- a transfer, debit there and credit here; and back
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 2, "amount": 40.50}');
SELECT dtx_try(NULL, 'credit', '{"no": 1, "amount": 40.50}');
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();
BEGIN;
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 40.50}');
SELECT dtx_try('peer', 'credit', '{"no": 2, "amount": 40.50}');
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 100}');
SELECT dtx_try('c', 'credit', '{"no": 1, "amount": 100}');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT branch, outcome, server FROM dtx_history WHERE xid = :'xid' ORDER BY branch;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', 'SELECT m.said()');
SELECT m.said();

-- savepoints: what they take back is cancelled, the rest confirmed
BEGIN;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 1}');
SAVEPOINT one;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 2}');
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 2}');
SAVEPOINT two;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 3}');
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 3}');
RELEASE two;
ROLLBACK TO one;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 4}');
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 5}');
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();
-- a block that catches what the try raised
DO $$
BEGIN
  PERFORM dtx_try('peer', 'debit', '{"no": 1, "amount": 10}');
  BEGIN
    PERFORM dtx_try('c', 'credit', '{"no": 1, "amount": 4}');
    PERFORM dtx_try('c', 'credit', '{"no": 1, "amount": 600}');
  EXCEPTION WHEN check_violation THEN
    PERFORM dtx_try('c', 'credit', '{"no": 2, "amount": 10}');
  END;
END $$;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', 'SELECT m.said()');

-- a try that fails leaves nothing
SELECT m.try($$SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 501}')$$);
SELECT m.try($$SELECT dtx_try(NULL, 'credit', '{"no": 1, "amount": 501}')$$);
SELECT m.try($$SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 5000}')$$);
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();

-- arguments
CREATE FUNCTION m.define_echo() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE TYPE m.pair AS (x integer, y text);
  CREATE DOMAIN m.small AS integer CHECK (value < 100);
  CREATE FUNCTION m.echo(i integer, n numeric, t text, b boolean, d date, ts timestamp, a integer[], p m.pair, j jsonb, js json, u m.small, v varchar(3))
    RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN jsonb_build_array(i, n, t, b, d, ts, a, p, j, js, u, v); END $$;
  PERFORM dtx_tcc_define('echo', 'm.echo'::regproc, NULL, NULL);
  CREATE DOMAIN m.needed AS integer NOT NULL;
  CREATE FUNCTION m.needs(i m.needed) RETURNS integer LANGUAGE sql AS 'SELECT i::integer';
  PERFORM dtx_tcc_define('needs', 'm.needs'::regproc, NULL, NULL);
  CREATE FUNCTION m.one(i integer) RETURNS integer LANGUAGE sql STRICT AS 'SELECT i + 1';
  PERFORM dtx_tcc_define('one', 'm.one'::regproc, NULL, NULL);
  CREATE FUNCTION m.nothing() RETURNS void LANGUAGE sql AS '';
  PERFORM dtx_tcc_define('nothing', 'm.nothing'::regproc, 'm.nothing'::regproc, NULL);
  CREATE FUNCTION m.two(i integer) RETURNS m.pair LANGUAGE sql AS $$ SELECT ROW(i, 'two')::m.pair $$;
  PERFORM dtx_tcc_define('two', 'm.two'::regproc, NULL, NULL);
  CREATE FUNCTION m."Odd ""name"""("The ""Arg""" integer, "günther" text) RETURNS text LANGUAGE sql AS $$ SELECT $1 || $2 $$;
  PERFORM dtx_tcc_define('odd "action" ''here''', 'm."Odd ""name"""'::regproc, NULL, NULL);
  CREATE FUNCTION m.array_of(a m.pair[], t text[]) RETURNS text LANGUAGE sql AS $$ SELECT a::text || t::text $$;
  PERFORM dtx_tcc_define('array_of', 'm.array_of'::regproc, NULL, NULL);
  CREATE DOMAIN m.codes AS char(3)[];
  CREATE TYPE m.coded AS (code char(3), bits bit(4)[], amount numeric(5,1));
  CREATE FUNCTION m.lengths(c char(8), b bit(4), cs char(3)[], bs bit(4)[], vs varchar(2)[], d m.codes, r m.coded, rs m.coded[])
    RETURNS text LANGUAGE sql AS $$ SELECT concat_ws(' ', c, b, cs, bs, vs, d, r, rs) $$;
  PERFORM dtx_tcc_define('lengths', 'm.lengths'::regproc, NULL, NULL);
END $_$;
SELECT m.define_echo();
SELECT m.at('b', pg_get_functiondef('m.define_echo()'::regprocedure));
SELECT m.at('b', 'SELECT m.define_echo()');
CREATE FUNCTION m.both(action text, args text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  here  text := m.try(format('SELECT dtx_try(NULL, %L, %L)', action, args));
  there text := m.try(format('SELECT dtx_try(%L, %L, %L)', 'peer', action, args));
BEGIN
  RETURN NEXT there;
  IF here <> there THEN
    RETURN NEXT 'but here: ' || here;
  END IF;
END $$;
SELECT m.both('echo', '{"i": 1, "n": 1.50, "t": "text \"quoted\" \u00fc", "b": true, "d": "2024-02-29", "ts": "2024-02-29 12:00", "a": [1, null, 3], "p": {"x": 7, "y": "why"}, "j": {"k": [1, "2", null]}, "js": [true], "u": 99, "v": "abc"}');
-- JSON null is NULL
SELECT m.both('echo', '{"i": null, "n": null, "t": null, "b": null, "d": null, "ts": null, "a": null, "p": null, "j": null, "js": null, "u": null, "v": null}');
-- strings, numbers and booleans are read as their type reads them
SELECT m.both('echo', '{"i": "1", "n": "1e3", "t": 1.50, "b": "on", "d": "29 Feb 2024", "ts": "2024-02-29", "a": "{4,5}", "p": "(1,x)", "j": "s", "js": 1, "u": "5", "v": 12}');
SELECT m.both('array_of', '{"a": [{"x": 1, "y": "one"}, null], "t": ["a", "b, c"]}');
SELECT m.both('array_of', '{"a": [], "t": []}');
-- of a type with a length: functions know none, types and domains keep theirs
SELECT m.both('lengths', '{"c": "12", "b": "1010", "cs": ["abc", "d"], "bs": ["1010", "01"], "vs": ["abc"], "d": ["ab"], "r": {"code": "xy", "bits": ["1010"], "amount": 1.25}, "rs": [{"code": "z", "bits": [], "amount": null}]}');
SELECT m.both('lengths', '{"c": null, "b": null, "cs": [], "bs": [], "vs": [], "d": ["abcd"], "r": null, "rs": null}');
SELECT m.both('lengths', '{"c": null, "b": null, "cs": [], "bs": [], "vs": [], "d": [], "r": {"code": "x", "bits": ["101"], "amount": 1}, "rs": null}');
SELECT m.both('odd "action" ''here''', '{"The \"Arg\"": 4, "günther": "x"}');
-- a strict function is not called with NULL
SELECT m.both('one', '{"i": 1}');
SELECT m.both('one', '{"i": null}');
SELECT m.both('nothing', '{}');
-- a type that takes no NULL
SELECT m.both('needs', '{"i": 1}');
SELECT m.both('needs', '{"i": null}');
SELECT m.both('two', '{"i": 2}');
-- missing, unknown, wrong
SELECT m.both('one', '{}');
SELECT m.both('one', '{"I": 1}');
SELECT m.both('one', '{"i": 1, "k": 2}');
SELECT m.both('one', '{"i": 1, "": 2}');
SELECT m.both('nothing', '{"i": 1}');
SELECT m.both('one', '{"i": "one"}');
SELECT m.both('one', '{"i": 1.5}');
SELECT m.both('one', '{"i": 3000000000}');
SELECT m.both('one', '{"i": true}');
SELECT m.both('one', '{"i": [1]}');
SELECT m.both('one', '{"i": {"i": 1}}');
SELECT m.both('array_of', '{"a": [1], "t": []}');
SELECT m.both('array_of', '{"a": {"x": 1}, "t": []}');
SELECT m.both('array_of', '{"a": [], "t": "no array"}');
SELECT m.both('array_of', '{"a": 1, "t": []}');
SELECT m.both('echo', '{"i": 1, "n": 1, "t": "", "b": true, "d": "2024-02-30", "ts": null, "a": null, "p": null, "j": null, "js": null, "u": 1, "v": ""}');
SELECT m.both('echo', '{"i": 1, "n": 1, "t": "", "b": true, "d": null, "ts": null, "a": null, "p": null, "j": null, "js": null, "u": 100, "v": ""}');
SELECT m.both('echo', '{"i": 1, "n": 1, "t": "", "b": 7, "d": null, "ts": null, "a": null, "p": null, "j": null, "js": null, "u": 1, "v": ""}');
SELECT m.both('echo', '{"i": 1, "n": 1, "t": "", "b": true, "d": null, "ts": null, "a": null, "p": {"x": "why"}, "j": null, "js": null, "u": 1, "v": ""}');
SELECT m.both('echo', '{"i": 1, "n": "NaN of it", "t": "", "b": true, "d": null, "ts": null, "a": null, "p": null, "j": null, "js": null, "u": 1, "v": ""}');
-- no object
SELECT m.both('one', '[1]');
SELECT m.both('one', '[{"i": 1}]');
SELECT m.both('one', '1');
SELECT m.both('one', '"i"');
SELECT m.both('one', 'null');
-- no arguments, no action, no server
SELECT m.try($$SELECT dtx_try('peer', 'one', NULL)$$);
SELECT m.try($$SELECT dtx_try(NULL, 'one', NULL)$$);
SELECT m.try($$SELECT dtx_try('peer', NULL, '{}')$$);
SELECT m.try($$SELECT dtx_try(NULL, NULL, NULL)$$);
SELECT m.both('none', '{}');
SELECT m.both('', '{}');
SELECT m.both('ONE', '{"i": 1}');
SELECT m.try($$SELECT dtx_try('nowhere', 'one', '{"i": 1}')$$);
SELECT m.try($$SELECT dtx_try('', 'one', '{"i": 1}')$$);
SELECT m.settled();

-- it begins the global transaction, in any mode
BEGIN;
SELECT dtx_begin('tcc') IS NOT NULL;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 3}');
SAVEPOINT s;
SELECT m.try($$SELECT dtx_exec('peer', 'UPDATE m.account SET balance = 0')$$);
SELECT dtx_try(NULL, 'credit', '{"no": 1, "amount": 3}');
COMMIT;
BEGIN TRANSACTION READ ONLY;
SELECT m.try($$SELECT dtx_try('peer', 'one', '{"i": 1}')$$);
SELECT m.try($$SELECT dtx_try(NULL, 'one', '{"i": 1}')$$);
ROLLBACK;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();
-- what a peer may call, nobody else may
SELECT m.try($$SELECT dtx.tcc_try('one', '{"i": 1}')$$);
SELECT m.at('b', $$SELECT dtx.tcc_try('one', '{"i": 1}')$$);
SELECT m.try($$SELECT dtx_exec('peer', 'SELECT dtx.tcc_try(''one'', ''{"i": 1}'')')$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx.tcc_try(''one'', ''{"i": 1}'')') AS t(j jsonb)$$);
SELECT m.try('SELECT dtx.tcc_confirm_local()');

-- the local try: confirmed before the commit, in the same transaction
BEGIN;
SELECT dtx_try(NULL, 'debit', '{"no": 1, "amount": 30}');
UPDATE m.account SET balance = balance + 1 WHERE no = 2;
SELECT what FROM m.log ORDER BY id;
SELECT count(*) FROM dtx.try_log WHERE local;
-- made immediate, it confirms at once
SET CONSTRAINTS ALL IMMEDIATE;
SELECT what FROM m.log ORDER BY id;
SELECT count(*) FROM dtx.try_log WHERE local;
SET CONSTRAINTS ALL DEFERRED;
ROLLBACK;
SELECT count(*) FROM m.log;
SELECT m.settled();
-- a confirm that fails stops the commit
CREATE TABLE m.parent (id integer PRIMARY KEY);
CREATE TABLE m.child (id integer REFERENCES m.parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION m.adopt(id integer) RETURNS void LANGUAGE sql AS 'SELECT m.log(''confirm child '' || id); INSERT INTO m.child VALUES (id)';
CREATE FUNCTION m.refuse(id integer) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not %', id; END $$;
SELECT dtx_tcc_define('adopt', NULL, 'm.adopt'::regproc, NULL), dtx_tcc_define('refuse', NULL, 'm.refuse'::regproc, NULL);
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 5}');
SELECT dtx_try(NULL, 'credit', '{"no": 1, "amount": 5}');
SELECT dtx_try(NULL, 'adopt', '{"id": 7}');
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();
SELECT count(*) FROM m.child;
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 6}');
SELECT dtx_try(NULL, 'adopt', '{"id": 7}');
SELECT dtx_try(NULL, 'credit', '{"no": 1, "amount": 6}');
INSERT INTO m.parent VALUES (7);
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();
SELECT * FROM m.child;
BEGIN;
SELECT dtx_try('peer', 'debit', '{"no": 1, "amount": 7}');
SELECT dtx_try(NULL, 'refuse', '{"id": 7}');
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- what was taken back by a savepoint is not confirmed
BEGIN;
SAVEPOINT s;
SELECT dtx_try(NULL, 'refuse', '{"id": 7}');
ROLLBACK TO s;
SELECT dtx_try(NULL, 'adopt', '{"id": 7}');
COMMIT;
SELECT count(*) FROM m.child;
SELECT m.said();
-- a confirm may try: that is confirmed too
CREATE FUNCTION m.chain(n integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM m.log('confirm chain ' || n);
  IF n > 0 THEN
    PERFORM dtx_try(NULL, 'chain', jsonb_build_object('n', n - 1));
  END IF;
END $$;
SELECT dtx_tcc_define('chain', NULL, 'm.chain'::regproc, NULL);
SELECT dtx_try(NULL, 'chain', '{"n": 3}');
SELECT m.said();
SELECT count(*) FROM dtx.try_log WHERE local;
DROP TABLE m.child, m.parent;
SELECT m.settled();

-- the guards, called as a coordinator calls them: a node that is no node
SELECT m.connect('peer', 'b');
CREATE FUNCTION m.gid(n bigint, b integer DEFAULT 1) RETURNS text LANGUAGE sql AS $$ SELECT format('nobody.0000abcd:%s.00000000deadbeef/%s', n, b) $$;
CREATE FUNCTION m.try_by_hand(gid text, args text DEFAULT '{"no": 1, "amount": 9}', action text DEFAULT 'credit') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  PERFORM dblink_exec('peer', 'BEGIN');
  answer := m.run('peer', format('SELECT dtx.branch_join(%L, %L, 0, 0, 1, 0)', gid, 'tcc'));
  RETURN NEXT answer;
  IF answer = 'NODE' THEN
    RETURN QUERY SELECT m.run('peer', format('SELECT dtx.tcc_try(%L, %L)', action, args));
  END IF;
  RETURN QUERY SELECT m.run('peer', 'COMMIT');
END $$;
CREATE FUNCTION m.settle_by_hand(gid text, commit boolean, horizon bigint DEFAULT 0) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(r, ', ') FROM m.run('peer', format('SELECT concat_ws('': '', outcome, detail) FROM dtx.branch_settle(ARRAY[%L], 1, %s, ARRAY[%L], ARRAY[%L]::boolean[], %L, %L) WHERE written IS NULL',
    split_part(gid, ':', 1), horizon, gid, commit, 't', '{}')) AS r $$;
CREATE FUNCTION m.logs(gid text) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(r, ', ') FROM m.run('peer', format('SELECT ''try '' || coalesce(action, ''never'') FROM dtx.try_log WHERE gid = %1$L UNION ALL SELECT ''confirm '' || ran FROM dtx.confirm_log WHERE gid = %1$L UNION ALL SELECT ''cancel '' || ran FROM dtx.cancel_log WHERE gid = %1$L', gid)) AS r $$;
-- try twice; confirm twice; then neither cancel nor try
SELECT m.try_by_hand(m.gid(100));
SELECT m.try_by_hand(m.gid(100));
SELECT m.logs(m.gid(100));
SELECT m.settle_by_hand(m.gid(100), true);
SELECT m.settle_by_hand(m.gid(100), true);
SELECT m.settle_by_hand(m.gid(100), false);
SELECT m.try_by_hand(m.gid(100));
SELECT m.logs(m.gid(100));
SELECT m.at('b', 'SELECT m.said()');
-- cancel twice; then neither confirm nor try
SELECT m.try_by_hand(m.gid(101));
SELECT m.settle_by_hand(m.gid(101), false);
SELECT m.settle_by_hand(m.gid(101), false);
SELECT m.settle_by_hand(m.gid(101), true);
SELECT m.try_by_hand(m.gid(101));
SELECT m.logs(m.gid(101));
SELECT m.at('b', 'SELECT m.said()');
-- cancel without a try: recorded, and not run; the try that comes late is refused
SELECT m.settle_by_hand(m.gid(102), false);
SELECT m.settle_by_hand(m.gid(102), false);
SELECT m.logs(m.gid(102));
SELECT m.try_by_hand(m.gid(102));
SELECT m.settle_by_hand(m.gid(102), true);
SELECT m.logs(m.gid(102));
SELECT m.at('b', 'SELECT m.said()');
-- confirm without a try is a lost branch
SELECT m.settle_by_hand(m.gid(103), true);
SELECT m.logs(m.gid(103));
-- another branch of the same transaction is another try
SELECT m.try_by_hand(m.gid(101, 2));
SELECT m.settle_by_hand(m.gid(101, 2), true);
-- actions without functions
SELECT m.run('peer', $$SELECT dtx_tcc_define('tried', 'm.nothing()', NULL, NULL)$$);
SELECT m.try_by_hand(m.gid(104), '{}', 'tried');
SELECT m.settle_by_hand(m.gid(104), true);
SELECT m.logs(m.gid(104));
SELECT m.try_by_hand(m.gid(105), '{}', 'tried');
SELECT m.settle_by_hand(m.gid(105), false);
SELECT m.logs(m.gid(105));
-- one try a branch
SELECT m.run('peer', 'BEGIN');
SELECT m.run('peer', format('SELECT dtx.branch_join(%L, %L, 0, 0, 1, 0)', m.gid(106), 'tcc'));
SELECT m.run('peer', $$SELECT dtx.tcc_try('one', '{"i": 1}')$$);
SELECT m.run('peer', $$SELECT dtx.tcc_try('one', '{"i": 1}')$$);
SELECT m.run('peer', 'ROLLBACK');
-- a branch of another mode
SELECT m.run('peer', 'BEGIN');
SELECT m.run('peer', format('SELECT dtx.branch_join(%L, %L, 0, 0, 1, 0)', m.gid(107), 'at'));
SELECT m.run('peer', $$SELECT dtx.tcc_try('one', '{"i": 1}')$$);
SELECT m.run('peer', 'ROLLBACK');
-- a horizon makes an end of the logs, and of all that is older
SELECT m.run('peer', $$SELECT count(*) > 4 FROM dtx.try_log WHERE gid LIKE 'nobody%'$$);
SELECT m.settle_by_hand(m.gid(5000), false, 4000);
SELECT m.run('peer', $$SELECT 'try ' || split_part(gid, ':', 2) FROM dtx.try_log WHERE gid LIKE 'nobody%' UNION ALL SELECT 'confirm ' || split_part(gid, ':', 2) FROM dtx.confirm_log WHERE gid LIKE 'nobody%' UNION ALL SELECT 'cancel ' || split_part(gid, ':', 2) FROM dtx.cancel_log WHERE gid LIKE 'nobody%'$$);
SELECT m.try_by_hand(m.gid(102));
SELECT m.settle_by_hand(m.gid(102), false);
SELECT m.logs(m.gid(102));
SELECT m.settle_by_hand(m.gid(9000), false, 8000);
SELECT m.bye('peer');
-- what the tests above added to the accounts
SELECT m.at('b', 'UPDATE m.account SET balance = balance - CASE no WHEN 1 THEN 18 ELSE 0 END');
SELECT m.at('b', 'SELECT m.said()');
SELECT m.settled();

-- real ones: the logs of what is settled go when nothing can come late any more
CREATE FUNCTION m.burn() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. 1100 LOOP
    BEGIN
      INSERT INTO m.log (what) VALUES ('burnt');
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
    END;
  END LOOP;
END $$;
CREATE PROCEDURE m.prune() LANGUAGE plpgsql AS $$
DECLARE
  deadline timestamptz := clock_timestamp() + interval '3 minutes';
  rows text;
BEGIN
  LOOP
    PERFORM m.burn();
    COMMIT;
    PERFORM dtx_try('peer', 'credit', '{"no": 1, "amount": 0}');
    COMMIT;
    rows := m.at('b', $x$SELECT count(*) FROM (SELECT gid FROM dtx.try_log UNION ALL SELECT gid FROM dtx.confirm_log UNION ALL SELECT gid FROM dtx.cancel_log) AS x WHERE gid LIKE 'dtx_regression.%'$x$);
    EXIT WHEN rows::integer <= 8 OR clock_timestamp() > deadline;
    PERFORM pg_sleep(0.3);
  END LOOP;
  IF rows::integer > 8 THEN
    RAISE EXCEPTION '% rows are left in the logs', rows;
  END IF;
END $$;
SELECT m.at('b', $$SELECT count(*) > 0 FROM dtx.try_log WHERE gid LIKE 'dtx_regression.%'$$);
CALL m.prune();
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()') IS NOT NULL;

-- a confirm or a cancel that fails is tried again until it succeeds
CREATE FUNCTION m.define_fragile() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE TABLE m.switch (works boolean NOT NULL);
  INSERT INTO m.switch VALUES (false);
  CREATE FUNCTION m.fragile(what text) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.log(what);
    IF NOT (SELECT works FROM m.switch) THEN
      RAISE EXCEPTION '% does not work', what USING DETAIL = 'The switch is off.';
    END IF;
  END $$;
  PERFORM dtx_tcc_define('fragile', NULL, 'm.fragile(text)', 'm.fragile(text)');
END $_$;
SELECT m.at('b', pg_get_functiondef('m.define_fragile()'::regprocedure));
SELECT m.at('b', 'SELECT m.define_fragile()');
BEGIN;
SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 0}');
SELECT dtx_try('peer', 'fragile', '{"what": "a confirm"}');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT m.wait('a', 'EXISTS (SELECT FROM dtx_branches WHERE attempts >= 2)');
-- the other branch is settled meanwhile
SELECT m.wait('b', '(SELECT count(*) FROM dtx_branches) = 1');
SELECT side, state, server, mode, attempts >= 2, last_error, next_attempt IS NOT NULL, conflict FROM dtx_branches WHERE xid = :'xid' AND last_error <> '';
SELECT m.at('b', $$SELECT concat_ws(' ', side, state, mode, attempts >= 2, last_error, next_attempt IS NULL, conflict) FROM dtx_branches$$);
SELECT dtx_status(:'xid'), dtx_wait(:'xid', '10ms');
SELECT m.at('b', $$SELECT count(*) FROM m.log WHERE what <> 'try credit 1 0'$$);
SELECT m.at('b', 'UPDATE m.switch SET works = true');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- dtx_retry has it tried at once
SELECT m.at('b', 'UPDATE m.switch SET works = false');
ALTER SYSTEM SET dtx.retry_base = '10min';
ALTER SYSTEM SET dtx.retry_max = '10min';
SELECT pg_reload_conf();
BEGIN;
SELECT dtx_try('peer', 'fragile', '{"what": "a late confirm"}');
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT m.wait('a', $$EXISTS (SELECT FROM dtx_branches WHERE next_attempt > now() + interval '5 min')$$);
SELECT m.at('b', 'UPDATE m.switch SET works = true');
-- not for who has nothing to do with it
CREATE ROLE regress_stranger;
SET ROLE regress_stranger;
SELECT dtx_retry(:'xid');
RESET ROLE;
SELECT dtx_wait(:'xid', '300ms');
DROP ROLE regress_stranger;
SELECT dtx_retry(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.at('b', 'UPDATE m.switch SET works = false');
BEGIN;
SELECT dtx_try('peer', 'fragile', '{"what": "a late cancel"}');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT m.wait('b', 'EXISTS (SELECT FROM dtx_branches WHERE attempts > 0)');
SELECT dtx_status(:'xid');
SELECT state, branches FROM dtx_transactions WHERE xid = :'xid';
SELECT m.at('b', $$SELECT concat_ws(' ', side, state, mode, attempts > 0, last_error, conflict) FROM dtx_branches$$);
SELECT m.at('b', 'UPDATE m.switch SET works = true');
SELECT dtx_retry(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.try($$SELECT dtx_retry('nonsense')$$);
ALTER SYSTEM RESET dtx.retry_base;
ALTER SYSTEM RESET dtx.retry_max;
SELECT pg_reload_conf();
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');

-- functions that branches in doubt need cannot be dropped
CREATE FUNCTION m.define_held() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE SCHEMA held;
  CREATE FUNCTION held.try(i integer) RETURNS void LANGUAGE sql AS $$ SELECT m.log('try held') $$;
  CREATE FUNCTION held.confirm(i integer) RETURNS void LANGUAGE sql AS $$ SELECT m.log('confirm held') $$;
  CREATE FUNCTION held.cancel(i integer) RETURNS void LANGUAGE sql AS $$ SELECT m.log('cancel held') $$;
  CREATE FUNCTION held.another(i integer) RETURNS void LANGUAGE sql AS $$ SELECT m.log('another') $$;
  PERFORM dtx_tcc_define('held', 'held.try'::regproc, 'held.confirm'::regproc, 'held.cancel'::regproc);
END $_$;
SELECT m.at('b', pg_get_functiondef('m.define_held()'::regprocedure));
SELECT m.at('b', 'SELECT m.define_held()');
BEGIN;
SELECT dtx_try('peer', 'held', '{"i": 1}');
SELECT m.at('b', 'DROP FUNCTION held.confirm');
SELECT m.at('b', 'DROP FUNCTION held.cancel');
SELECT m.at('b', 'DROP SCHEMA held CASCADE');
-- nothing else is kept; the branch has the functions it was tried with, whatever they are called
SELECT m.at('b', $$SELECT dtx_tcc_define('held', NULL, 'held.another'::regproc, NULL)$$);
SELECT m.at('b', 'DROP FUNCTION held.try');
SELECT m.at('b', 'ALTER FUNCTION held.confirm RENAME TO renamed');
SELECT dtx_try('peer', 'held', '{"i": 2}');
SELECT m.at('b', $$SELECT dtx_tcc_drop('held')$$);
SELECT m.try($$SELECT dtx_try('peer', 'held', '{"i": 3}')$$);
SELECT m.at('b', 'DROP FUNCTION held.renamed');
SELECT m.at('b', 'DROP FUNCTION held.another');
COMMIT;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('b', 'DROP SCHEMA held CASCADE');
-- nor while the try is still running
SELECT m.at('b', 'SELECT m.define_held()');
SELECT m.connect('peer', 'b');
SELECT m.run('peer', 'BEGIN');
SELECT m.run('peer', format('SELECT dtx.branch_join(%L, %L, 0, 0, 1, 0)', m.gid(9100), 'tcc'));
SELECT m.run('peer', $$SELECT dtx.tcc_try('held', '{"i": 1}')$$);
SELECT m.at('b', 'DROP FUNCTION held.cancel');
SELECT m.run('peer', 'ROLLBACK');
SELECT m.at('b', 'DROP FUNCTION held.cancel');
SELECT m.try($$SELECT dtx_try('peer', 'held', '{"i": 1}')$$);
SELECT m.bye('peer');
SELECT m.at('b', $$SELECT dtx_tcc_drop('held')$$);
SELECT m.at('b', 'DROP SCHEMA held CASCADE');
-- the local transaction's own
SELECT m.define_held();
SELECT m.connect('other', 'a');
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', $$SELECT dtx_try(NULL, 'held', '{"i": 1}')$$);
SELECT m.try('DROP FUNCTION held.confirm');
SELECT m.run('other', 'DROP FUNCTION held.confirm');
SELECT m.run('other', 'ROLLBACK');
SELECT m.bye('other');
SELECT dtx_tcc_drop('held');
DROP SCHEMA held CASCADE;
SELECT m.settled();

-- rights
DROP ROLE IF EXISTS dtx_m_plain;
DROP ROLE IF EXISTS dtx_m_other;
CREATE ROLE dtx_m_plain LOGIN;
CREATE ROLE dtx_m_other LOGIN;
GRANT USAGE ON FOREIGN SERVER peer TO dtx_m_plain, dtx_m_other;
CREATE USER MAPPING FOR dtx_m_plain SERVER peer OPTIONS (user 'dtx_m_plain', password_required 'false');
GRANT USAGE ON SCHEMA m TO dtx_m_plain, dtx_m_other;
CREATE FUNCTION m.define_own() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  PERFORM dtx_admit('dtx_m_plain');
  PERFORM dtx_admit('dtx_m_other');
  GRANT USAGE ON SCHEMA m TO dtx_m_plain, dtx_m_other;
  CREATE FUNCTION m.note(what text) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT m.log(what)';
  CREATE FUNCTION m.own(step text) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.note(format('%s as %s in a session of %s', step, current_user, session_user));
    RETURN current_user;
  END $$;
  CREATE FUNCTION m.own_end(step text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN m.own('the end of ' || step); END $$;
  PERFORM dtx_tcc_define('own', 'm.own'::regproc, 'm.own_end'::regproc, 'm.own_end'::regproc);
  REVOKE EXECUTE ON FUNCTION m.own FROM PUBLIC;
  GRANT EXECUTE ON FUNCTION m.own TO dtx_m_plain;
END $_$;
SELECT m.define_own();
SELECT m.at('b', pg_get_functiondef('m.define_own()'::regprocedure));
SELECT m.at('b', 'SELECT m.define_own()');
SELECT m.connect('plain', 'a', 'dtx_m_plain');
SELECT m.run('plain', 'BEGIN');
SELECT m.run('plain', $$SELECT dtx_try('peer', 'own', '{"step": "a try"}')$$);
SELECT m.run('plain', $$SELECT dtx_try(NULL, 'own', '{"step": "a local try"}')$$);
SELECT xid AS xid FROM dblink('plain', 'SELECT dtx_xid()') AS t(xid text) \gset
-- nobody else settles it, a superuser neither; or drops its action's function
SELECT m.at('b', format('SELECT outcome || '': '' || detail FROM dtx.branch_settle(ARRAY[%L], 1, 0, ARRAY[%L], ARRAY[%L]::boolean[], %L, %L) WHERE written IS NULL',
                        split_part(:'xid', ':', 1), :'xid' || '/1', commit, 't', '{}'), role)
FROM (VALUES ('dtx_m_other', true), ('dtx_m_other', false), (NULL, true), (NULL, false)) AS t(role, commit);
SELECT m.at('b', 'SELECT count(*) FROM dtx_branches', 'dtx_m_other');
SELECT m.at('b', 'SELECT count(*) FROM dtx_branches', 'dtx_m_plain');
SELECT m.run('plain', 'COMMIT');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.said();
-- without EXECUTE
SELECT m.connect('other', 'a', 'dtx_m_other');
SELECT m.run('other', $$SELECT dtx_try(NULL, 'own', '{"step": "a local try"}')$$);
SELECT left(m.run('other', $$SELECT dtx_try('peer', 'own', '{"step": "a try"}')$$), 5);
-- the right is lost between try and confirm: the confirm waits for it
SELECT m.run('plain', 'BEGIN');
SELECT m.run('plain', $$SELECT dtx_try('peer', 'own', '{"step": "a try"}')$$);
SELECT m.at('b', 'REVOKE EXECUTE ON FUNCTION m.own_end FROM PUBLIC');
SELECT m.run('plain', 'COMMIT');
SELECT m.wait('b', 'EXISTS (SELECT FROM dtx_branches WHERE attempts > 0)');
SELECT m.at('b', 'SELECT last_error FROM dtx_branches');
SELECT m.at('b', 'GRANT EXECUTE ON FUNCTION m.own_end TO dtx_m_plain');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- whose confirm or cancel could not be called does not try
SELECT m.run('plain', $$SELECT dtx_try('peer', 'own', '{"step": "a try"}')$$);
SELECT m.settled();
SELECT m.at('b', 'REVOKE EXECUTE ON FUNCTION m.own_end FROM dtx_m_plain');
SELECT m.run('plain', $$SELECT dtx_try('peer', 'own', '{"step": "a try"}')$$);
SELECT m.at('b', $$SELECT dtx_tcc_define('own', 'm.own'::regproc, NULL, 'm.own_end'::regproc)$$);
SELECT m.run('plain', $$SELECT dtx_try('peer', 'own', '{"step": "a try"}')$$);
REVOKE EXECUTE ON FUNCTION m.own_end FROM PUBLIC;
SELECT m.run('plain', $$SELECT dtx_try(NULL, 'own', '{"step": "a try"}')$$);
GRANT EXECUTE ON FUNCTION m.own_end TO PUBLIC;
SELECT m.at('b', 'GRANT EXECUTE ON FUNCTION m.own_end TO PUBLIC');
SELECT m.at('b', $$SELECT dtx_tcc_define('own', 'm.own'::regproc, 'm.own_end'::regproc, 'm.own_end'::regproc)$$);
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()'), m.said();
-- SET ROLE: the local confirm runs as the role that tried
SELECT m.run('plain', 'BEGIN');
SELECT m.at('a', 'GRANT dtx_m_plain TO dtx_m_other');
SELECT m.run('other', 'BEGIN');
SELECT m.run('other', 'SET ROLE dtx_m_plain');
SELECT m.run('other', $$SELECT dtx_try(NULL, 'own', '{"step": "a borrowed try"}')$$);
SELECT m.run('other', 'RESET ROLE');
SELECT m.run('other', 'COMMIT');
SELECT m.run('plain', 'ROLLBACK');
SELECT m.said();
SELECT m.bye('plain', 'other');
SELECT m.settled();

-- clean up
SELECT m.at('b', 'DELETE FROM dtx.joined_branch WHERE gid LIKE ''nobody%''');
SELECT m.at('b', 'DELETE FROM dtx.try_log WHERE gid LIKE ''nobody%''');
SELECT m.at('b', 'DELETE FROM dtx.cancel_log WHERE gid LIKE ''nobody%''');
SELECT m.at('b', 'UPDATE m.account SET balance = 1000'), m.at('c', 'UPDATE m.account SET balance = 1000');
UPDATE m.account SET balance = 1000;
DROP USER MAPPING FOR dtx_m_plain SERVER peer;
DROP OWNED BY dtx_m_plain, dtx_m_other;
SELECT m.at('b', 'DROP OWNED BY dtx_m_plain, dtx_m_other');
DROP ROLE dtx_m_plain, dtx_m_other;
CREATE FUNCTION m.undefine() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  name text;
BEGIN
  PERFORM dtx_tcc_drop(action) FROM dtx.tcc_action WHERE action NOT IN ('credit', 'debit') AND action NOT LIKE 'dtx.%';
  FOR name IN SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'm'::regnamespace
    AND proname IN ('echo', 'one', 'nothing', 'two', 'Odd "name"', 'array_of', 'define_echo', 'needs', 'define_fragile', 'define_held', 'define_own',
                    'fragile', 'own', 'own_end', 'note', 'adopt', 'refuse', 'chain', 'burn', 'gid', 'logs', 'both', 'try_by_hand', 'settle_by_hand') LOOP
    EXECUTE 'DROP FUNCTION ' || name;
  END LOOP;
  DROP DOMAIN m.small, m.needed;
  DROP FUNCTION m.lengths(char, bit, char[], bit[], varchar[], m.codes, m.coded, m.coded[]);
  DROP TYPE m.coded;
  DROP DOMAIN m.codes;
  DROP TYPE m.pair;
  DROP TABLE IF EXISTS m.switch;
END $$;
DROP PROCEDURE m.prune();
SELECT m.at('b', pg_get_functiondef('m.undefine()'::regprocedure));
SELECT m.at('b', 'SELECT m.undefine()');
SELECT m.undefine();
SELECT m.at('b', 'DROP FUNCTION m.undefine()');
DROP FUNCTION m.undefine();
SELECT m.said();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('b', $$SELECT action FROM dtx.tcc_action WHERE action NOT LIKE 'dtx.%' ORDER BY 1$$);
SELECT m.settled();
