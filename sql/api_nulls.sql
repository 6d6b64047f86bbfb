--
-- NULL is a value that the caller has lost: every public function says so (22004), for each of
-- its arguments, unless NULL means something there: those are listed, with what it means. The
-- functions are the catalog's: a new one has to do the same, or stand here.
--
\pset format unaligned
\pset tuples_only on
SET client_min_messages = error;
CREATE TABLE api.null_means (function text, argument text, what text);
COPY api.null_means FROM stdin (DELIMITER '|');
dtx_accept|handler|that of dtx_on_notification
dtx_accept|sender|anybody's
dtx_ack|ids|none, as array_agg has it
dtx_begin|timeout|none
dtx_discard|ids|none
dtx_discard|subscription|any
dtx_expect|schedule|the usual one
dtx_message_prepare|check|there is none
dtx_message_prepare|headers|none
dtx_message_prepare|key|none
dtx_nack|ids|none
dtx_node_reset|name|the database's
dtx_notify|schedule|the usual one
dtx_notify|server|it is registered only
dtx_on_notification|handler|no more
dtx_on_notification|role|any
dtx_on_notification|sender|any other
dtx_open|joiners|nobody else
dtx_open|name|none
dtx_peer|admit|nobody
dtx_peer|role|the caller
dtx_publish|deliver_at|at once
dtx_publish|headers|none
dtx_publish|key|none
dtx_redeliver|error|any
dtx_redeliver|since|any
dtx_redeliver|ids|none
dtx_redeliver(bigint[],text)|subscription|any
dtx_redeliver|topic|any
dtx_subscribe|batch_size|the usual one
dtx_subscribe|handler|messages are fetched
dtx_subscribe|max_attempts|the usual number
dtx_subscribe|name|it is made up
dtx_subscribe|schedule|the usual one
dtx_subscribe|server|this database
dtx_target_disable|role|the caller
dtx_target_enable|role|the caller
dtx_tcc_define|cancel|nothing to do
dtx_tcc_define|confirm|nothing to do
dtx_tcc_define|try|nothing to do
dtx_transfer|server|this database
dtx_try|server|this database
\.
-- a value of each type, for the other arguments
CREATE FUNCTION api.value_of(type regtype) RETURNS text LANGUAGE sql AS $$
  SELECT format('%L::%s', CASE type::text
    WHEN 'interval' THEN '1 s' WHEN 'interval[]' THEN '{1 s}' WHEN 'bigint[]' THEN '{1}' WHEN 'text[]' THEN '{}' WHEN 'regrole[]' THEN '{}' WHEN 'jsonb' THEN '{}'
    WHEN 'regclass' THEN 'pg_class' WHEN 'regrole' THEN current_user WHEN 'regnamespace' THEN 'api' WHEN 'regprocedure' THEN 'now()'
    WHEN 'timestamp with time zone' THEN 'now' WHEN 'bigint' THEN '1' WHEN 'integer' THEN '1' WHEN 'numeric' THEN '1' WHEN 'boolean' THEN 't' ELSE 'x' END, type) $$;
-- what a call says, which is undone
CREATE FUNCTION api.said(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE call;
  RAISE EXCEPTION USING ERRCODE = 'P0ALL';
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE;
END $$;
CREATE TABLE api.null_call AS
  SELECT p.proname, p.oid::regprocedure::text AS function, a.name AS argument,
         format('SELECT * FROM %s(%s)%s', p.proname,
                (SELECT string_agg(CASE WHEN i = a.i THEN 'NULL::' || t::regtype ELSE api.value_of(t) END, ', ' ORDER BY i) FROM unnest(p.proargtypes) WITH ORDINALITY AS u(t, i)
                 WHERE t <> '"any"'::regtype),
                CASE WHEN p.prorettype = 'record'::regtype AND ('o' = ANY (p.proargmodes)) IS NOT TRUE THEN ' AS t(a integer)' ELSE '' END) AS call
  FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
  CROSS JOIN LATERAL (SELECT i, p.proargnames[i] AS name FROM unnest(p.proargtypes) WITH ORDINALITY AS u(t, i) WHERE t <> '"any"'::regtype) a
  WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx')
    AND p.proname LIKE 'dtx\_%' AND p.prokind = 'f';
SELECT count(*) > 80 FROM api.null_call;
-- those that say something else
SELECT function, argument, api.said(call) FROM api.null_call c
WHERE NOT EXISTS (SELECT FROM api.null_means m WHERE m.function IN (c.proname, c.function) AND m.argument = c.argument) AND api.said(call) <> '22004' ORDER BY 1, 2;
-- what is listed, and does mind
SELECT function, argument, api.said(call) FROM api.null_call c
WHERE EXISTS (SELECT FROM api.null_means m WHERE m.function IN (c.proname, c.function) AND m.argument = c.argument) AND api.said(call) = '22004' ORDER BY 1, 2;
-- what is listed, and is not there
SELECT function, argument FROM api.null_means m WHERE NOT EXISTS (SELECT FROM api.null_call c WHERE m.function IN (c.proname, c.function) AND m.argument = c.argument);
-- none is strict
SELECT p.oid::regprocedure FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx')
  AND p.proname LIKE 'dtx\_%' AND p.proisstrict AND p.pronargs > 0;
-- as an application sees it
SELECT dtx_commit(NULL);
SELECT dtx_ack(NULL, '{1}');
SELECT dtx_admit(NULL);
DROP TABLE api.null_means, api.null_call;
DROP FUNCTION api.value_of(regtype), api.said(text);
