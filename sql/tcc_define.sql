--
-- TCC: dtx_tcc_define and dtx_tcc_drop.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA d;
GRANT USAGE ON SCHEMA d TO PUBLIC;
CREATE FUNCTION d.define(action text, try text, confirm text, cancel text) RETURNS text LANGUAGE sql AS
$$ SELECT m.try(format('SELECT dtx_tcc_define(%L, %L, %L, %L)', action, try, confirm, cancel)) $$;
CREATE FUNCTION d.actions() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT concat_ws(' ', action, owner::regrole, nullif(try, 0)::regprocedure, nullif(confirm, 0)::regprocedure, nullif(cancel, 0)::regprocedure, names, types::regtype[])
  FROM dtx.tcc_action WHERE action NOT IN ('credit', 'debit') AND action NOT LIKE 'dtx.%' ORDER BY action COLLATE "C" $$;
CREATE FUNCTION d.f(a integer, b text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.g(a integer, b text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION d.h(a integer, b text DEFAULT 'x') RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
-- any of them may be missing, not all
SELECT d.define('all', 'd.f(integer,text)', 'd.g(integer,text)', 'd.h(integer,text)');
SELECT d.define('try', 'd.f(integer,text)', NULL, NULL);
SELECT d.define('confirm', NULL, 'd.f(integer,text)', NULL);
SELECT d.define('cancel', NULL, NULL, 'd.f(integer,text)');
SELECT d.define('same', 'd.f(integer,text)', 'd.f(integer,text)', 'd.f(integer,text)');
SELECT d.define('none', NULL, NULL, NULL);
SELECT d.actions();
-- names
SELECT d.define(NULL, 'd.f(integer,text)', NULL, NULL);
SELECT d.define('', 'd.f(integer,text)', NULL, NULL);
SELECT d.define('ALL', 'd.f(integer,text)', NULL, NULL);
SELECT d.define('an action''s "name" ' || repeat('x', 100), 'd.f(integer,text)', NULL, NULL);
SELECT length(action) FROM dtx.tcc_action WHERE action LIKE 'an action%';
SELECT dtx_tcc_drop('ALL');
SELECT dtx_tcc_drop('an action''s "name" ' || repeat('x', 100));
-- arguments: the same names and types, in the same order
CREATE FUNCTION d.other_name(a integer, c text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.other_type(a bigint, b text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.other_order(b text, a integer) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.fewer(a integer) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.more(a integer, b text, c text DEFAULT '') RETURNS void LANGUAGE sql AS '';
SELECT d.define('bad', 'd.f(integer,text)', other, NULL)
FROM unnest('{"d.other_name(integer,text)","d.other_type(bigint,text)","d.other_order(text,integer)","d.fewer(integer)","d.more(integer,text,text)"}'::text[]) AS other;
SELECT d.define('bad', NULL, 'd.f(integer,text)', 'd.fewer(integer)');
SELECT d.define('bad', 'd.f(integer,text)', 'd.f(integer,text)', 'd.fewer(integer)');
-- plain ones with names
CREATE FUNCTION d.unnamed(integer, b text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.nameless(integer) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.returning(a integer, OUT b text) LANGUAGE sql AS 'SELECT ''x''';
CREATE FUNCTION d.in_and_out(INOUT a integer) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION d.variable(VARIADIC a integer[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.polymorphic(a anyelement) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.polymorphic(a anycompatiblearray) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION d.set(a integer) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION d.as_table(a integer) RETURNS TABLE (b integer) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION d.as_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE PROCEDURE d.procedure(a integer) LANGUAGE sql AS '';
CREATE AGGREGATE d.aggregate(a integer) (sfunc = int4pl, stype = integer);
CREATE FUNCTION d.nothing() RETURNS void LANGUAGE sql AS '';
SELECT p || ': ' || d.define('bad', p, NULL, NULL) FROM
  unnest('{"d.unnamed(integer,text)","d.nameless(integer)","d.returning(integer)","d.in_and_out(integer)","d.variable(integer[])","d.polymorphic(anyelement)","d.polymorphic(anycompatiblearray)","d.set(integer)","d.as_table(integer)","d.procedure(integer)","d.aggregate(integer)","pg_catalog.row_number()","pg_catalog.abs(integer)","d.missing(integer)","d.f"}'::text[]) AS p;
SELECT d.define('nothing', 'd.nothing()', NULL, NULL);
SELECT d.define('bad', NULL, '4294967295', NULL);
SELECT d.define('bad', '0', NULL, NULL);
SELECT d.define('bad', 'd.as_trigger()', NULL, NULL);
SELECT d.actions();
-- again: in its place, and in the transaction
BEGIN;
SELECT d.define('try', 'd.fewer(integer)', NULL, 'd.fewer(integer)');
SELECT d.define('try', 'd.fewer(integer)', NULL, NULL);
SELECT d.actions();
ROLLBACK;
SELECT d.define('try', NULL, 'd.h(integer,text)', NULL);
SELECT dtx_tcc_drop('cancel'), dtx_tcc_drop('nothing');
SELECT m.try($$SELECT dtx_tcc_drop('cancel')$$);
SELECT m.try($$SELECT dtx_tcc_drop('')$$);
SELECT dtx_tcc_drop(NULL) IS NULL;
SELECT d.actions();
SELECT dtx_tcc_drop('bad');
-- a default is none: every argument has to be given
SELECT m.try($$SELECT dtx_try(NULL, 'all', '{"a": 1}')$$);
SELECT m.try($$SELECT dtx_try(NULL, 'all', '{"a": 1, "b": null}')$$);
-- a function that is replaced keeps its place; one that was dropped is missed
CREATE OR REPLACE FUNCTION d.g(a integer, b text) RETURNS integer LANGUAGE sql AS 'SELECT 2';
SELECT m.try($$SELECT dtx_try(NULL, 'all', '{"a": 1, "b": "x"}')$$);
DROP FUNCTION d.g(integer, text);
SELECT m.try($$SELECT dtx_try(NULL, 'all', '{"a": 1, "b": "x"}')$$);
SELECT d.define('all', 'd.f(integer,text)', NULL, 'd.h(integer,text)');
SELECT m.try($$SELECT dtx_try(NULL, 'all', '{"a": 1, "b": "x"}')$$);
-- its arguments renamed meanwhile: told, when it is tried
DROP FUNCTION d.f(integer, text) CASCADE;
CREATE FUNCTION d.f(a integer, b text) RETURNS void LANGUAGE sql AS '';
SELECT m.try($$SELECT dtx_try(NULL, 'same', '{"a": 1, "b": "x"}')$$);

-- rights: EXECUTE on the functions, ownership of the action
DROP ROLE IF EXISTS dtx_m_plain;
DROP ROLE IF EXISTS dtx_m_other;
CREATE ROLE dtx_m_plain LOGIN;
CREATE ROLE dtx_m_other LOGIN;
CREATE FUNCTION d.guarded(a integer) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION d.guarded(integer) FROM PUBLIC;
SELECT m.connect('plain', 'a', 'dtx_m_plain'), m.connect('other', 'a', 'dtx_m_other');
SELECT m.run('plain', $$SELECT dtx_tcc_define('guarded', NULL, NULL, 'd.guarded(integer)')$$);
GRANT EXECUTE ON FUNCTION d.guarded(integer) TO dtx_m_plain;
SELECT m.run('plain', $$SELECT dtx_tcc_define('guarded', NULL, NULL, 'd.guarded(integer)')$$);
SELECT m.run('other', $$SELECT dtx_tcc_define('guarded', 'd.fewer(integer)', NULL, NULL)$$);
SELECT m.run('other', $$SELECT dtx_tcc_drop('guarded')$$);
SELECT m.run('plain', $$SELECT dtx_tcc_define('all', 'd.fewer(integer)', NULL, NULL)$$);
SELECT m.run('plain', $$SELECT dtx_tcc_drop('all')$$);
SELECT m.run('plain', 'SELECT * FROM dtx.tcc_action');
-- a member of the owner may, and then it is its own
GRANT dtx_m_plain TO dtx_m_other;
SELECT m.run('other', $$SELECT dtx_tcc_define('guarded', 'd.fewer(integer)', NULL, NULL)$$);
SELECT d.actions() LIKE 'guarded dtx_m_other%' AS owned ORDER BY 1 DESC LIMIT 1;
SELECT m.run('plain', $$SELECT dtx_tcc_drop('guarded')$$);
SELECT m.run('other', $$SELECT dtx_tcc_drop('guarded')$$);
SELECT m.bye('plain', 'other');
-- not in a branch
SELECT m.try($$SELECT dtx_exec('peer', 'DO ''BEGIN PERFORM dtx_tcc_drop($x$credit$x$); END''')$$);
SELECT m.at('b', 'SELECT action FROM dtx.tcc_action WHERE action = ''credit''');

-- clean up
SELECT dtx_tcc_drop(action) FROM dtx.tcc_action WHERE action NOT IN ('credit', 'debit') AND action NOT LIKE 'dtx.%' ORDER BY action;
DROP OWNED BY dtx_m_plain, dtx_m_other;
DROP ROLE dtx_m_plain, dtx_m_other;
DROP SCHEMA d CASCADE;
SELECT action FROM dtx.tcc_action WHERE action NOT LIKE 'dtx.%' ORDER BY action;
SELECT m.settled();
