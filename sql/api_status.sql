--
-- dtx_status and dtx_wait: each word that they answer, here and at the
-- participant, and what is no id.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset
-- the other session, whose global transactions are looked at
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
CREATE FUNCTION api.status_at_peer(xid text) RETURNS text LANGUAGE sql AS
$$ SELECT api.at_peer(format('SELECT dtx_status(%L)', xid)) $$;

-- active, here; in doubt, there
SELECT api.hold() AS xid \gset
SELECT dtx_status(:'xid'), api.status_at_peer(:'xid');
-- waiting ends with the timeout, and says what is
SELECT dtx_wait(:'xid', '20 ms');
SELECT api.at_peer(format('SELECT dtx_wait(%L, ''20 ms'')', :'xid'));
SELECT dblink_exec('holder', 'COMMIT');
SELECT dtx_wait(:'xid', '3min');
SELECT dtx_status(:'xid'), api.in_doubt_at_peer();
-- settled is settled: waiting again does not wait
SELECT dtx_wait(:'xid', '1 day');

-- rolled back
SELECT api.hold() AS xid \gset
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dtx_wait(:'xid', '3min');
SELECT dtx_status(:'xid'), api.in_doubt_at_peer();
SELECT api.peer_accounts();

-- committing: decided, and the peer does not know it yet
SELECT api.hold() AS xid \gset
CALL api.close_peer();
SELECT dblink_exec('holder', 'COMMIT');
SELECT dtx_status(:'xid');
SELECT dtx_wait(:'xid', '50 ms');
-- it is shown, with what is the matter
CALL api.wait_until('EXISTS (SELECT FROM dtx_branches WHERE attempts > 0)');
SELECT api.mask(gid), side, state, server, node LIKE 'dtx_regression_peer.%', role = current_user, mode, age_seconds < 60, attempts > 0, last_error ~ 'dtx_regression_peer', next_attempt IS NOT NULL, conflict FROM dtx_branches;
CALL api.open_peer();
SELECT dtx_wait(:'xid', '3min');
SELECT api.peer_accounts();

-- rolling back: the same for a rollback
SELECT api.hold() AS xid \gset
CALL api.close_peer();
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dtx_status(:'xid');
SELECT dtx_wait(:'xid', '50 ms');
CALL api.open_peer();
SELECT dtx_wait(:'xid', '3min');
SELECT api.peer_accounts();

-- waiting is woken by the end
SELECT api.hold() AS xid \gset
SELECT dblink_connect('waiter', api.dsn('dtx_regression')) AS ok \gset
SELECT dblink_send_query('waiter', format('SELECT dtx_wait(%L, ''1 hour'')', :'xid'));
SELECT dblink_exec('holder', 'COMMIT');
SELECT * FROM dblink_get_result('waiter') AS t(status text);
SELECT * FROM dblink_get_result('waiter') AS t(status text);
-- and a participant can wait too
SELECT api.hold() AS xid \gset
SELECT dblink_disconnect('waiter') AS ok \gset
SELECT dblink_connect('waiter', api.dsn('dtx_regression_peer')) AS ok \gset
SELECT dblink_send_query('waiter', format('SELECT dtx_wait(%L, ''1 hour'') <> ''in doubt''', :'xid'));
SELECT dblink_exec('holder', 'COMMIT');
SELECT * FROM dblink_get_result('waiter') AS t(status boolean);
SELECT dblink_disconnect('waiter') AS ok \gset
-- it can be canceled
SELECT api.hold() AS xid \gset
SET statement_timeout = '100ms';
SELECT dtx_wait(:'xid', '1 hour');
RESET statement_timeout;
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dtx_wait(:'xid', '3min');

-- one's own transaction is active, and cannot be waited for
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT dtx_status(:'xid');
SELECT dtx_wait(:'xid', '3min');
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT api.mask(api.try(format('SELECT dtx_wait(%L, ''1 ms'')', :'xid')));
COMMIT;

-- unknown: another node's, of the future, another R or N
SELECT api.hold() AS xid \gset
SELECT dblink_exec('holder', 'COMMIT');
SELECT dtx_wait(:'xid', '3min');
SELECT name || '.' || tag AS self, pg_current_xact_id()::text::bigint + 1000000 AS later FROM dtx.node \gset
SELECT dtx_status('elsewhere.12345678:1.0123456789abcdef');
SELECT dtx_wait('elsewhere.12345678:1.0123456789abcdef', '1 hour');
SELECT dtx_status(:'self' || ':' || :'later' || '.0123456789abcdef');
SELECT dtx_wait(:'self' || ':' || :'later' || '.0123456789abcdef', '1 hour');
SELECT dtx_status(:'self' || ':18446744073709551615.ffffffffffffffff');
SELECT dtx_status(regexp_replace(:'xid', '.{16}$', '0123456789abcdef'));
SELECT dtx_status(regexp_replace(:'xid', '\.[0-9a-f]{8}:', '.00000000:'));
SELECT dtx_status(regexp_replace(:'xid', '^[^.]*', 'DTX_regression'));
-- a name may hold anything
SELECT dtx_status('a.b%3Ac%2Fd%20e.12345678:1.0123456789abcdef'), dtx_status('B%C3%A4nk.12345678:1.0123456789abcdef');

-- not an id
SELECT dtx_status('');
SELECT dtx_status('nonsense');
SELECT split_part(api.try(format('SELECT dtx_status(%L)', x)), ':', 1) FROM unnest(ARRAY[
  'x.12345678:1', 'x.12345678:1.', 'x.12345678.0123456789abcdef', 'x:1.0123456789abcdef', '.12345678:1.0123456789abcdef',
  'x.12345678:1.0123456789abcde', 'x.12345678:1.0123456789abcdeff', 'x.12345678:1.0123456789ABCDEF', 'x.12345678:1.0123456789abcdeg',
  'x.12345678:0.0123456789abcdef', 'x.12345678:01.0123456789abcdef', 'x.12345678:-1.0123456789abcdef', 'x.12345678:+1.0123456789abcdef', 'x.12345678: 1.0123456789abcdef',
  'x.12345678:1a.0123456789abcdef', 'x.12345678:18446744073709551616.0123456789abcdef', 'x.1234567:1.0123456789abcdef', 'x.1234567G:1.0123456789abcdef',
  ' x.12345678:1.0123456789abcdef ', 'x.12345678:1.0123456789abcdef/1', E'x.12345678:1.0123456789abcdef\n', repeat('x', 64) || '.12345678:1.0123456789abcdef', repeat('x', 100000)]) x;
SELECT dtx_wait('nonsense');
-- NULL of NULL
SELECT dtx_status(NULL) IS NULL, dtx_wait(NULL) IS NULL, dtx_wait(:'xid', NULL) IS NULL;
-- timeouts
SELECT api.try(format('SELECT dtx_wait(%L, ''0'')', :'xid'));
SELECT api.try(format('SELECT dtx_wait(%L, ''-1 s'')', :'xid'));
SELECT api.try(format('SELECT dtx_wait(%L, ''1 year'')', :'xid'));
SELECT dblink_disconnect('holder') AS ok \gset
