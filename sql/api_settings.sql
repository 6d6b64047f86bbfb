--
-- Settings that dtx overrides do not outlast the transaction, and what cannot be
-- prepared is refused.
--
SET synchronous_commit = on;
-- the decision is flushed whatever the transaction has set, and only for it
BEGIN;
SET LOCAL synchronous_commit = off;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance WHERE no = 1');
COMMIT;
SHOW synchronous_commit;
-- nor does one that was set for the session change
SET synchronous_commit = off;
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance WHERE no = 2');
COMMIT;
SHOW synchronous_commit;
BEGIN;
SELECT dtx_exec('peer', 'UPDATE api.account SET balance = balance WHERE no = 2');
ROLLBACK;
SHOW synchronous_commit;
RESET synchronous_commit;
-- settling, by hand
BEGIN;
SET LOCAL synchronous_commit = local;
SET LOCAL lock_timeout = '7s';
SELECT outcome FROM dtx.branch_settle('{other.12345678}', 1, 0, '{other.12345678:1.0123456789abcdef/1}', '{f}', 'a', '{}') WHERE outcome <> 'awaited';
COMMIT;
SHOW synchronous_commit;
SHOW lock_timeout;
CALL api.settle();
-- a global transaction ends with its local one: it cannot be handed on
\set VERBOSITY sqlstate
BEGIN;
SELECT dtx_begin() IS NOT NULL AS begun;
PREPARE TRANSACTION 'api_settings';
\set VERBOSITY default
SELECT dtx_xid() IS NULL AS none;
SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'api_settings';
