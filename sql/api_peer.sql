--
-- dtx_peer: a server, its user mapping and an admission in one call.
--
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP ROLE IF EXISTS dtx_peer_plain;
DROP ROLE IF EXISTS dtx_peer_other;
CREATE ROLE dtx_peer_plain LOGIN;
CREATE ROLE dtx_peer_other LOGIN;
-- A statement's error as an application sees it.
CREATE FUNCTION api.told(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text; state text; message text; detail text; hint text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN 'ok: ' || coalesce(answer, 'NULL');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', state || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''));
END $$;
CREATE FUNCTION api.made(name text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', w.fdwname, s.srvowner::regrole = current_user::regrole, array(SELECT o FROM unnest(s.srvoptions) o WHERE o !~ '^(host|port)=' ORDER BY 1), u.usename,
                     array(SELECT o FROM unnest(m.umoptions) o ORDER BY 1))
    FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw LEFT JOIN pg_user_mapping m ON m.umserver = s.oid LEFT JOIN pg_user u ON u.usesysid = m.umuser
    WHERE s.srvname = name ORDER BY u.usename $$;

GRANT USAGE ON SCHEMA api TO dtx_peer_plain;

-- one call, and it works
SELECT format('host=%s port=%s dbname=dtx_regression_peer user=%s', :'HOST', :'PORT', :'USER') AS conninfo \gset
SELECT dtx_peer('made', :'conninfo');
SELECT node LIKE 'dtx\_regression\_peer.%' FROM dtx_ping('made');
BEGIN;
SELECT dtx_exec('made', 'UPDATE api.account SET balance = balance WHERE no = 1');
ROLLBACK;
CALL api.settle();
-- again: nothing to do
SELECT dtx_peer('made', :'conninfo');
SELECT dtx_peer('made', :'conninfo', current_user::regrole);
-- what differs is said, secrets are not
SELECT api.told(format('SELECT dtx_peer(''made'', %L)', replace(:'conninfo', 'dbname=dtx_regression_peer', 'dbname=other connect_timeout=3')));
SELECT api.told(format('SELECT dtx_peer(''made'', %L)', replace(:'conninfo', 'user=', 'password=secret user=')));
ALTER USER MAPPING FOR CURRENT_USER SERVER made OPTIONS (ADD password 'hush');
SELECT api.told(format('SELECT dtx_peer(''made'', %L)', replace(:'conninfo', 'user=', 'password=secret user=')));
SELECT dtx_peer('made', replace(:'conninfo', 'user=', 'password=hush user='));
DROP SERVER made CASCADE;

-- a URI; the secrets go to the mapping, which is the role's; the user is called as the role unless it says so
SELECT dtx_peer('made', 'postgresql://:pw%20d@db.example:5433/bank2?sslmode=prefer', 'dtx_peer_plain', 'dtx_peer_other');
SELECT api.made('made');
SELECT has_server_privilege('dtx_peer_plain', 'made', 'USAGE'), has_server_privilege('dtx_peer_other', 'made', 'USAGE'),
    has_function_privilege('dtx_peer_other', 'dtx.branch_vote(text[])', 'EXECUTE'), has_function_privilege('dtx_peer_plain', 'dtx.branch_vote(text[])', 'EXECUTE');
-- another role's
SELECT dtx_peer('made', 'postgresql://teller:x@db.example:5433/bank2?sslmode=prefer', 'dtx_peer_other');
SELECT api.made('made');
SELECT dtx_peer('made', 'postgresql://teller:x@db.example:5433/bank2?sslmode=prefer', 'dtx_peer_other');
-- what is none
SELECT api.told($$SELECT dtx_peer('made', 'dbname=x password=y bogus=z')$$) LIKE '22023: invalid connection string%';
SELECT api.told($$SELECT dtx_peer('made', 'host=x')$$);
SELECT api.told($$SELECT dtx_peer('made', '')$$) LIKE '22023%';
SELECT api.told($$SELECT dtx_peer('more', 'dbname=x replication=true')$$) LIKE 'HV00D%';
SELECT api.told($$SELECT dtx_peer(NULL, 'dbname=x')$$);
SELECT api.told($$SELECT dtx_peer('more', NULL)$$);
SELECT api.told($$SELECT dtx_peer('more', 'dbname=x', 'nobody_here')$$) LIKE '42704%';
SELECT api.told($$SELECT dtx_peer('more', 'dbname=x', 4711)$$) LIKE '42704%';
CREATE SERVER web FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'https://example.com');
SELECT api.told($$SELECT dtx_peer('web', 'dbname=x')$$);
DROP SERVER web;
SELECT count(*) FROM pg_foreign_server WHERE srvname = 'more';
BEGIN READ ONLY;
SELECT api.told($$SELECT dtx_peer('more', 'dbname=x')$$);
ROLLBACK;

-- no more than the caller may
SET ROLE dtx_peer_plain;
SELECT dtx_peer('made', 'postgresql://:pw%20d@db.example:5433/bank2?sslmode=prefer');
SELECT api.told($$SELECT dtx_peer('more', 'dbname=x')$$) LIKE '42501%';
SELECT api.told($$SELECT dtx_peer('made', 'postgresql://teller:x@db.example:5433/bank2?sslmode=prefer', 'dtx_peer_other')$$) LIKE '42501%';
SELECT api.told($$SELECT dtx_peer('made', 'postgresql://teller:y@db.example:5433/bank2?sslmode=prefer', 'dtx_peer_other')$$) LIKE '42501%';
SELECT api.told($$SELECT dtx_peer('made', 'postgresql://:pw%20d@db.example:5433/bank2?sslmode=prefer', NULL, 'dtx_peer_plain')$$) LIKE '42501%';
RESET ROLE;
-- her own mapping, with a password that she was not told: not without the server's usage
REVOKE USAGE ON FOREIGN SERVER made FROM dtx_peer_plain;
SET ROLE dtx_peer_plain;
SELECT api.told($$SELECT dtx_peer('made', 'postgresql://:guess@db.example:5433/bank2?sslmode=prefer')$$);
RESET ROLE;
GRANT USAGE ON FOREIGN DATA WRAPPER dtx_fdw TO dtx_peer_plain;
GRANT CREATE ON DATABASE dtx_regression TO dtx_peer_plain;
SET ROLE dtx_peer_plain;
SELECT dtx_peer('hers', 'dbname=x password=y');
SELECT api.told($$SELECT dtx_peer('hers', 'dbname=x password=y passfile=/etc/passwd')$$);
SELECT api.told($$SELECT dtx_peer('hers2', 'dbname=x password=y passfile=/etc/passwd')$$);
SELECT dtx_peer('hers', 'dbname=x password=y', 'dtx_peer_other');
RESET ROLE;
SELECT api.made('hers');
-- objects in the way
CREATE SCHEMA trap;
CREATE FUNCTION trap.dtx_admit(regrole) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
SET search_path = trap, public;
SELECT dtx_peer('hers', 'dbname=x password=y', 'dtx_peer_plain', 'dtx_peer_plain');
RESET search_path;
DROP SCHEMA trap CASCADE;

DROP SERVER made CASCADE;
DROP SERVER hers CASCADE;
DROP FUNCTION api.told(text), api.made(text);
DROP OWNED BY dtx_peer_plain, dtx_peer_other;
DROP ROLE dtx_peer_plain, dtx_peer_other;
