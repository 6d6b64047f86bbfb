--
-- The views: columns, comments, and what they show in each state.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT api.reset_peer() AS ok \gset
CALL api.settle();

-- every public function and view has a comment; nothing of schema dtx shows up among them
SELECT count(*) > 0, count(*) FILTER (WHERE obj_description(p.oid, 'pg_proc') IS NULL)
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'dtx' WHERE pronamespace <> 'dtx'::regnamespace;
SELECT count(*) > 0, count(*) FILTER (WHERE obj_description(c.oid, 'pg_class') IS NULL)
FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'dtx' WHERE relnamespace <> 'dtx'::regnamespace;
-- functions live in the search path only if they are meant to be called
SELECT count(*) FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'dtx' WHERE pronamespace <> 'dtx'::regnamespace AND proname NOT LIKE 'dtx\_%';
-- no function of it lies about its volatility to parallel plans, and none is SECURITY DEFINER
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'dtx' WHERE prosecdef;

-- columns
SELECT c.relname, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0
WHERE relname IN ('dtx_transactions', 'dtx_branches', 'dtx_peers', 'dtx_stats', 'dtx_history') GROUP BY c.relname ORDER BY c.relname COLLATE "C";

-- nothing is under way
SELECT count(*) FROM dtx_transactions;
SELECT count(*) FROM dtx_branches;
-- active: the session, its branches so far, its deadline
BEGIN;
SELECT dtx_begin('at', '1 hour') AS xid \gset
SELECT xid = :'xid', state, pid = pg_backend_pid(), branches, begun_at = now(), deadline - now() BETWEEN interval '59 min' AND interval '61 min' FROM dtx_transactions;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2');
SELECT xid = :'xid', state, branches FROM dtx_transactions;
-- its own rows are not visible to others: nothing is decided
SELECT count(*) FROM dblink(api.dsn('dtx_regression'), 'SELECT gid FROM dtx_branches') AS t(gid text);
SELECT state, branches FROM dblink(api.dsn('dtx_regression'), 'SELECT state, branches FROM dtx_transactions') AS t(state text, branches bigint);
-- at the participant: in doubt
SELECT state, branches, same FROM dblink(api.dsn('dtx_regression_peer'), format('SELECT state, branches, xid = %L FROM dtx_transactions', :'xid')) AS t(state text, branches bigint, same boolean);
SELECT gid, side, state, server, node = regexp_replace(:'xid', ':.*', ''), role = current_user, mode, age_seconds < 60, attempts, last_error, next_attempt, conflict
  FROM dblink(api.dsn('dtx_regression_peer'), $$SELECT regexp_replace(gid, '.*/', '/'), side, state, server, node, role, mode, age_seconds, attempts, last_error, next_attempt, conflict FROM dtx_branches ORDER BY 1$$)
  AS t(gid text, side text, state text, server text, node text, role text, mode text, age_seconds numeric, attempts integer, last_error text, next_attempt timestamptz, conflict text);
COMMIT;
SELECT dtx_wait(:'xid', '3min');
-- settled: history, one row a branch
SELECT xid = :'xid', branch, outcome, server, role = current_user, settled_at > now() - interval '1 minute' FROM dtx_history WHERE xid = :'xid' ORDER BY branch;
SELECT count(*) FROM dtx_transactions;
SELECT count(*) FROM dtx_branches;
-- a rollback, and a savepoint's
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
SELECT xid = :'xid', branch, outcome FROM dtx_history WHERE xid = :'xid' ORDER BY branch;
-- failed branches leave nothing
BEGIN;
SELECT dtx_begin() AS xid \gset
SELECT left(api.try($$ SELECT dtx_exec('peer', 'INSERT INTO api.account VALUES (1, 1)') $$), 5);
COMMIT;
CALL api.settle();
SELECT count(*) FROM dtx_history WHERE xid = :'xid' AND outcome = 'committed';

-- peers
SELECT server, role = current_user, node LIKE 'dtx_regression_peer.%', version IS NOT NULL, reachable, last_contact > now() - interval '1 minute', attempts, next_attempt
FROM dtx_peers WHERE server = 'peer' AND role = current_user;
-- one that cannot be reached
SELECT dblink_connect('holder', api.dsn('dtx_regression')) AS ok \gset
SELECT api.hold() AS xid \gset
CALL api.close_peer();
SELECT dblink_exec('holder', 'COMMIT');
CALL api.wait_until($$ EXISTS (SELECT FROM dtx_peers WHERE server = 'peer' AND NOT reachable) $$);
SELECT server, reachable, attempts > 0, last_error LIKE '%dtx_regression_peer%', next_attempt IS NOT NULL FROM dtx_peers WHERE server = 'peer' AND role = current_user;
SELECT xid = :'xid', state, pid, branches, deadline FROM dtx_transactions;
CALL api.open_peer();
SELECT dtx_wait(:'xid', '3min');
CALL api.wait_until($$ EXISTS (SELECT FROM dtx_peers WHERE server = 'peer' AND role = current_user AND reachable) $$);
SELECT server, reachable, attempts, next_attempt FROM dtx_peers WHERE server = 'peer' AND role = current_user;

-- counters go up by what happens
CREATE TEMP TABLE before AS SELECT * FROM dtx_stats;
CREATE FUNCTION api.increase(counter text) RETURNS bigint LANGUAGE sql AS
$$ SELECT s.value - b.value FROM dtx_stats s JOIN before b USING (name) WHERE name = counter $$;
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 2');
COMMIT;
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance + 1 WHERE no = 1');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
CALL api.settle();
SELECT api.increase('transactions_begun'), api.increase('transactions_committed'), api.increase('transactions_rolled_back'), api.increase('branches_started');
SELECT string_agg(name, ' ' ORDER BY name COLLATE "C") FILTER (WHERE value >= 0) FROM dtx_stats
WHERE name IN ('transactions_begun', 'transactions_committed', 'transactions_rolled_back', 'branches_started', 'branches_joined', 'branches_settled_with_commit',
  'branches_settled_with_rollback', 'settle_calls', 'settle_retries', 'conflicts', 'lost_branches', 'rows_captured', 'rows_compensated', 'row_lock_waits', 'row_lock_timeouts', 'row_lock_give_ups', 'recovery_passes');
-- the participant counts its own
SELECT api.at_peer($$SELECT name FROM dtx_stats WHERE name IN ('branches_joined', 'branches_settled_with_commit', 'branches_settled_with_rollback', 'rows_captured') AND value > 0 ORDER BY name COLLATE "C"$$);
-- views are for reading
SELECT split_part(api.try('DELETE FROM dtx_history'), ':', 1), split_part(api.try('DELETE FROM dtx_branches'), ':', 1), split_part(api.try('UPDATE dtx_stats SET value = 0'), ':', 1), split_part(api.try('INSERT INTO dtx_peers DEFAULT VALUES'), ':', 1);
SELECT dblink_disconnect('holder') AS ok \gset
DROP FUNCTION api.increase(text);
