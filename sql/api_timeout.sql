--
-- Timeouts and cancels. Nothing sleeps: the peer waits for an advisory lock
-- or for a row that a branch holds.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset
-- a session at the peer that has the lock
SELECT dblink_connect('locker', api.dsn('dtx_regression_peer')) AS ok \gset
SELECT * FROM dblink('locker', 'SELECT pg_advisory_lock(4711)::text') AS t(nothing text);
\set blocked 'SELECT pg_advisory_xact_lock(4711)::text'
\set block 'SELECT * FROM dtx_query(''peer'', ''SELECT pg_advisory_xact_lock(4711)::text'') AS t(nothing text)'
-- how many calls are blocked at the peer
CREATE FUNCTION api.blocked_calls() RETURNS bigint LANGUAGE sql AS $$
  SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = 'dtx_regression_peer')
$$;

-- dtx.call_timeout ends a call, here and there
SET dtx.call_timeout = '100ms';
SELECT * FROM dtx_query('peer', :'blocked') AS t(nothing text);
\echo :LAST_ERROR_SQLSTATE
CALL api.wait_until('api.blocked_calls() = 0');
SELECT api.try(:'block');
-- in a transaction that goes on
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
SELECT api.try(:'block');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
CALL api.wait_until('api.blocked_calls() = 0');
RESET dtx.call_timeout;
-- what does not take long is not touched by it
SET dtx.call_timeout = '1min';
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
RESET dtx.call_timeout;
CALL api.settle();

-- the timeout of dtx_begin passes during a call
BEGIN;
SELECT dtx_begin('at', '200 ms') IS NOT NULL;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0 WHERE no = 1');
SELECT * FROM dtx_query('peer', :'blocked') AS t(nothing text);
\echo :LAST_ERROR_SQLSTATE
COMMIT;
CALL api.settle();
CALL api.wait_until('api.blocked_calls() = 0');
SELECT api.peer_accounts();
-- the smaller of the two timeouts counts
SET dtx.call_timeout = '100ms';
BEGIN;
SELECT dtx_begin('at', '1 hour') IS NOT NULL;
SELECT split_part(api.try(:'block'), ':', 1);
ROLLBACK;
SET dtx.call_timeout = '1h';
BEGIN;
SELECT dtx_begin('at', '100 ms') IS NOT NULL;
SELECT split_part(api.try(:'block'), ':', 1);
ROLLBACK;
RESET dtx.call_timeout;
CALL api.wait_until('api.blocked_calls() = 0');

-- it passes between two calls: the second is refused; and before the commit: that is refused
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT dblink_exec('holder', 'BEGIN') AS ok \gset
SELECT xid FROM dblink('holder', 'SELECT dtx_begin()') AS t(xid text) \gset
BEGIN;
SELECT dtx_begin('at', '100 ms') IS NOT NULL;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0 WHERE no = 1');
SELECT dtx_wait(:'xid', '150 ms');
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0 WHERE no = 2') $$);
ROLLBACK;
CALL api.settle();
SELECT api.peer_accounts();
BEGIN;
SELECT dtx_begin('at', '100 ms') AS mine \gset
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = 0 WHERE no = 1');
SELECT dtx_wait(:'xid', '150 ms');
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT dtx_wait(:'mine', '3min');
CALL api.settle();
SELECT api.peer_accounts();
-- one that ends in time is not touched
BEGIN;
SELECT dtx_begin('at', '1 hour') IS NOT NULL;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
COMMIT;
-- the next transaction has no timeout
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance - 1 WHERE no = 1');
SELECT dtx_wait(:'xid', '150 ms');
COMMIT;
CALL api.settle();
SELECT api.peer_accounts();
SELECT dblink_disconnect('holder') AS ok \gset

