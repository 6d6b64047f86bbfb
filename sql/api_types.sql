--
-- Results are of types that every driver and program reads: no name, regclass, "char" or
-- interval, which some turn into an error.
--
\pset format unaligned
\pset tuples_only on
CREATE TEMP TABLE readable AS SELECT t FROM unnest('{boolean,integer,bigint,numeric,double precision,text,jsonb,timestamptz,text[],bigint[]}'::regtype[]) t;
-- columns of the views
SELECT c.relname, a.attname, a.atttypid::regtype FROM pg_class c
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx')
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
  WHERE c.relkind = 'v' AND a.atttypid NOT IN (SELECT t FROM readable) ORDER BY 1, 2;
SELECT count(*) > 10 FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx') WHERE c.relkind = 'v';
-- results of the functions: what a query's columns are the query says; void there is nothing to read
WITH f AS (SELECT p.* FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx')
           WHERE p.pronamespace <> 'dtx'::regnamespace)
SELECT f.oid::regprocedure, r.t::regtype FROM f CROSS JOIN LATERAL (
    SELECT f.prorettype AS t WHERE f.proargmodes IS NULL OR NOT f.proargmodes && '{o,b,t}'::"char"[]
    UNION ALL SELECT a.t FROM unnest(f.proallargtypes, f.proargmodes) AS a(t, mode) WHERE a.mode IN ('o', 'b', 't')) r
  WHERE r.t NOT IN (SELECT t FROM readable) AND r.t <> 'void'::regtype AND f.proname <> 'dtx_query' ORDER BY 1;
-- a name is what the catalog has, a table is written as SQL has it
\c dtx_regression_peer
\pset format unaligned
\pset tuples_only on
CREATE SCHEMA "Odd one";
CREATE TABLE "Odd one"."a.b" (id integer PRIMARY KEY);
INSERT INTO "Odd one"."a.b" VALUES (1);
SELECT dtx_attach('"Odd one"."a.b"');
\c dtx_regression
\pset format unaligned
\pset tuples_only on
BEGIN;
SELECT dtx_exec('peer', 'UPDATE "Odd one"."a.b" SET id = 2');
SELECT * FROM dblink(api.dsn('dtx_regression_peer'), 'SELECT DISTINCT relation, relation::regclass = ''"Odd one"."a.b"''::regclass, role = current_user FROM dtx_locks') AS l(relation text, same boolean, mine boolean);
SELECT * FROM dblink(api.dsn('dtx_regression_peer'), 'SELECT DISTINCT relation, relation::regclass = ''"Odd one"."a.b"''::regclass FROM dtx_undo') AS l(relation text, same boolean);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
SET client_min_messages = warning;
DROP SCHEMA "Odd one" CASCADE;
