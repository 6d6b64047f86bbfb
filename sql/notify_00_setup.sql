--
-- What the tests named notify_* share, beside what modes_00_setup has made: schema
-- "n" in this database and at the peer, with a handler of notifications, a list of
-- what it has applied, and helpers here. This node notifies; the peer receives.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA n;

CREATE FUNCTION n.set_up() RETURNS void LANGUAGE plpgsql AS $_$
BEGIN
  CREATE TABLE n.applied (no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL);
  -- numbers of transactions whose handler is to fail, and how
  CREATE TABLE n.trouble (tx_no text PRIMARY KEY, what text NOT NULL);
  CREATE FUNCTION n.apply(tx_no text, payload jsonb, sender text, attempt integer, notified_at timestamptz)
  RETURNS void LANGUAGE plpgsql AS $$
  DECLARE
    trouble text := (SELECT t.what FROM n.trouble t WHERE t.tx_no = apply.tx_no);
  BEGIN
    INSERT INTO n.applied (what) VALUES (concat_ws(' ', tx_no, payload::text, CASE WHEN attempt > 1 THEN '#' || attempt END,
                                                   CASE WHEN notified_at > clock_timestamp() THEN 'from the future' END));
    IF trouble = 'refuse' THEN
      RAISE EXCEPTION 'never' USING ERRCODE = 'DX005';
    ELSIF trouble LIKE 'defer %' THEN
      PERFORM set_config('dtx.retry_after', substr(trouble, 7), true);
      RAISE EXCEPTION 'not yet';
    ELSIF trouble IS NOT NULL THEN
      RAISE EXCEPTION '%', trouble;
    END IF;
  END $$;
  -- what was applied since this was asked last
  CREATE FUNCTION n.got() RETURNS text LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM n.applied RETURNING no, what)
    SELECT string_agg(what, ', ' ORDER BY no) FROM gone $$;
END $_$;
SELECT n.set_up();
SELECT m.at('b', 'CREATE SCHEMA n');
SELECT m.at('b', pg_get_functiondef('n.set_up()'::regprocedure));
SELECT m.at('b', 'SELECT n.set_up()');

CREATE FUNCTION n.got(node text) RETURNS text LANGUAGE sql AS $$ SELECT m.at(node, 'SELECT n.got()') $$;
CREATE FUNCTION n.trouble(tx_no text, what text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', format('INSERT INTO n.trouble VALUES (%L, %L)', tx_no, what)) $$;
CREATE FUNCTION n.mend(tx_no text DEFAULT '%') RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at('b', format('DELETE FROM n.trouble WHERE tx_no LIKE %L', tx_no)) $$;
-- how notifications stand, without what differs from run to run
CREATE FUNCTION n.stand(tx_no text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT concat_ws(', ', v.tx_no || ' to ' || coalesce(server, 'nobody') || ' ' || state, 'attempts ' || attempts, 'status ' || last_status,
                   last_error, CASE WHEN next_attempt > now() THEN 'to be tried again' END, CASE WHEN delivered_at >= notified_at THEN 'in order' END)
  FROM dtx_notifications v WHERE v.tx_no LIKE $1 ORDER BY v.tx_no, id $$;
-- waits until none is pending
CREATE FUNCTION n.told(tx_no text DEFAULT '%') RETURNS text LANGUAGE sql AS $$
  SELECT m.wait('a', format('NOT EXISTS (SELECT FROM dtx_notifications WHERE tx_no LIKE %L AND state = ''pending'')', tx_no)) $$;

-- there is no handler yet: that is shown, and nothing is lost
SELECT dtx_notify('peer', 'first', '{"a": 1}', '{50ms,50ms,50ms,50ms,50ms,50ms,50ms,50ms,50ms,50ms,1min}') > 0;
SELECT m.wait('a', $$SELECT attempts > 0 AND last_error IS NOT NULL FROM dtx_notifications WHERE tx_no = 'first'$$);
SELECT last_error FROM dtx_notifications WHERE tx_no = 'first';
SELECT m.at('b', $$SELECT dtx_on_notification('n.apply')$$);
SELECT n.told(), n.got('b') LIKE 'first {"a": 1} #%';
SELECT state, attempts > 1, next_attempt IS NULL, delivered_at > notified_at FROM dtx_notifications;
