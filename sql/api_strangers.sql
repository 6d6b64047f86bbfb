--
-- An admitted role against another's transactions: what it may not settle it does not hold up
-- either, nor does it leave anything behind that binds others, or that nobody takes away.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_api_mallory;
DROP ROLE IF EXISTS dtx_api_teller;
CREATE ROLE dtx_api_mallory LOGIN;
CREATE ROLE dtx_api_teller LOGIN;
GRANT USAGE ON FOREIGN SERVER peer TO dtx_api_teller;
CREATE USER MAPPING FOR dtx_api_teller SERVER peer OPTIONS (user 'dtx_api_teller', password_required 'false');
SELECT api.reset_peer() AS ok \gset
\c dtx_regression_peer
SET client_min_messages = warning;
-- the locks of dtx's that this session has, by class
CREATE FUNCTION api.locks() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(DISTINCT objsubid::text, ', '), 'none') FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid()
$$;
SELECT dtx_admit('dtx_api_mallory'), dtx_admit('dtx_api_teller');
GRANT USAGE ON SCHEMA api TO dtx_api_mallory, dtx_api_teller;
GRANT SELECT, UPDATE ON api.account TO dtx_api_teller;
GRANT SELECT ON api.account TO dtx_api_mallory;

-- the teller's branch is in doubt
\c dtx_regression
SET client_min_messages = warning;
SELECT dblink_connect('holder', api.dsn('dtx_regression', 'dtx_api_teller'));
SELECT dblink_connect('mallory', api.dsn('dtx_regression_peer', 'dtx_api_mallory'));
CREATE FUNCTION api.mallory(statement text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT answer FROM dblink('mallory', $1) AS d(answer text) $$;
SELECT api.hold() AS xid \gset
SELECT api.at_peer('SELECT gid FROM dtx_branches WHERE side = ''participant''') AS gid \gset
SELECT :'xid' || '/99' AS next \gset
SELECT api.mallory('SELECT xid FROM dtx_locks') = :'xid';
-- its vote, its end, and the end of what may still come, are not hers
SELECT dblink_exec('mallory', 'BEGIN');
SELECT api.mallory(format('SELECT dtx.branch_vote(%L)', ARRAY[:'gid', :'next']));
SELECT api.mallory(format('SELECT concat_ws('': '', outcome, detail) FROM dtx.branch_settle(''{x.12345678}'', 1, 0, %L, ''{f,t,f,t}'', ''aaaa'', ''{}'') WHERE written IS NULL',
                          ARRAY[:'gid', :'gid', :'next', :'next']));
SELECT api.mallory('SELECT api.locks()');
SELECT api.mallory(format('SELECT count(*) FROM dtx.branch_pending(%L, 1)', ARRAY[split_part(:'gid', ':', 1)]));
SELECT dblink_exec('mallory', 'COMMIT');
SELECT api.at_peer(format('SELECT string_agg(state, '','') FROM dtx.joined_branch WHERE gid LIKE %L', :'xid' || '%'));
SELECT dblink_exec('holder', 'COMMIT');
CALL api.settle();
SELECT api.peer_accounts();
SELECT dblink_disconnect('holder'), dblink_disconnect('mallory');
DROP FUNCTION api.mallory(text);

-- what other nodes call does not outlive the session
\c dtx_regression_peer
SET client_min_messages = warning;
SET ROLE dtx_api_mallory;
BEGIN;
SELECT dtx.branch_vote(ARRAY['nowhere.12345678:7.0123456789abcdef/1']);
SELECT api.locks();
PREPARE TRANSACTION 'innocent';
BEGIN;
SELECT outcome FROM dtx.branch_settle('{x.12345678}', 1, 0, '{}', '{}', '', '{}');
PREPARE TRANSACTION 'innocent';
BEGIN;
SELECT outcome FROM dtx.deliver(1, 1, 1, 0, 0, false, 0, '', '[]');
-- whatever number a subscription has, its lock is of a class of its own
SELECT api.locks();
PREPARE TRANSACTION 'innocent';
BEGIN;
SAVEPOINT s;
SELECT * FROM dtx.receive('x.12345678', 0, '[]');
ROLLBACK TO s;
PREPARE TRANSACTION 'innocent';
SELECT count(*) FROM pg_prepared_xacts;
RESET ROLE;
DELETE FROM dtx.settled WHERE role = 'dtx_api_teller'::regrole;

-- a rollback that came first binds the branches of who said so, and of no one else
\set gid 'nowhere.12345678:7.0123456789abcdef/1'
SET ROLE dtx_api_mallory;
SELECT outcome FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{f}', 'a', '{}') WHERE written IS NULL;
RESET ROLE;
SELECT role::regrole, state FROM dtx.joined_branch WHERE gid = :'gid';
SET ROLE dtx_api_mallory;
BEGIN;
SELECT dtx.branch_join(:'gid', 'at', 0, 0, 1, 0) IS NOT NULL;
COMMIT;
SET ROLE dtx_api_teller;
BEGIN;
SELECT dtx.branch_join(:'gid', 'at', 0, 0, 1, 0) IS NOT NULL;
COMMIT;
RESET ROLE;
SELECT role::regrole, state FROM dtx.joined_branch WHERE gid = :'gid';
SET ROLE dtx_api_mallory;
SELECT outcome, detail FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{f}', 'a', '{}') WHERE written IS NULL;
SET ROLE dtx_api_teller;
SELECT outcome FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{f}', 'a', '{}') WHERE written IS NULL;
RESET ROLE;
DELETE FROM dtx.settled WHERE role = 'dtx_api_teller'::regrole;
SELECT count(*) FROM dtx.joined_branch WHERE gid = :'gid';
-- the teller's own takes the place of another's
SET ROLE dtx_api_mallory;
SELECT outcome FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{f}', 't', '{}') WHERE written IS NULL;
SET ROLE dtx_api_teller;
SELECT outcome FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{f}', 't', '{}') WHERE written IS NULL;
BEGIN;
SELECT dtx.branch_join(:'gid', 'at', 0, 0, 1, 0) IS NOT NULL;
COMMIT;
RESET ROLE;
SELECT role::regrole, state FROM dtx.joined_branch WHERE gid = :'gid';
SELECT role::regrole, action FROM dtx.try_log WHERE gid = :'gid';
-- an operator takes it away, with what TCC keeps of it
SELECT dtx_resolve('nowhere.12345678:7.0123456789abcdef', 'forget');
SELECT (SELECT count(*) FROM dtx.joined_branch WHERE gid = :'gid'), (SELECT count(*) FROM dtx.try_log WHERE gid = :'gid'), (SELECT count(*) FROM dtx.cancel_log WHERE gid = :'gid');
-- the same in TCC: a cancel before the try
CREATE FUNCTION api.nothing(n integer) RETURNS void LANGUAGE sql AS '';
SELECT dtx_tcc_define('api', 'api.nothing(integer)', NULL, NULL);
SET ROLE dtx_api_mallory;
SELECT outcome FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{f}', 't', '{}') WHERE written IS NULL;
SET ROLE dtx_api_teller;
BEGIN;
SELECT dtx.branch_join(:'gid', 'tcc', 0, 0, 1, 0) IS NOT NULL;
SELECT dtx.tcc_try('api', '{"n": 1}');
COMMIT;
SELECT outcome FROM dtx.branch_settle('{nowhere.12345678}', 1, 0, ARRAY[:'gid'], '{t}', 't', '{}') WHERE written IS NULL;
RESET ROLE;
SELECT role::regrole, action FROM dtx.try_log WHERE gid = :'gid';
SELECT (SELECT count(*) FROM dtx.joined_branch WHERE gid = :'gid'), (SELECT count(*) FROM dtx.confirm_log WHERE gid = :'gid'), (SELECT count(*) FROM dtx.cancel_log WHERE gid = :'gid');
SELECT dtx_tcc_drop('api');
DROP FUNCTION api.nothing(integer);

-- of nodes that never were: some are kept, and not for ever
SET ROLE dtx_api_mallory;
SELECT count(*) FROM generate_series(0, 3) k, LATERAL dtx.branch_settle(ARRAY['ghost.aaaaaaaa'], 1, 0,
    (SELECT array_agg(format('ghost.aaaaaaaa:%s.%s/1', g + k * 3000, lpad(to_hex(g::bigint), 16, '0'))) FROM generate_series(1, 3000) g),
    (SELECT array_agg(false) FROM generate_series(1, 3000)), repeat('a', 3000), '{}') s WHERE s.outcome = 'settled';
SELECT count(*) FROM generate_series(1, 1010) g, LATERAL dtx.branch_settle(ARRAY[format('ghost%s.aaaaaaaa', g)], g, 5000, '{}', '{}', '', '{}');
RESET ROLE;
SELECT count(*) FROM dtx.joined_branch WHERE state = 't' AND role = 'dtx_api_mallory'::regrole;
SELECT count(*) FROM dtx.coordinator WHERE role = 'dtx_api_mallory'::regrole;
UPDATE dtx.joined_branch SET joined_at = joined_at - interval '25 hours' WHERE gid LIKE 'ghost%';
UPDATE dtx.coordinator SET updated_at = updated_at - interval '31 days' WHERE node LIKE 'ghost%';
-- a worker that has just begun looks at once
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'dtx worker%';
DO $$
BEGIN
    FOR i IN 1 .. 18000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM dtx.joined_branch WHERE gid LIKE 'ghost%')
            AND NOT EXISTS (SELECT FROM dtx.coordinator WHERE node LIKE 'ghost%' AND timeline <= 1);
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT count(*) FROM dtx.joined_branch WHERE gid LIKE 'ghost%';
SELECT count(*) FROM dtx.coordinator WHERE node LIKE 'ghost%' AND timeline <= 1;
DELETE FROM dtx.coordinator WHERE role IN ('dtx_api_mallory'::regrole, 'dtx_api_teller'::regrole);
DELETE FROM dtx.try_log WHERE gid = :'gid';
DELETE FROM dtx.confirm_log WHERE gid = :'gid';
DELETE FROM dtx.de_duplication WHERE role = 'dtx_api_mallory'::regrole;
DROP FUNCTION api.locks();
DROP OWNED BY dtx_api_mallory, dtx_api_teller;
\c dtx_regression
SET client_min_messages = warning;
DROP OWNED BY dtx_api_mallory, dtx_api_teller;
DROP ROLE dtx_api_mallory, dtx_api_teller;
