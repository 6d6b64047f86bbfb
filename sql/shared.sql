--
-- Global transactions that services share: dtx_open, dtx_join, dtx_commit,
-- dtx_rollback, in three databases, the opener's own among them.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
SELECT m.settled();
-- their branches are counted by a sequence
ALTER SEQUENCE dtx.shared_b RESTART;
-- The services: s1 in the opener's own database, s2 and s3 in the others.
SELECT m.connect('s1', 'a'), m.connect('s2', 'b'), m.connect('s3', 'c');
-- A service's part: joins, runs statements, ends it.
CREATE FUNCTION m.part(session text, xid text, statements text[], ending text DEFAULT 'COMMIT') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  statement text;
  answer text;
BEGIN
  FOREACH statement IN ARRAY ARRAY['BEGIN', format('SELECT dtx_join(%L)', xid)] || statements || ending LOOP
    FOR answer IN SELECT m.run(session, statement) LOOP
      IF answer NOT IN ('', 'BEGIN', 'COMMIT', 'UPDATE 1', 'XID') THEN
        RETURN NEXT answer;
      END IF;
    END LOOP;
  END LOOP;
END $$;
CREATE FUNCTION m.add(amount numeric, which integer DEFAULT 1) RETURNS text LANGUAGE sql AS
$$ SELECT format('UPDATE m.account SET balance = balance + %s WHERE no = %s', amount, which) $$;

-- opened, joined everywhere, committed; nobody holds a transaction open in between
SELECT dtx_open('1 h', 'first') AS xid \gset
SELECT dtx_status(:'xid');
SELECT state, pid, branches, deadline > now() + interval '59 min' FROM dtx_transactions;
SELECT name, state FROM dtx.global;
SELECT m.part('s1', :'xid', ARRAY[m.add(-30)]);
SELECT m.part('s2', :'xid', ARRAY[m.add(10)]);
SELECT m.part('s3', :'xid', ARRAY[m.add(19), m.add(1, 2)]);
-- one may join more than once
SELECT m.part('s2', :'xid', ARRAY[m.add(-4), m.add(4, 2)]);
-- changed, and in doubt everywhere
SELECT m.at(node, 'SELECT string_agg(balance::text, '' '' ORDER BY no) FROM m.account') FROM unnest('{a,b,c}'::text[]) AS node;
SELECT side, state, server, mode FROM dtx_branches ORDER BY side, gid;
SELECT m.at('b', $$SELECT concat_ws(' ', side, state, mode, node = substring(xid from '^[^:]*')) FROM dtx_branches ORDER BY gid$$);
SELECT relation, op, before, after FROM dtx_undo;
SELECT m.at('c', 'SELECT concat_ws('' '', relation, row) FROM dtx_locks ORDER BY row');
SELECT state, branches FROM dtx_transactions;
SELECT m.at('b', format('SELECT dtx_status(%L)', :'xid'));
-- rows are locked until it is decided, for those too who never heard of dtx
SELECT m.at('b', 'SET dtx.lock_timeout = 50');
SELECT m.connect('writer', 'b');
SELECT m.run('writer', 'SET dtx.lock_timeout = 50');
SELECT split_part(m.run('writer', m.add(1)), E'\n', 1);
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT outcome, server, count(*) FROM dtx_history WHERE xid = :'xid' GROUP BY outcome, server ORDER BY 2;
SELECT m.run('writer', m.add(0));
SELECT m.bye('writer');
-- twice
SELECT dtx_commit(:'xid');
SELECT m.try(format('SELECT dtx_rollback(%L)', :'xid'));
-- too late to join
SELECT m.part('s1', :'xid', '{}');
SELECT m.part('s2', :'xid', '{}');

