--
-- What the tests named api_* share: a schema "api" in both databases, with
-- a table of accounts that is attached at the peer, and helpers here.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dblink;
CREATE SCHEMA api;

-- where this server is, as this session reached it
CREATE TABLE api.place (host text, port text, username text);
INSERT INTO api.place VALUES (:'HOST', :'PORT', :'USER');
CREATE FUNCTION api.dsn(db text, username text DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT format('host=%s port=%s dbname=%s user=%s', host, port, db, coalesce($2, place.username)) FROM api.place $$;

-- ids differ from run to run
CREATE FUNCTION api.mask(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT regexp_replace(regexp_replace(t, '[[:alnum:]_]+\.[0-9a-f]{8}:[0-9]+\.[0-9a-f]{16}', 'XID', 'g'),
                        '[[:alnum:]_]+\.[0-9a-f]{8}\M', 'NODE', 'g')
$$;

-- Runs a statement; says what it returned (the first column of its first
-- row), or the error as a client would see it. Of the context it shows only
-- what speaks of servers.
CREATE FUNCTION api.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text; state text; message text; detail text; hint text; context text;
BEGIN
  EXECUTE statement INTO answer;
  RETURN 'ok: ' || coalesce(api.mask(answer), 'NULL');
EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
    detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
  context := (SELECT string_agg(line, E'\n') FROM regexp_split_to_table(context, E'\n') line
              WHERE line LIKE 'call to server%');
  RETURN api.mask(concat_ws(E'\n', state || ': ' || message, 'DETAIL: ' || nullif(detail, ''),
                            'HINT: ' || nullif(hint, ''), 'CONTEXT: ' || context));
END $$;

-- Asks the peer, beside any global transaction.
CREATE FUNCTION api.at_peer(statement text) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(answer, ', ') FROM dblink(api.dsn('dtx_regression_peer'), $1) AS d(answer text)
$$;

-- Waits until a condition, evaluated anew each time, holds; ERROR after three minutes.
CREATE PROCEDURE api.wait_until(condition text) LANGUAGE plpgsql AS $$
DECLARE
  deadline timestamptz := clock_timestamp() + interval '3 minutes';
  fulfilled boolean;
BEGIN
  LOOP
    EXECUTE 'SELECT ' || condition INTO fulfilled;
    EXIT WHEN fulfilled;
    IF clock_timestamp() > deadline THEN
      RAISE EXCEPTION 'waited in vain for: %', condition;
    END IF;
    COMMIT;
    PERFORM pg_sleep(0.005);
  END LOOP;
END $$;

-- Waits until neither database has a branch that is not settled.
CREATE PROCEDURE api.settle() LANGUAGE plpgsql AS $$
BEGIN
  CALL api.wait_until($c$ NOT EXISTS (SELECT FROM dtx_branches)
    AND NOT EXISTS (SELECT FROM dtx_transactions WHERE state = 'rolling back')
    AND api.at_peer('SELECT count(*)::text FROM dtx_branches') = '0' $c$);
END $$;

-- how many branches the peer holds in doubt, and the accounts there
CREATE FUNCTION api.in_doubt_at_peer() RETURNS text LANGUAGE sql AS
$$ SELECT api.at_peer('SELECT count(*)::text FROM dtx_branches') $$;
CREATE FUNCTION api.peer_accounts() RETURNS text LANGUAGE sql AS
$$ SELECT api.at_peer('SELECT no || '' has '' || balance FROM api.account ORDER BY no') $$;
-- In the session of dblink's connection "holder": begins a global transaction
-- with a branch in doubt; returns its xid.
CREATE FUNCTION api.hold() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dblink_exec('holder', 'BEGIN');
  PERFORM * FROM dblink('holder', $q$SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1')$q$) AS t(n bigint);
  RETURN (SELECT xid FROM dblink('holder', 'SELECT dtx_xid()') AS t(xid text));
END $$;
-- The peer's database lets nobody in, nor keeps anybody.
CREATE PROCEDURE api.close_peer() LANGUAGE plpgsql AS $$
BEGIN
  ALTER DATABASE dtx_regression_peer ALLOW_CONNECTIONS false;
  COMMIT;
  PERFORM set_config('client_min_messages', 'error', true);
  PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = 'dtx_regression_peer' AND backend_type = 'client backend';
END $$;
CREATE PROCEDURE api.open_peer() LANGUAGE plpgsql AS $$ BEGIN ALTER DATABASE dtx_regression_peer ALLOW_CONNECTIONS true; END $$;
-- puts the peer's accounts back
CREATE FUNCTION api.reset_peer() RETURNS text LANGUAGE sql AS $$
  SELECT dblink_exec(api.dsn('dtx_regression_peer'),
    'BEGIN; DELETE FROM api.account; INSERT INTO api.account VALUES (1, 100), (2, 200); COMMIT')
$$;

\c dtx_regression_peer
SET client_min_messages = warning;
CREATE SCHEMA api;
CREATE TABLE api.account (no integer PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0), note text);
SELECT dtx_attach('api.account');
\c dtx_regression
SELECT api.reset_peer();
SELECT api.peer_accounts();
SELECT api.try('SELECT 1/0');
SELECT api.try('SELECT NULL');