-- statement_timeout acts at once during a call
SET statement_timeout = '200ms';
SELECT * FROM dtx_query('peer', :'blocked') AS t(nothing text);
\echo :LAST_ERROR_SQLSTATE
RESET statement_timeout;
CALL api.wait_until('api.blocked_calls() = 0');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance WHERE no = 1');
-- so do a cancel and the end of the session
SELECT dblink_connect('caller', api.dsn('dtx_regression')) AS ok \gset
SELECT pid FROM dblink('caller', 'SELECT pg_backend_pid()') AS t(pid integer) \gset
SELECT dblink_send_query('caller', :'block');
CALL api.wait_until('api.blocked_calls() = 1');
SELECT pg_cancel_backend(:pid);
SELECT api.try($$ SELECT * FROM dblink_get_result('caller') AS t(nothing text) $$);
CALL api.wait_until('api.blocked_calls() = 0');
SELECT * FROM dblink_get_result('caller') AS t(nothing text);
SELECT * FROM dblink('caller', $$SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance')$$) AS t(n bigint);
SELECT dblink_send_query('caller', :'block');
CALL api.wait_until('api.blocked_calls() = 1');
SELECT pg_terminate_backend(:pid, 10000);
CALL api.wait_until('api.blocked_calls() = 0');
SELECT dblink_disconnect('caller') AS ok \gset
CALL api.settle();
SELECT dblink_disconnect('locker') AS ok \gset
SELECT api.peer_accounts();

-- dtx.lock_timeout: a row that another global transaction holds in doubt; the holder is named
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT dblink_exec('holder', 'BEGIN') AS ok \gset
SELECT * FROM dblink('holder', $$SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1000 WHERE no = 1')$$) AS t(n bigint);
SELECT xid AS holder FROM dblink('holder', 'SELECT dtx_xid()') AS t(xid text) \gset
SET dtx.lock_timeout = '50ms';
SELECT regexp_replace(api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1') $$), 'joined at .* and', 'joined at ... and');
SELECT split_part(api.try($$ SELECT dtx_exec('peer', 'DELETE FROM api.account WHERE no = 1') $$), ':', 1);
-- the very xid
DO $$ BEGIN
  PERFORM dtx_exec('peer', 'DELETE FROM api.account WHERE no = 1');
EXCEPTION WHEN lock_not_available THEN
  PERFORM set_config('api.message', SQLERRM, false);
END $$;
SELECT position(:'holder' IN current_setting('api.message')) > 0;
-- other rows are free
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2');
-- a row that is locked, not in doubt, is waited for no longer
SELECT dblink_connect('locker', api.dsn('dtx_regression_peer')) AS ok \gset
SELECT dblink_exec('locker', 'BEGIN') AS ok \gset
SELECT * FROM dblink('locker', 'SELECT no::text FROM api.account WHERE no = 2 FOR UPDATE') AS t(no text);
SELECT api.try($$ SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2') $$);
SELECT dblink_disconnect('locker') AS ok \gset
RESET dtx.lock_timeout;
-- a writer at the peer that knows nothing of dtx waits, up to its own setting
SELECT dblink_connect('writer', api.dsn('dtx_regression_peer')) AS ok \gset
SELECT dblink_exec('writer', 'SET dtx.lock_timeout = ''50ms''');
SELECT split_part(api.try($$ SELECT dblink_exec('writer', 'UPDATE api.account SET balance = 7 WHERE no = 1') $$), E'\n', 1);
SELECT dblink_disconnect('writer') AS ok \gset
-- when the holder's transaction ends, the row is free
SELECT dblink_exec('holder', 'ROLLBACK');
CALL api.settle();
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
CALL api.settle();
SELECT api.peer_accounts();
SELECT dblink_disconnect('holder') AS ok \gset

-- settings: what they take
SELECT split_part(api.try($$ SET dtx.call_timeout = -1 $$), ':', 1);
SELECT split_part(api.try($$ SET dtx.connect_timeout = 0 $$), ':', 1);
SELECT split_part(api.try($$ SET dtx.lock_timeout = '-1' $$), ':', 1);
SET dtx.unattached = 'perhaps';
SET dtx.recovery_interval = 1;
SET dtx.history_retention = 1;
SET dtx.max_databases = 1;
SET dtx.nonsense = 1;
