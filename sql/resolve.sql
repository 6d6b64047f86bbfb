--
-- dtx_resolve: an operator decides branches in doubt; the coordinator comes back with
-- the same decision, or with the other one.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
-- The coordinator is c, the participants are b, and a with this session in it.
CREATE FUNCTION m.change(server text, amount numeric) RETURNS text LANGUAGE sql AS $$
  SELECT format('SELECT dtx_exec(%L, %L)', server, format('UPDATE m.account SET balance = balance + %s WHERE no = 1', amount)) $$;
-- In the session "c": makes branches of a mode at a and b; returns the xid.
CREATE FUNCTION m.doubt(mode text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM m.connect('c', 'c');
  PERFORM dblink_exec('c', 'BEGIN');
  PERFORM m.run('c', format('SELECT dtx_begin(%L) IS NOT NULL', CASE mode WHEN 'tcc' THEN 'at' ELSE mode END));
  IF mode = 'tcc' THEN
    PERFORM m.run('c', $x$SELECT dtx_try('a', 'debit', '{"no": 1, "amount": 5}')$x$);
    PERFORM m.run('c', $x$SELECT dtx_try('peer', 'credit', '{"no": 1, "amount": 5}')$x$);
  ELSE
    PERFORM m.run('c', m.change('a', -5));
    PERFORM m.run('c', m.change('peer', 5));
  END IF;
  RETURN (SELECT x FROM dblink('c', 'SELECT dtx_xid()') AS t(x text));
END $$;
CREATE FUNCTION m.stat(node text, which text) RETURNS bigint LANGUAGE sql AS $$ SELECT m.at(node, format('SELECT value FROM dtx_stats WHERE name = %L', which))::bigint $$;
CREATE FUNCTION m.shown(node text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT m.at(node, 'SELECT concat_ws('' '', side, state, mode, conflict) FROM dtx_branches ORDER BY side, gid') $$;
SELECT m.stat('a', 'heuristic_conflicts') AS before_a, m.stat('c', 'heuristic_conflicts') AS before_c \gset

-- decided by the operator as the coordinator does it too
SELECT m.doubt('at') AS xid \gset
SELECT m.shown('a');
SELECT dtx_resolve(:'xid', 'commit');
SELECT m.shown('a');
SELECT m.run('c', 'COMMIT');
SELECT m.bye('c');
SELECT m.settled();
SELECT decision, state, mode FROM dtx.resolution;
SELECT m.at('c', format('SELECT concat_ws('' '', branch, outcome, server) FROM dtx_history WHERE xid = %L ORDER BY branch', :'xid'));
SELECT dtx_resolve(:'xid', 'forget');
SELECT count(*) FROM dtx.resolution;
SELECT m.doubt('at') AS xid \gset
SELECT dtx_resolve(:'xid', 'rollback');
SELECT m.run('c', 'ROLLBACK');
SELECT m.bye('c');
SELECT m.settled();
SELECT decision, state, mode FROM dtx.resolution;
SELECT dtx_resolve(:'xid', 'forget');
SELECT m.doubt('tcc') AS xid \gset
SELECT dtx_resolve(:'xid', 'commit');
SELECT m.said();
SELECT m.run('c', 'COMMIT');
SELECT m.bye('c');
SELECT m.settled();
SELECT decision, state, mode FROM dtx.resolution;
SELECT dtx_resolve(:'xid', 'forget');
SELECT m.doubt('tcc') AS xid \gset
SELECT dtx_resolve(:'xid', 'rollback');
SELECT m.said();
SELECT m.run('c', 'ROLLBACK');
SELECT m.bye('c');
SELECT m.settled();
SELECT decision, state, mode FROM dtx.resolution;
SELECT dtx_resolve(:'xid', 'forget');
SELECT m.at('b', 'SELECT m.said()');

-- otherwise than the coordinator: never hidden, on neither side
SELECT m.doubt('at') AS xid \gset
SELECT dtx_resolve(:'xid', 'rollback');
SELECT m.run('c', 'COMMIT');
SELECT m.bye('c');
SELECT m.wait('a', 'EXISTS (SELECT FROM dtx_branches WHERE state = ''heuristic conflict'')');
SELECT m.wait('c', 'NOT EXISTS (SELECT FROM dtx_branches)');
SELECT m.shown('a');
SELECT decision, state, mode, compared_at IS NOT NULL FROM dtx.resolution;
SELECT m.at('c', format('SELECT concat_ws('' '', branch, outcome, server) FROM dtx_history WHERE xid = %L ORDER BY branch', :'xid'));
SELECT m.stat('a', 'heuristic_conflicts') - :before_a AS here, m.stat('c', 'heuristic_conflicts') - :before_c AS there;
SELECT balance FROM m.account WHERE no = 1;
SELECT m.at('b', 'SELECT balance FROM m.account WHERE no = 1');
-- the operator puts it right, and has it forgotten
UPDATE m.account SET balance = balance - 5 WHERE no = 1;
SELECT dtx_resolve(:'xid', 'forget');
SELECT m.settled();
SELECT m.doubt('tcc') AS xid \gset
SELECT dtx_resolve(:'xid', 'commit');
SELECT m.run('c', 'ROLLBACK');
SELECT m.bye('c');
SELECT m.wait('a', 'EXISTS (SELECT FROM dtx_branches WHERE state = ''heuristic conflict'')');
SELECT m.shown('a');
SELECT m.wait('c', format('EXISTS (SELECT FROM dtx_history WHERE xid = %L AND server = ''a'')', :'xid'));
SELECT m.at('c', format('SELECT concat_ws('' '', branch, outcome, server) FROM dtx_history WHERE xid = %L ORDER BY branch', :'xid'));
SELECT m.stat('a', 'heuristic_conflicts') - :before_a AS here, m.stat('c', 'heuristic_conflicts') - :before_c AS there;
UPDATE m.account SET balance = balance + 5 WHERE no = 1;
SELECT dtx_resolve(:'xid', 'forget');
SELECT m.settled();
SELECT m.said(), m.at('b', 'SELECT m.said()');

-- a prepared branch
CREATE FUNCTION m.prepare_it(n bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM m.connect('hand', 'a');
  PERFORM dblink_exec('hand', 'BEGIN');
  RETURN QUERY SELECT m.run('hand', format('SELECT dtx.branch_join(%L, ''xa'', 0, 0, 1, 0)', format('nobody.0000abcd:%s.00000000deadbeef/1', n)));
  RETURN QUERY SELECT m.run('hand', 'UPDATE m.account SET balance = balance + 5 WHERE no = 2');
  RETURN QUERY SELECT m.run('hand', format('PREPARE TRANSACTION %L', format('nobody.0000abcd:%s.00000000deadbeef/1', n)));
  PERFORM m.bye('hand');
END $$;
SELECT m.prepare_it(20001);
SELECT dtx_status('nobody.0000abcd:20001.00000000deadbeef');
SELECT m.shown('a');
SELECT dtx_resolve('nobody.0000abcd:20001.00000000deadbeef', 'rollback');
SELECT balance FROM m.account WHERE no = 2;
SELECT m.prepare_it(20002);
SELECT dtx_resolve('nobody.0000abcd:20002.00000000deadbeef', 'commit');
SELECT balance FROM m.account WHERE no = 2;
SELECT split_part(gid, ':', 2), decision, state, mode FROM dtx.resolution ORDER BY gid;
-- the coordinator comes back
SELECT outcome, m.mask(detail) FROM dtx.branch_settle('{nobody.0000abcd}', 1, 0, '{nobody.0000abcd:20001.00000000deadbeef/1,nobody.0000abcd:20002.00000000deadbeef/1}', '{f,f}', 'xx', '{}') WHERE written IS NULL;
SELECT m.shown('a');
SELECT dtx_resolve('nobody.0000abcd:20001.00000000deadbeef', 'forget'), dtx_resolve('nobody.0000abcd:20002.00000000deadbeef', 'forget');
UPDATE m.account SET balance = balance - 5 WHERE no = 2;

-- what cannot be resolved, and by whom
SELECT m.try($$SELECT dtx_resolve('nobody.0000abcd:20003.00000000deadbeef', 'commit')$$);
SELECT m.try($$SELECT dtx_resolve('nobody.0000abcd:20003.00000000deadbeef', 'undo')$$);
SELECT m.try($$SELECT dtx_resolve('nonsense', 'commit')$$);
SELECT dtx_resolve('nobody.0000abcd:20003.00000000deadbeef', 'forget');
SELECT dtx_resolve(NULL, 'commit') IS NULL, dtx_resolve('nobody.0000abcd:20003.00000000deadbeef', NULL) IS NULL;
DROP ROLE IF EXISTS dtx_m_plain;
CREATE ROLE dtx_m_plain LOGIN;
SELECT m.at('a', $$SELECT dtx_resolve('nobody.0000abcd:20003.00000000deadbeef', 'commit')$$, 'dtx_m_plain');
SELECT dtx_admit('dtx_m_plain');
SELECT m.at('a', $$SELECT dtx_resolve('nobody.0000abcd:20003.00000000deadbeef', 'commit')$$, 'dtx_m_plain');
-- its own tries only it confirms
GRANT EXECUTE ON FUNCTION dtx_resolve(text, text) TO dtx_m_plain;
CREATE FUNCTION m.mine() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
GRANT USAGE ON SCHEMA m TO dtx_m_plain;
SELECT dtx_tcc_define('mine', 'm.mine()', 'm.mine()', 'm.mine()');
SELECT m.connect('hand', 'a', 'dtx_m_plain');
SELECT m.run('hand', 'BEGIN');
SELECT m.run('hand', $$SELECT dtx.branch_join('nobody.0000abcd:20004.00000000deadbeef/1', 'tcc', 0, 0, 1, 0)$$);
SELECT m.run('hand', $$SELECT dtx.tcc_try('mine', '{}')$$);
SELECT m.run('hand', 'COMMIT');
SELECT m.try($$SELECT dtx_resolve('nobody.0000abcd:20004.00000000deadbeef', 'commit')$$);
SELECT m.run('hand', $$SELECT dtx_resolve('nobody.0000abcd:20004.00000000deadbeef', 'commit')$$);
SELECT m.run('hand', 'BEGIN');
SELECT m.run('hand', $$SELECT dtx.branch_join('nobody.0000abcd:20005.00000000deadbeef/1', 'at', 0, 0, 1, 0)$$);
SELECT m.run('hand', $$SELECT dtx_resolve('nobody.0000abcd:20004.00000000deadbeef', 'forget')$$);
SELECT m.run('hand', 'ROLLBACK');
SELECT m.bye('hand');
SELECT dtx_resolve('nobody.0000abcd:20004.00000000deadbeef', 'forget');

-- clean up
SELECT dtx_tcc_drop('mine');
DROP OWNED BY dtx_m_plain;
DROP ROLE dtx_m_plain;
DELETE FROM dtx.joined_branch WHERE gid LIKE 'nobody%';
DELETE FROM dtx.try_log WHERE gid LIKE 'nobody%';
DELETE FROM dtx.confirm_log WHERE gid LIKE 'nobody%';
SELECT count(*) FROM dtx.resolution;
SELECT m.settled();
UPDATE m.account SET balance = 1000;
SELECT m.at('b', 'UPDATE m.account SET balance = 1000'), m.at('c', 'UPDATE m.account SET balance = 1000');
DROP FUNCTION m.change(text, numeric), m.doubt(text), m.stat(text, text), m.shown(text), m.prepare_it(bigint), m.mine();
SELECT m.settled();
