--
-- What the tests of TCC, XA, shared and nested transactions, and dtx_resolve
-- share: a third database, servers from each of the three to the others, and in
-- each of them schema "m" with accounts, actions to move money, and helpers.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SET check_function_bodies = off;
CREATE EXTENSION IF NOT EXISTS dblink;
DROP DATABASE IF EXISTS dtx_regression_third WITH (FORCE);
CREATE DATABASE dtx_regression_third TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
ALTER DATABASE dtx_regression_third SET lc_messages = 'C';
ALTER DATABASE dtx_regression_third SET lc_monetary = 'C';
ALTER DATABASE dtx_regression_third SET timezone = 'UTC';
ALTER DATABASE dtx_regression_third SET datestyle = 'ISO, YMD';
CREATE SCHEMA m;

-- where this server is, as this session reached it; and what the databases are called here
CREATE TABLE m.place (host text, port text, username text);
INSERT INTO m.place VALUES (:'HOST', :'PORT', :'USER');
CREATE FUNCTION m.database(node text) RETURNS text LANGUAGE sql AS
$$ SELECT CASE node WHEN 'a' THEN 'dtx_regression' WHEN 'b' THEN 'dtx_regression_peer' ELSE 'dtx_regression_third' END $$;
CREATE FUNCTION m.dsn(node text, username text DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT format('host=%s port=%s dbname=%s user=%s application_name=m', host, port, m.database(node), coalesce($2, place.username)) FROM m.place $$;

-- ids differ from run to run
CREATE FUNCTION m.mask(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT regexp_replace(regexp_replace(regexp_replace(t, '[[:alnum:]_]+\.[0-9a-f]{8}:[0-9]+\.[0-9a-f]{16}', 'XID', 'g'),
                                       '[[:alnum:]_]+\.[0-9a-f]{8}\M', 'NODE', 'g'),
                        '\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?( ?[-+A-Z]\w*)?', 'TIME', 'g')
$$;
CREATE FUNCTION m.problem(state text, message text, detail text, hint text) RETURNS text LANGUAGE sql AS $$
  SELECT m.mask(concat_ws(E'\n', state || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, '')))
$$;

-- Runs a statement in a subtransaction here; says what it returned, or the error.
CREATE FUNCTION m.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text; state text; message text; detail text; hint text;
BEGIN
  EXECUTE statement INTO answer;
  RETURN 'ok: ' || coalesce(m.mask(answer), 'NULL');
EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
    detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN m.problem(state, message, detail, hint);
END $$;

-- Runs a statement in a session that m.connect named; its rows, its tag, or the error.
CREATE FUNCTION m.connect(session text, node text, username text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN PERFORM dblink_connect(session, m.dsn(node, username)); END $$;
CREATE FUNCTION m.run(session text, statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  state text; message text; detail text; hint text;
BEGIN
  IF statement ~* '^\s*(select|table|values|show)\y' OR statement ~* '\yreturning\y' THEN
    RETURN QUERY SELECT m.mask(d.r) FROM dblink(session, statement) AS d(r text);
  ELSE
    RETURN NEXT dblink_exec(session, statement);
  END IF;
EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
    detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN NEXT m.problem(state, message, detail, hint);
END $$;
-- The same, in a session of its own at a node.
CREATE FUNCTION m.at(node text, statement text, username text DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM m.connect('m.at', node, username);
  RETURN QUERY SELECT m.run('m.at', statement);
  PERFORM dblink_disconnect('m.at');
END $$;
CREATE FUNCTION m.bye(VARIADIC sessions text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. array_length(sessions, 1) LOOP
    PERFORM dblink_disconnect(sessions[i]);
  END LOOP;
END $$;

-- Waits in this very session and transaction until a condition holds.
CREATE PROCEDURE m.until(condition text) LANGUAGE plpgsql AS $$
DECLARE
  deadline timestamptz := clock_timestamp() + interval '3 minutes';
  fulfilled boolean := false;
BEGIN
  WHILE fulfilled IS NOT TRUE LOOP
    EXECUTE 'SELECT ' || condition INTO fulfilled;
    IF fulfilled IS NOT TRUE AND clock_timestamp() > deadline THEN
      RAISE EXCEPTION 'waited in vain: %', condition;
    END IF;
    PERFORM pg_sleep(0.001);
  END LOOP;
END $$;

-- Waits until a query at a node says true; says so, or "in vain" after three minutes.
CREATE FUNCTION m.wait(node text, condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  deadline timestamptz := clock_timestamp() + interval '3 minutes';
  fulfilled text;
  why text := 'in vain';
BEGIN
  PERFORM m.connect('m.wait', node);
  LOOP
    SELECT string_agg(r, ' ') INTO fulfilled FROM m.run('m.wait', 'SELECT (' || condition || ')::text') AS r;
    IF fulfilled = 'true' THEN
      why := 'seen';
    ELSIF length(fulfilled) > 5 THEN
      why := fulfilled;
    END IF;
    EXIT WHEN why <> 'in vain' OR clock_timestamp() > deadline;
    PERFORM pg_sleep(0.01);
  END LOOP;
  PERFORM dblink_disconnect('m.wait');
  RETURN why;
END $$;

-- What is left over at this node; '' is as it should be.
CREATE FUNCTION m.left_over() RETURNS text LANGUAGE sql AS $$
  SELECT concat_ws(', ',
    (SELECT nullif(count(*), 0) || ' in dtx_branches' FROM dtx_branches),
    (SELECT nullif(count(*), 0) || ' in dtx_transactions' FROM dtx_transactions),
    (SELECT nullif(count(*), 0) || ' branches' FROM dtx.branch),
    (SELECT nullif(count(*), 0) || ' shared transactions' FROM dtx.global),
    (SELECT nullif(count(*), 0) || ' branches in doubt' FROM dtx.joined_branch WHERE state = 'd'),
    (SELECT nullif(count(*), 0) || ' undo rows' FROM dtx.undo_log),
    (SELECT nullif(count(*), 0) || ' tries without an end' FROM dtx.try_log t
     WHERE NOT EXISTS (SELECT FROM dtx.confirm_log c WHERE c.branch = t.branch)
       AND NOT EXISTS (SELECT FROM dtx.cancel_log c WHERE c.branch = t.branch)),
    (SELECT nullif(count(*), 0) || ' tries with two ends' FROM dtx.confirm_log JOIN dtx.cancel_log USING (branch)),
    (SELECT nullif(count(*), 0) || ' prepared transactions' FROM pg_prepared_xacts WHERE database = current_database()),
    (SELECT nullif(count(*), 0) || ' locks on branches' FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid > 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
    (SELECT nullif(count(*), 0) || ' frozen' FROM m.frozen),
    (SELECT nullif(count(*), 0) || ' sessions in a transaction' FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'dtx' AND state LIKE 'idle in transaction%'))
$$;

-- Waits until nothing is left over anywhere, and says what the accounts have in all.
CREATE FUNCTION m.settled() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  deadline timestamptz := clock_timestamp() + interval '3 minutes';
  found text;
BEGIN
  PERFORM m.connect('m.' || node, node) FROM unnest('{a,b,c}'::text[]) AS node;
  LOOP
    SELECT string_agg(node || ': ' || d.r, E'\n') INTO found
    FROM unnest('{a,b,c}'::text[]) AS node, dblink('m.' || node, 'SELECT m.left_over()') AS d(r text) WHERE d.r <> '';
    EXIT WHEN found IS NULL OR clock_timestamp() > deadline;
    PERFORM pg_sleep(0.01);
  END LOOP;
  RETURN NEXT coalesce(found, 'settled') || ', ' || (SELECT string_agg(node || ' ' || d.r, ', ' ORDER BY node) || ', together ' || sum(d.r)
    FROM unnest('{a,b,c}'::text[]) AS node, dblink('m.' || node, 'SELECT sum(balance) FROM m.account') AS d(r numeric));
  PERFORM m.bye('m.a', 'm.b', 'm.c');
END $$;

-- The statement that sets up the other two, from what there is here.
CREATE FUNCTION m.copy_to(node text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM m.connect('m.copy', node);
  PERFORM dblink_exec('m.copy', 'SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS dtx; CREATE EXTENSION IF NOT EXISTS dblink;'
                                'CREATE SCHEMA m; SET check_function_bodies = off; CREATE TABLE m.place (host text, port text, username text)');
  PERFORM dblink_exec('m.copy', format('INSERT INTO m.place VALUES (%L, %L, %L)', host, port, username)) FROM m.place;
  PERFORM dblink_exec('m.copy', pg_get_functiondef(oid)) FROM pg_proc WHERE pronamespace = 'm'::regnamespace ORDER BY oid;
  PERFORM dblink_disconnect('m.copy');
END $$;

-- Each node: accounts that are attached, a log that is not, and two actions.
-- A debit is frozen by its try; a credit arrives with its confirm.
CREATE FUNCTION m.set_up(variadic nodes text[]) RETURNS void LANGUAGE plpgsql AS $_$
DECLARE
  node text;
BEGIN
  CREATE TABLE m.account (no integer PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0));
  INSERT INTO m.account VALUES (1, 1000), (2, 1000);
  PERFORM dtx_attach('m.account');
  CREATE TABLE m.frozen (no integer NOT NULL, amount numeric NOT NULL);
  CREATE TABLE m.log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL);
  CREATE FUNCTION m.log(what text) RETURNS void LANGUAGE sql AS $$ INSERT INTO m.log (what) VALUES (what) $$;
  -- what there is in the log, and no more
  CREATE FUNCTION m.said() RETURNS text LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM m.log RETURNING id, what)
    SELECT string_agg(what, ', ' ORDER BY id) FROM gone $$;
  CREATE FUNCTION m.credit_try(no integer, amount numeric) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN
    IF amount > 500 THEN
      RAISE EXCEPTION 'too much: %', amount USING ERRCODE = 'check_violation';
    END IF;
    PERFORM m.log(format('try credit %s %s', no, amount));
    RETURN 'tried ' || amount;
  END $$;
  CREATE FUNCTION m.credit_confirm(no integer, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.log(format('confirm credit %s %s', no, amount));
    UPDATE m.account a SET balance = balance + amount WHERE a.no = credit_confirm.no;
  END $$;
  CREATE FUNCTION m.credit_cancel(no integer, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.log(format('cancel credit %s %s', no, amount));
  END $$;
  CREATE FUNCTION m.debit_try(no integer, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.log(format('try debit %s %s', no, amount));
    UPDATE m.account a SET balance = balance - amount WHERE a.no = debit_try.no;
    INSERT INTO m.frozen VALUES (no, amount);
  END $$;
  CREATE FUNCTION m.debit_confirm(no integer, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.log(format('confirm debit %s %s', no, amount));
    DELETE FROM m.frozen f WHERE ctid = (SELECT ctid FROM m.frozen g WHERE g.no = debit_confirm.no AND g.amount = debit_confirm.amount LIMIT 1);
  END $$;
  CREATE FUNCTION m.debit_cancel(no integer, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM m.log(format('cancel debit %s %s', no, amount));
    PERFORM m.thaw(no, amount);
    UPDATE m.account a SET balance = balance + amount WHERE a.no = debit_cancel.no;
  END $$;
  CREATE FUNCTION m.thaw(no integer, amount numeric) RETURNS void LANGUAGE sql AS $$
    DELETE FROM m.frozen f WHERE ctid = (SELECT ctid FROM m.frozen g WHERE g.no = $1 AND g.amount = $2 LIMIT 1) $$;
  PERFORM dtx_tcc_define('credit', 'm.credit_try(integer,numeric)', 'm.credit_confirm(integer,numeric)', 'm.credit_cancel(integer,numeric)');
  PERFORM dtx_tcc_define('debit', 'm.debit_try(integer,numeric)', 'm.debit_confirm(integer,numeric)', 'm.debit_cancel(integer,numeric)');
  FOREACH node IN ARRAY nodes LOOP
    CONTINUE WHEN current_database() = m.database(node) OR EXISTS (SELECT FROM pg_foreign_server WHERE srvname = CASE node WHEN 'b' THEN 'peer' ELSE node END);
    EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host %L, port %L, dbname %L)',
                   CASE node WHEN 'b' THEN 'peer' ELSE node END, host, port, m.database(node)) FROM m.place;
    EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER %I OPTIONS (user %L)', CASE node WHEN 'b' THEN 'peer' ELSE node END, username) FROM m.place;
  END LOOP;
END $_$;
SELECT m.copy_to('b');
SELECT m.copy_to('c');
SELECT m.set_up('b', 'c');
SELECT m.at('b', $$SELECT m.set_up('a', 'c')$$);
SELECT m.at('c', $$SELECT m.set_up('a', 'b')$$);
SELECT m.settled();
-- every way between them
SELECT node LIKE 'dtx_regression_peer.%' FROM dtx_ping('peer');
SELECT node LIKE 'dtx_regression_third.%' FROM dtx_ping('c');
SELECT m.at('b', $$SELECT node LIKE 'dtx_regression.%' FROM dtx_ping('a')$$);
SELECT m.at('b', $$SELECT node LIKE 'dtx_regression_third.%' FROM dtx_ping('c')$$);
SELECT m.at('c', $$SELECT node LIKE 'dtx_regression.%' FROM dtx_ping('a')$$);
SELECT m.at('c', $$SELECT node LIKE 'dtx_regression_peer.%' FROM dtx_ping('peer')$$);
SELECT m.try('SELECT 1/0');
SELECT m.at('c', 'SELECT 1/0');
