--
-- Branches of branches: a calls b, and b calls c, in every mode.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();

-- One call from a to b, in which b takes an amount from its account 1 and gives it to
-- account 1 at c; what b does itself, and what it asks of c, are in modes of their own.
CREATE FUNCTION m.define_pass() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE FUNCTION m.pass(mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    IF mode = 'xa' THEN
      BEGIN
        PERFORM dtx_begin('xa');
      EXCEPTION WHEN active_sql_transaction THEN
        NULL;
      END;
    END IF;
    IF mode = 'tcc' THEN
      PERFORM dtx_try('c', 'credit', jsonb_build_object('no', 1, 'amount', amount));
    ELSE
      PERFORM dtx_exec('c', 'UPDATE m.account SET balance = balance + $1 WHERE no = 1', amount);
    END IF;
    RETURN mode;
  END $$;
  CREATE FUNCTION m.pay(mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    UPDATE m.account SET balance = balance - amount WHERE no = 1;
    RETURN m.pass(mode, amount);
  END $$;
  -- the same as a try: the confirm and the cancel know nothing of c
  CREATE FUNCTION m.pay_try(mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.debit_try(1, amount);
    RETURN m.pass(mode, amount);
  END $$;
  CREATE FUNCTION m.pay_confirm(mode text, amount numeric) RETURNS void LANGUAGE sql AS 'SELECT m.debit_confirm(1, amount)';
  CREATE FUNCTION m.pay_cancel(mode text, amount numeric) RETURNS void LANGUAGE sql AS 'SELECT m.debit_cancel(1, amount)';
  PERFORM dtx_tcc_define('pay', 'm.pay_try'::regproc, 'm.pay_confirm'::regproc, 'm.pay_cancel'::regproc);
END $_$;
SELECT m.at('b', pg_get_functiondef('m.define_pass()'::regprocedure));
SELECT m.at('b', 'SELECT m.define_pass()');
CREATE FUNCTION m.call(outer_mode text, inner_mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF dtx_xid() IS NULL AND outer_mode = 'xa' THEN
    PERFORM dtx_begin('xa');
  END IF;
  IF outer_mode = 'tcc' THEN
    RETURN outer_mode || ' ' || (dtx_try('peer', 'pay', jsonb_build_object('mode', inner_mode, 'amount', amount)) #>> '{}');
  END IF;
  RETURN outer_mode || ' ' || (SELECT r FROM dtx_query('peer', 'SELECT m.pay($1, $2)', inner_mode, amount) AS t(r text));
END $$;
-- every pair: committed, rolled back, and taken back by a savepoint; the sums tell
CREATE PROCEDURE m.all_pairs(ending text) LANGUAGE plpgsql AS $$
DECLARE
  pair record;
  answer text;
  id text;
BEGIN
  FOR pair IN SELECT o, i FROM unnest('{at,xa,tcc}'::text[]) AS o, unnest('{at,xa,tcc}'::text[]) AS i LOOP
    answer := m.call(pair.o, pair.i, 7);
    id := dtx_xid();
    IF ending = 'commit' THEN
      COMMIT;
    ELSE
      ROLLBACK;
    END IF;
    RAISE INFO '%: %, %', answer, dtx_wait(id, '3min'), m.settled();
  END LOOP;
END $$;
CALL m.all_pairs('commit');
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', 'SELECT m.said()');
CALL m.all_pairs('rollback');
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', 'SELECT m.said()');
-- several in one transaction, some of them taken back, inner ones among them
DO $$
DECLARE
  pair record;
BEGIN
  FOR pair IN SELECT o, i FROM unnest('{at,tcc}'::text[]) AS o, unnest('{at,xa,tcc}'::text[]) AS i LOOP
    PERFORM m.call(pair.o, pair.i, 1);
    BEGIN
      PERFORM m.call(pair.o, pair.i, 10);
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
    EXIT WHEN pair.o = 'at' AND pair.i = 'at';
  END LOOP;
END $$;
SELECT m.settled();
DO $$
BEGIN
  PERFORM m.call('tcc', 'tcc', 1);
  BEGIN
    PERFORM m.call('tcc', 'tcc', 10);
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN
    PERFORM m.call('tcc', 'tcc', 2);
  END;
END $$;
SELECT m.settled();
DO $$
BEGIN
  PERFORM m.call('xa', 'tcc', 1);
  BEGIN
    PERFORM m.call('xa', 'tcc', 10);
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN
    PERFORM m.call('xa', 'tcc', 2);
  END;
END $$;
SELECT m.settled();
DO $$
BEGIN
  PERFORM m.call('xa', 'at', 1);
  BEGIN
    PERFORM m.call('xa', 'at', 10);
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN
    PERFORM m.call('xa', 'at', 2);
  END;
END $$;
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', $$SELECT string_agg(w, ', ' ORDER BY w COLLATE "C") FROM regexp_split_to_table(m.said(), ', ') AS w$$);

-- a savepoint at a, and one in the call at b
BEGIN;
SELECT m.call('at', 'at', 1);
SAVEPOINT s;
SELECT m.call('at', 'xa', 10);
SELECT m.at('c', 'SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()');
ROLLBACK TO s;
SELECT m.call('at', 'tcc', 2);
COMMIT;
SELECT m.settled();
SELECT m.at('b', $_$CREATE FUNCTION m.pay_or_not(mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    PERFORM m.pay(mode, amount);
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN
    RETURN m.pay(mode, 1);
  END;
END $$$_$);
BEGIN;
SELECT r FROM dtx_query('peer', 'SELECT m.pay_or_not($1, $2)', 'at'::text, 10) AS t(r text);
SELECT r FROM dtx_query('peer', 'SELECT m.pay_or_not($1, $2)', 'tcc'::text, 10) AS t(r text);
COMMIT;
SELECT m.settled();
SELECT r FROM dtx_query('peer', 'SELECT m.pay_or_not($1, $2)', 'xa'::text, 10) AS t(r text);
SELECT m.settled();
SELECT m.at('c', 'SELECT m.said()');
-- all that b had at c is taken back, and b's own part stays
SELECT m.at('b', $_$CREATE FUNCTION m.pay_nothing(mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  UPDATE m.account SET balance = balance + 5 WHERE no = 2;
  UPDATE m.account SET balance = balance - 5 WHERE no = 1;
  BEGIN
    PERFORM m.pay(mode, amount);
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN
    RETURN mode;
  END;
END $$$_$);
SELECT r FROM dtx_query('peer', 'SELECT m.pay_nothing($1, $2)', 'at'::text, 10) AS t(r text);
SELECT m.settled();
SELECT r FROM dtx_query('peer', 'SELECT m.pay_nothing($1, $2)', 'xa'::text, 10) AS t(r text);
SELECT m.settled();
BEGIN;
SELECT r FROM dtx_query('peer', 'SELECT m.pay_nothing($1, $2)', 'tcc'::text, 10) AS t(r text);
ROLLBACK;
SELECT m.settled();
SELECT m.at('b', 'SELECT string_agg(balance::text, '' '' ORDER BY no) FROM m.account');
SELECT m.at('c', 'SELECT m.said()');

-- an error at b or c comes up, and leaves nothing; one at b after c has done its part neither
SELECT m.try($$SELECT m.call('at', 'at', 100000)$$);
SELECT m.try($$SELECT m.call('at', 'tcc', 501)$$);
SELECT m.try($$SELECT m.call('tcc', 'tcc', 501)$$);
SELECT m.try($$SELECT m.call('xa', 'tcc', 501)$$);
SELECT m.at('b', $_$CREATE FUNCTION m.pay_and_fail(mode text, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM m.pay(mode, amount);
  RAISE 'after all';
END $$$_$);
SELECT m.try(format($$SELECT r FROM dtx_query('peer', 'SELECT m.pay_and_fail($1, $2)', %L::text, 10) AS t(r text)$$, mode)) FROM unnest('{at,xa,tcc}'::text[]) AS mode;
SELECT m.settled();
SELECT m.at('c', $$SELECT string_agg(w, ', ' ORDER BY w COLLATE "C") FROM regexp_split_to_table(m.said(), ', ') AS w$$);
SELECT m.at('b', 'SELECT m.said()');

-- meanwhile: each node shows what is its own
BEGIN;
SELECT m.call('at', 'at', 3);
SELECT m.call('at', 'tcc', 4);
SELECT dtx_xid() AS xid \gset
SELECT state, branches FROM dtx_transactions;
SELECT m.at('b', $$SELECT concat_ws(' ', side, state, server, mode::text, regexp_replace(gid, '^[^/]*', '')) FROM dtx_branches ORDER BY side, gid$$);
SELECT m.at('c', $$SELECT concat_ws(' ', side, state, server, mode::text, regexp_replace(gid, '^[^/]*', '')) FROM dtx_branches ORDER BY side, gid$$);
SELECT m.at('b', $$SELECT concat_ws(' ', state, branches) FROM dtx_transactions ORDER BY branches$$);
SELECT m.at('c', $$SELECT concat_ws(' ', state, branches) FROM dtx_transactions$$);
SELECT m.at(node, format('SELECT dtx_status(%L)', :'xid')) FROM unnest('{a,b,c}'::text[]) AS node;
SELECT m.at('b', $$SELECT concat_ws(' ', regexp_replace(gid, '^[^/]*', ''), relation, op, (before->>'balance')::numeric - (after->>'balance')::numeric) FROM dtx_undo ORDER BY gid$$);
SELECT m.at('c', $$SELECT concat_ws(' ', regexp_replace(gid, '^[^/]*', ''), relation, op, (before->>'balance')::numeric - (after->>'balance')::numeric) FROM dtx_undo ORDER BY gid$$);
SELECT m.at('c', $$SELECT concat_ws(' ', regexp_replace(gid, '^[^/]*', ''), xid = split_part(gid, '/', 1), relation, row->>'no') FROM dtx_locks$$);
-- the rows at c are held, and b's worker leaves them alone
SELECT m.connect('writer', 'c');
SELECT m.run('writer', 'SET dtx.lock_timeout = 50');
SELECT split_part(m.run('writer', 'UPDATE m.account SET balance = 0 WHERE no = 1'), E'\n', 1);
SELECT m.at('b', format('SELECT dtx_retry(%L)', :'xid'));
-- (b's worker has been at it when it has settled something later)
SELECT m.at('b', $$SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance WHERE no = 2')$$);
SELECT m.wait('b', $$NOT EXISTS (SELECT FROM dtx_branches WHERE side = 'coordinator' AND state = 'committing')$$);
SELECT m.at('c', 'SELECT count(*) FROM dtx_branches');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.run('writer', 'UPDATE m.account SET balance = balance WHERE no = 1');
SELECT m.bye('writer');
SELECT branch, outcome, server FROM dtx_history WHERE xid = :'xid' ORDER BY branch;
SELECT m.at('b', format('SELECT concat_ws('' '', branch, outcome, server) FROM dtx_history WHERE xid LIKE %L ORDER BY xid, branch', :'xid' || '%'));
SELECT m.at(node, format('SELECT dtx_status(%L)', :'xid')) FROM unnest('{a,b,c}'::text[]) AS node;
SELECT m.at('c', 'SELECT m.said()');

-- the middle decides nothing
BEGIN;
SELECT m.call('at', 'at', 3);
SELECT dtx_xid() AS xid \gset
SELECT split_part(m.at('b', format('SELECT dtx_commit(%L)', :'xid')), E'\n', 1);
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- never back to a node that is in the tree already
SELECT m.at('b', $_$CREATE FUNCTION m.back(server text) RETURNS bigint LANGUAGE sql AS $$
  SELECT dtx_exec(server, 'UPDATE m.account SET balance = balance + 1') $$$_$);
SELECT m.at('c', $_$CREATE FUNCTION m.back(server text) RETURNS bigint LANGUAGE sql AS $$
  SELECT dtx_exec(server, 'UPDATE m.account SET balance = balance + 1') $$$_$);
SELECT m.at('b', $_$CREATE FUNCTION m.far_back(server text) RETURNS bigint LANGUAGE sql AS $$
  SELECT n FROM dtx_query('c', 'SELECT m.back($1)', server) AS t(n bigint) $$$_$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT m.back(''a'')') AS t(n bigint)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT m.far_back(''a'')') AS t(n bigint)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT m.far_back(''peer'')') AS t(n bigint)$$);
BEGIN;
SELECT dtx_begin('xa') IS NOT NULL;
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT m.back(''a'')') AS t(n bigint)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT m.far_back(''a'')') AS t(n bigint)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT m.far_back(''peer'')') AS t(n bigint)$$);
COMMIT;
SELECT m.settled();
-- two ways to one node are not a circle: a to c, and a to b to c
BEGIN;
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 1 WHERE no = 1');
SELECT m.call('at', 'at', 2);
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 3 WHERE no = 1');
UPDATE m.account SET balance = balance - 4 WHERE no = 1;
COMMIT;
SELECT m.settled();
BEGIN;
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 1 WHERE no = 1');
SELECT m.call('at', 'at', 2);
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 3 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
BEGIN;
SELECT m.call('at', 'at', 2);
SAVEPOINT s;
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 3 WHERE no = 1');
SELECT m.call('at', 'at', 4);
ROLLBACK TO s;
SELECT dtx_exec('c', 'UPDATE m.account SET balance = balance + 5 WHERE no = 1');
UPDATE m.account SET balance = balance - 5 WHERE no = 1;
COMMIT;
SELECT m.settled();

-- not every call is a branch's business
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx_open()') AS t(x text)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx_tcc_define(''x'', ''m.back(text)'', NULL, NULL)::text') AS t(x text)$$);
SELECT m.try($$SELECT * FROM dtx_query('peer', 'SELECT dtx_resolve(dtx_xid(), ''commit'')') AS t(x bigint)$$);
-- in the branch, dtx_xid is the whole transaction's
BEGIN;
SELECT x = dtx_xid() FROM dtx_query('peer', 'SELECT dtx_xid()') AS t(x text);
ROLLBACK;
SELECT m.settled();

-- the session at the top is gone: the whole tree is rolled back
SELECT m.connect('top', 'a');
SELECT m.run('top', 'BEGIN');
SELECT m.run('top', $$SELECT m.call('at', 'at', 3)$$);
SELECT m.run('top', $$SELECT m.call('at', 'tcc', 4)$$);
SELECT m.bye('top');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', 'SELECT m.said()');

-- clean up
CREATE FUNCTION m.undefine() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name text;
BEGIN
  PERFORM dtx_tcc_drop('pay') WHERE EXISTS (SELECT FROM dtx.tcc_action WHERE action = 'pay');
  FOR name IN SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'm'::regnamespace
    AND proname IN ('define_pass', 'pass', 'pay', 'pay_try', 'pay_confirm', 'pay_cancel', 'pay_or_not', 'pay_nothing', 'pay_and_fail', 'back', 'far_back', 'call', 'undefine') LOOP
    EXECUTE 'DROP FUNCTION ' || name;
  END LOOP;
  UPDATE m.account SET balance = 1000;
END $$;
DROP PROCEDURE m.all_pairs(text);
SELECT m.at(node, pg_get_functiondef('m.undefine()'::regprocedure)) FROM unnest('{b,c}'::text[]) AS node;
SELECT m.at(node, 'SELECT m.undefine()') FROM unnest('{b,c}'::text[]) AS node;
SELECT m.undefine();
SELECT m.settled();