-- rolled back
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-30), m.add(-5, 2)]);
SELECT m.part('s2', :'xid', ARRAY[m.add(10), m.add(10), 'DELETE FROM m.account WHERE no = 2', 'INSERT INTO m.account VALUES (3, 5)']);
SELECT m.part('s3', :'xid', ARRAY[m.add(19), m.add(1, 2)]);
SELECT m.part('s1', :'xid', ARRAY[m.add(-30)]);
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at(node, 'SELECT string_agg(no || '' has '' || balance, '', '' ORDER BY no) FROM m.account') FROM unnest('{a,b,c}'::text[]) AS node;
SELECT outcome, server, count(*) FROM dtx_history WHERE xid = :'xid' GROUP BY outcome, server ORDER BY 2;
SELECT dtx_rollback(:'xid');
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.part('s1', :'xid', '{}');
SELECT m.part('s2', :'xid', '{}');
-- nobody joined
SELECT dtx_open() AS xid \gset
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT dtx_open() AS xid \gset
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
-- joined, and wrote nothing
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', '{SELECT 1}');
SELECT m.part('s2', :'xid', '{SELECT 1}');
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- opening and deciding are transactional themselves
BEGIN;
SELECT dtx_open() AS xid \gset
SELECT m.try('SELECT dtx_open()');
SELECT m.part('s1', :'xid', '{}');
SELECT m.part('s2', :'xid', '{}');
ROLLBACK;
SELECT m.part('s1', :'xid', '{}');
SELECT dtx_status(:'xid');
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-1)]);
SELECT m.part('s2', :'xid', ARRAY[m.add(1)]);
BEGIN;
SELECT dtx_commit(:'xid');
SELECT dtx_status(:'xid');
SELECT balance FROM m.account WHERE no = 1;
ROLLBACK;
SELECT dtx_status(:'xid');
SELECT count(*) FROM dtx_branches;
BEGIN;
SELECT dtx_rollback(:'xid');
SELECT balance FROM m.account WHERE no = 1;
ROLLBACK;
SELECT balance FROM m.account WHERE no = 1;
BEGIN;
SAVEPOINT s;
SELECT dtx_rollback(:'xid');
ROLLBACK TO s;
SELECT dtx_commit(:'xid');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- what is no id, no transaction, or another's
SELECT m.try($$SELECT dtx_join('nonsense')$$);
SELECT m.try($$SELECT dtx_commit('nonsense')$$);
SELECT m.try($$SELECT dtx_rollback('')$$);
SELECT m.part('s2', 'nobody.0000abcd:7.00000000deadbeef', '{}');
SELECT m.try($$SELECT dtx_commit('nobody.0000abcd:7.00000000deadbeef')$$);
SELECT m.try($$SELECT dtx_rollback('nobody.0000abcd:7.00000000deadbeef')$$);
-- this node's, but never opened
SELECT regexp_replace(:'xid', '\.[0-9a-f]+$', '.0000000000000001') AS other \gset
SELECT m.part('s1', :'other', '{}');
SELECT m.part('s2', :'other', '{}');
SELECT m.try(format('SELECT dtx_commit(%L)', :'other'));
SELECT m.try(format('SELECT dtx_rollback(%L)', :'other'));
-- an ordinary global transaction cannot be joined
BEGIN;
SELECT dtx_exec('peer', m.add(0));
SELECT dtx_xid() AS ordinary \gset
SELECT m.part('s1', :'ordinary', '{}');
SELECT m.part('s3', :'ordinary', '{}');
COMMIT;
SELECT m.try(format('SELECT dtx_commit(%L)', :'ordinary')) = m.try(format('SELECT dtx_rollback(%L)', :'ordinary'));
SELECT m.settled();
-- only the opener's node decides
SELECT dtx_open() AS xid \gset
SELECT m.run('s2', format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('s2', format('SELECT dtx_rollback(%L)', :'xid'));
-- not from within
SELECT m.part('s1', :'xid', ARRAY[format('SELECT dtx_commit(%L)', :'xid')], 'ROLLBACK');
SELECT m.part('s1', :'xid', ARRAY[format('SELECT dtx_rollback(%L)', :'xid')], 'ROLLBACK');
SELECT m.part('s1', :'xid', '{SELECT dtx_open()}', 'ROLLBACK');

-- joining comes first, and once
SELECT m.run('s2', 'BEGIN');
SELECT m.run('s2', m.add(0));
SELECT m.run('s2', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s2', 'ROLLBACK');
SELECT m.run('s1', 'BEGIN');
SELECT m.run('s1', m.add(0));
SELECT m.run('s1', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s1', 'ROLLBACK');
SELECT m.run('s2', 'BEGIN READ ONLY');
SELECT m.run('s2', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s2', 'ROLLBACK');
SELECT m.run('s2', 'BEGIN');
SELECT m.run('s2', 'SELECT dtx_begin() IS NOT NULL');
SELECT m.run('s2', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s2', 'ROLLBACK');
SELECT m.part('s2', :'xid', ARRAY[format('SELECT dtx_join(%L)', :'xid')], 'ROLLBACK');
SELECT m.part('s1', :'xid', ARRAY[format('SELECT dtx_join(%L)', :'xid')], 'ROLLBACK');
-- having read is no harm
SELECT m.run('s2', 'BEGIN');
SELECT m.run('s2', 'SELECT count(*) FROM m.account');
SELECT m.run('s2', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s2', format('SELECT dtx_xid() = %L', :'xid'));
SELECT m.run('s2', 'ROLLBACK');
-- branches that were rolled back are registered all the same: it can only roll back
SELECT count(*) > 0, count(*) = count(server) FROM dtx_branches WHERE side = 'coordinator';
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- a branch that failed rolls all back
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-1)]);
SELECT m.part('s3', :'xid', ARRAY[m.add(1)]);
SELECT m.part('s2', :'xid', '{UPDATE m.account SET balance = -1}');
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
-- in the opener's own database too
SELECT dtx_open() AS xid \gset
SELECT m.part('s2', :'xid', ARRAY[m.add(-1)]);
SELECT m.part('s1', :'xid', '{UPDATE m.account SET balance = -1}');
SELECT m.part('s1', :'xid', ARRAY[m.add(1)]);
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
-- a table that is not attached, a statement that cannot be undone
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', '{INSERT INTO m.log (what) VALUES (''x'')}');
SELECT m.part('s2', :'xid', '{INSERT INTO m.log (what) VALUES (''x'')}');
SELECT m.part('s2', :'xid', '{TRUNCATE m.account}');
SELECT m.part('s2', :'xid', '{PREPARE TRANSACTION ''x''}');
SELECT dtx_rollback(:'xid');
SELECT m.settled();
-- savepoints of the joined transaction are its own
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-1), 'SAVEPOINT x', m.add(-10), 'ROLLBACK TO x']);
SELECT m.part('s2', :'xid', ARRAY['SAVEPOINT x', m.add(10), 'ROLLBACK TO x', m.add(1)]);
SELECT dtx_commit(:'xid');
SELECT m.settled();
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-1), 'SAVEPOINT x', m.add(-10), 'ROLLBACK TO x']);
SELECT m.part('s2', :'xid', ARRAY['SAVEPOINT x', m.add(10), 'ROLLBACK TO x', m.add(1)]);
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- a branch that still runs: an error, and it stays open
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-3)]);
SELECT m.run('s2', 'BEGIN');
SELECT m.run('s2', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s2', m.add(3));
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT dtx_status(:'xid');
-- the opener's row is not changed either
SELECT m.part('s3', :'xid', ARRAY[m.add(1)]);
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('s2', 'COMMIT');
SELECT m.part('s1', :'xid', ARRAY[m.add(-1)]);
SELECT dtx_commit(:'xid');
SELECT m.settled();
-- in the opener's own database
SELECT dtx_open() AS xid \gset
SELECT m.run('s1', 'BEGIN');
SELECT m.run('s1', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s1', m.add(3));
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('s1', 'COMMIT');
SELECT m.part('s2', :'xid', ARRAY[m.add(-3)]);
SELECT dtx_commit(:'xid');
SELECT m.settled();
-- rolled back while a branch runs elsewhere
SELECT dtx_open() AS xid \gset
SELECT m.run('s2', 'BEGIN');
SELECT m.run('s2', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s2', m.add(3));
SELECT m.part('s1', :'xid', ARRAY[m.add(-3)]);
SELECT dtx_rollback(:'xid');
SELECT balance FROM m.account WHERE no = 1;
-- its commit goes through, and is undone
SELECT m.run('s2', 'COMMIT');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- a deadline that passes rolls it back by itself
SELECT dtx_open('800 ms') AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[m.add(-3)]);
SELECT m.part('s2', :'xid', ARRAY[m.add(3)]);
SELECT m.run('s3', 'BEGIN');
SELECT m.run('s3', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.run('s3', m.add(3));
SELECT m.wait('a', format('dtx_status(%L) <> ''active''', :'xid'));
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('s3', 'COMMIT');
SELECT dtx_wait(:'xid', '3min');
SELECT dtx_rollback(:'xid');
SELECT m.settled();
SELECT m.part('s1', :'xid', '{}');
-- the time is over while nobody has looked: it cannot be joined or committed
BEGIN;
SELECT dtx_open('1 ms') AS xid \gset
CALL m.until(format('(SELECT clock_timestamp() > deadline FROM dtx.global WHERE xid = %L)', :'xid'));
SELECT m.try(format('SELECT dtx_commit(%L)', :'xid'));
SELECT dtx_rollback(:'xid');
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT m.try('SELECT dtx_open(NULL)');
SELECT m.try($$SELECT dtx_open('-1 s')$$);
SELECT m.try($$SELECT dtx_open('0')$$) LIKE '22023%';
SELECT m.settled();

-- calls to others from a joined transaction: AT, XA and TCC
SELECT dtx_open() AS xid \gset
SELECT m.part('s2', :'xid', ARRAY[m.add(-10), format('SELECT dtx_exec(%L, %L)', 'c', m.add(4)),
  $$SELECT dtx_try('c', 'credit', '{"no": 2, "amount": 6}')$$, $$SELECT dtx_try(NULL, 'debit', '{"no": 2, "amount": 5}')$$]);
SELECT m.part('s1', :'xid', ARRAY[m.add(2), format('SELECT dtx_exec(%L, %L)', 'c', m.add(3)), $$SELECT dtx_try('c', 'debit', '{"no": 2, "amount": 7}')$$]);
SELECT m.part('s3', :'xid', ARRAY[$$SELECT dtx_begin('xa') IS NOT NULL$$, m.add(-1), format('SELECT dtx_exec(%L, %L)', 'peer', m.add(1))]);
SELECT m.part('s3', :'xid', ARRAY[$$SELECT dtx_try(NULL, 'credit', '{"no": 2, "amount": 7}')$$]);
SELECT m.at('b', $$SELECT concat_ws(' ', side, state, server, mode::text) FROM dtx_branches ORDER BY side, gid$$);
SELECT m.at('c', $$SELECT concat_ws(' ', side, state, server, mode::text) FROM dtx_branches ORDER BY side, server, mode::text COLLATE "C"$$);
SELECT m.at('b', 'SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()');
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- three nodes have them confirmed, in no order
SELECT m.at('c', $$SELECT string_agg(w, ', ' ORDER BY w COLLATE "C") FROM regexp_split_to_table(m.said(), ', ') AS w$$);
-- the same, rolled back
SELECT dtx_open() AS xid \gset
SELECT m.part('s2', :'xid', ARRAY[m.add(-10), format('SELECT dtx_exec(%L, %L)', 'c', m.add(4)),
  $$SELECT dtx_try('c', 'credit', '{"no": 2, "amount": 6}')$$, $$SELECT dtx_try(NULL, 'debit', '{"no": 2, "amount": 5}')$$]);
SELECT m.part('s1', :'xid', ARRAY[m.add(2), format('SELECT dtx_exec(%L, %L)', 'c', m.add(3)), $$SELECT dtx_try('c', 'debit', '{"no": 2, "amount": 7}')$$]);
SELECT m.part('s3', :'xid', ARRAY[$$SELECT dtx_begin('xa') IS NOT NULL$$, m.add(-1), format('SELECT dtx_exec(%L, %L)', 'peer', m.add(1))]);
SELECT m.part('s3', :'xid', ARRAY[$$SELECT dtx_try(NULL, 'credit', '{"no": 2, "amount": 7}')$$]);
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
SELECT m.at('c', 'SELECT m.said()');
-- a savepoint of the joined transaction takes its calls back
SELECT dtx_open() AS xid \gset
SELECT m.part('s2', :'xid', ARRAY[m.add(-1), 'SAVEPOINT x', format('SELECT dtx_exec(%L, %L)', 'c', m.add(4)),
  $$SELECT dtx_try(NULL, 'debit', '{"no": 2, "amount": 5}')$$, 'ROLLBACK TO x', format('SELECT dtx_exec(%L, %L)', 'c', m.add(1))]);
SELECT m.at('c', 'SELECT balance FROM m.account WHERE no = 1');
SELECT dtx_commit(:'xid');
SELECT m.settled();
SELECT m.at('b', 'SELECT m.said()');
-- what is not possible in the opener's own database, nor back to it
SELECT dtx_open() AS xid \gset
SELECT m.part('s1', :'xid', ARRAY[$$SELECT dtx_try(NULL, 'credit', '{"no": 1, "amount": 7}')$$], 'ROLLBACK');
SELECT m.part('s2', :'xid', ARRAY[format('SELECT dtx_exec(%L, %L)', 'a', m.add(4))], 'ROLLBACK');
SELECT m.part('s2', :'xid', ARRAY[format('SELECT dtx_exec(%L, %L)', 'c', 'SELECT 1')], 'ROLLBACK');
SELECT m.part('s2', :'xid', '{SELECT dtx_tcc_drop(''nothing'')}', 'ROLLBACK');
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();

-- rights: who opened it decides; who may connect joins
DROP ROLE IF EXISTS dtx_m_plain;
DROP ROLE IF EXISTS dtx_m_other;
CREATE ROLE dtx_m_plain LOGIN;
CREATE ROLE dtx_m_other LOGIN;
GRANT USAGE ON FOREIGN SERVER peer TO dtx_m_plain, dtx_m_other;
CREATE USER MAPPING FOR dtx_m_plain SERVER peer OPTIONS (user 'dtx_m_plain', password_required 'false');
GRANT USAGE ON SCHEMA m TO dtx_m_plain, dtx_m_other;
GRANT SELECT, UPDATE ON m.account TO dtx_m_plain, dtx_m_other;
SELECT dtx_admit('dtx_m_plain');
CREATE FUNCTION m.grant_plain() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  GRANT USAGE ON FOREIGN SERVER a TO dtx_m_plain, dtx_m_other;
  CREATE USER MAPPING FOR dtx_m_plain SERVER a OPTIONS (user 'dtx_m_plain', password_required 'false');
  GRANT USAGE ON SCHEMA m TO dtx_m_plain, dtx_m_other;
  GRANT SELECT, UPDATE ON m.account TO dtx_m_plain, dtx_m_other;
  PERFORM dtx_admit('dtx_m_plain');
END $$;
SELECT m.at('b', pg_get_functiondef('m.grant_plain()'::regprocedure));
SELECT m.at('b', 'SELECT m.grant_plain()');
SELECT m.connect('plain', 'a', 'dtx_m_plain'), m.connect('other', 'a', 'dtx_m_other');
SELECT m.connect('plain2', 'b', 'dtx_m_plain'), m.connect('other2', 'b', 'dtx_m_other');
SELECT x AS xid FROM dblink('plain', 'SELECT dtx_open()') AS t(x text) \gset
SELECT m.part('plain2', :'xid', ARRAY[m.add(3)]);
SELECT m.part('plain', :'xid', ARRAY[m.add(-3)]);
SELECT m.part('other', :'xid', '{}');
SELECT m.part('other2', :'xid', '{}');
SELECT m.run('other', format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('other', format('SELECT dtx_rollback(%L)', :'xid'));
SELECT m.run('other', 'SELECT count(*) FROM dtx_transactions');
SELECT m.run('plain', 'SELECT state FROM dtx_transactions');
SELECT m.run('plain', format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.settled();
-- a superuser may
SELECT x AS xid FROM dblink('plain', 'SELECT dtx_open()') AS t(x text) \gset
SELECT m.part('plain', :'xid', ARRAY[m.add(-3)]);
SELECT m.part('plain2', :'xid', ARRAY[m.add(3)]);
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT m.settled();
-- whoever the opener names joins, here and elsewhere, but does not decide; to others it is unknown
DROP ROLE IF EXISTS dtx_m_third;
CREATE ROLE dtx_m_third LOGIN;
GRANT USAGE ON SCHEMA m TO dtx_m_third;
SELECT dtx_admit('dtx_m_other'), dtx_admit('dtx_m_third');
SELECT m.at('b', $$CREATE USER MAPPING FOR dtx_m_other SERVER a OPTIONS (user 'dtx_m_third', password_required 'false')$$);
SELECT m.connect('third', 'a', 'dtx_m_third');
GRANT dtx_m_other TO dtx_m_plain;
SELECT m.at('b', 'GRANT dtx_m_other TO dtx_m_plain');
SELECT x AS xid FROM dblink('plain', $$SELECT dtx_open(joiners => '{dtx_m_third}')$$) AS t(x text) \gset
SELECT m.part('other', :'xid', '{}');
SELECT m.part('third', :'xid', '{SELECT 1}');
SELECT m.run('third', format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('third', format('SELECT dtx_rollback(%L)', :'xid'));
SELECT m.part('other2', :'xid', ARRAY[m.add(3)]);
SELECT m.part('plain', :'xid', ARRAY[m.add(-3)]);
SELECT dtx_commit(:'xid');
SELECT m.settled();
SELECT m.run('third', format('SELECT dtx_rollback(%L)', :'xid'));
-- a stranger holds nothing up, and leaves no branch behind
SELECT x AS xid FROM dblink('plain', 'SELECT dtx_open()') AS t(x text) \gset
SELECT m.run('third', 'BEGIN');
SELECT m.run('third', format('SELECT dtx_join(%L)', :'xid'));
SELECT m.part('other2', :'xid', '{SELECT 1}');
SELECT count(*) FROM dtx.branch b JOIN dtx.global USING (n);
SELECT m.run('third', 'ROLLBACK');
SELECT m.run('third', format('SELECT dtx_status(%L)', :'xid')), m.run('plain', format('SELECT dtx_status(%L)', :'xid'));
SELECT m.run('plain', format('SELECT dtx_commit(%L)', :'xid'));
SELECT m.run('plain', format('SELECT dtx_wait(%L)', :'xid')), m.run('third', format('SELECT dtx_wait(%L)', :'xid')), m.run('third', format('SELECT dtx_status(%L)', :'xid'));
SELECT m.settled();
-- by a role's membership
SELECT x AS xid FROM dblink('third', $$SELECT dtx_open(joiners => '{dtx_m_other}')$$) AS t(x text) \gset
SELECT m.part('plain', :'xid', ARRAY[m.add(0)]);
SELECT m.run('plain', format('SELECT dtx_rollback(%L)', :'xid'));
SELECT m.run('third', format('SELECT dtx_rollback(%L)', :'xid'));
SELECT m.settled();
SELECT m.try($$SELECT dtx_open(joiners => '{nobody}')$$);
SELECT m.try($$SELECT dtx_open(joiners => '{NULL}')$$);
SELECT joiners FROM dtx.global;
SELECT m.bye('third');
SELECT m.at('b', 'DROP USER MAPPING FOR dtx_m_other SERVER a');
DROP OWNED BY dtx_m_third;
DROP ROLE dtx_m_third;
SELECT m.bye('plain', 'other', 'plain2', 'other2');
DROP USER MAPPING FOR dtx_m_plain SERVER peer;
SELECT m.at('b', 'DROP USER MAPPING FOR dtx_m_plain SERVER a');
DROP OWNED BY dtx_m_plain, dtx_m_other;
SELECT m.at('b', 'DROP OWNED BY dtx_m_plain, dtx_m_other');
DROP ROLE dtx_m_plain, dtx_m_other;
SELECT m.at('b', 'DROP FUNCTION m.grant_plain()');
DROP FUNCTION m.grant_plain();

-- two servers lead to one node, as different roles: a branch goes through the one that may settle it
CREATE ROLE dtx_m_plain LOGIN;
SELECT m.at('b', $$SELECT dtx_admit('dtx_m_plain')$$);
SELECT m.at('b', 'GRANT USAGE ON SCHEMA m TO dtx_m_plain'), m.at('b', 'GRANT SELECT, UPDATE ON m.account TO dtx_m_plain');
CREATE FUNCTION m.peer_as(server text, username text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER USER MAPPING FOR CURRENT_USER SERVER %I OPTIONS (SET user %L)', server, username);
END $$;
DO $$
BEGIN
  EXECUTE (SELECT format('CREATE SERVER plainly FOREIGN DATA WRAPPER dtx_fdw OPTIONS (%s)',
                         string_agg(format('%s %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', '))
           FROM pg_foreign_server, unnest(srvoptions) AS o WHERE srvname = 'peer');
END $$;
CREATE USER MAPPING FOR CURRENT_USER SERVER plainly OPTIONS (user 'dtx_m_plain');
-- it is the one that was used last
SELECT dtx_exec('plainly', m.add(0));
SELECT m.settled();
SELECT dtx_open() AS xid \gset
SELECT m.part('s2', :'xid', ARRAY[m.add(5)]);
SELECT server FROM dtx_branches WHERE side = 'coordinator';
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
-- a member may too
GRANT dtx_m_plain TO CURRENT_USER;
SELECT m.connect('plain2', 'b', 'dtx_m_plain');
CREATE FUNCTION m.back() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  GRANT USAGE ON FOREIGN SERVER a TO dtx_m_plain;
  EXECUTE format('CREATE USER MAPPING FOR dtx_m_plain SERVER a OPTIONS (user %L, password_required ''false'')', session_user);
END $$;
SELECT m.at('b', pg_get_functiondef('m.back()'::regprocedure));
SELECT m.at('b', 'SELECT m.back()');
SELECT dtx_open() AS xid \gset
SELECT m.part('plain2', :'xid', ARRAY[m.add(-5)]);
SELECT dtx_commit(:'xid');
SELECT dtx_wait(:'xid', '3min');
-- the mappings change when it has joined: whichever may
SELECT dtx_open() AS xid \gset
SELECT m.part('s2', :'xid', ARRAY[m.add(7)]);
SELECT server FROM dtx_branches WHERE side = 'coordinator';
SELECT m.peer_as('peer', 'dtx_m_plain'), m.peer_as('plainly', session_user);
SELECT dtx_rollback(:'xid');
SELECT dtx_wait(:'xid', '3min');
SELECT server FROM dtx_history WHERE xid = :'xid' AND server IS NOT NULL;
-- none may: then it does not join
SELECT m.peer_as('plainly', 'dtx_m_plain');
SELECT dtx_open() AS xid \gset
SELECT regexp_replace(replace(m.part('s2', :'xid', ARRAY[m.add(7)]), format('"%s"', session_user), 'ME'), 'Server "(peer|plainly)"', 'Server');
SELECT m.run('s2', 'ROLLBACK');
SELECT dtx_rollback(:'xid');
SELECT m.peer_as('peer', session_user);
SELECT m.bye('plain2');
DROP USER MAPPING FOR CURRENT_USER SERVER plainly;
DROP SERVER plainly;
SELECT m.at('b', 'DROP USER MAPPING FOR dtx_m_plain SERVER a');
SELECT m.at('b', 'DROP OWNED BY dtx_m_plain');
SELECT m.at('b', 'DROP FUNCTION m.back()');
DROP FUNCTION m.peer_as(text, text), m.back();
DROP OWNED BY dtx_m_plain;
DROP ROLE dtx_m_plain;

-- clean up
SELECT m.bye('s1', 's2', 's3');
SELECT m.settled();
SELECT count(*) FROM dtx.global;
UPDATE m.account SET balance = 1000;
SELECT m.at('b', 'UPDATE m.account SET balance = 1000'), m.at('c', 'UPDATE m.account SET balance = 1000');
DROP FUNCTION m.part(text, text, text[], text), m.add(numeric, integer);
SELECT m.said(), m.at('b', 'SELECT m.said()'), m.at('c', 'SELECT m.said()');
SELECT m.settled();
