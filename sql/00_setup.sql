--
-- What the other files stand on: this database coordinates, and
-- dtx_regression_peer, behind the server "peer", takes part.
--
CREATE EXTENSION dtx;
CREATE EXTENSION dblink;
SET client_min_messages = warning;
DROP DATABASE IF EXISTS dtx_regression_peer WITH (FORCE);
RESET client_min_messages;
CREATE DATABASE dtx_regression_peer TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
-- as pg_regress does for this one
ALTER DATABASE dtx_regression_peer SET lc_messages = 'C';
ALTER DATABASE dtx_regression_peer SET lc_monetary = 'C';
ALTER DATABASE dtx_regression_peer SET timezone = 'UTC';
ALTER DATABASE dtx_regression_peer SET datestyle = 'ISO, YMD';

-- where this server listens
SELECT coalesce(nullif(trim(split_part(current_setting('unix_socket_directories'), ',', 1)), ''),
                'localhost') AS host,
       current_setting('port') AS port \gset
CREATE SERVER peer FOREIGN DATA WRAPPER dtx_fdw
    OPTIONS (host :'host', port :'port', dbname 'dtx_regression_peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER peer OPTIONS (user :'USER');

CREATE SCHEMA test;
COMMENT ON SCHEMA test IS 'what the tests call; no part of the extension';

CREATE FUNCTION test.conninfo(database name) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT string_agg(format('%s=''%s''', option, replace(replace(value, '\', '\\'), '''', '\''')), ' ')
    FROM (SELECT * FROM pg_options_to_table((SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'peer'))
              AS o(option, value) WHERE option IN ('host', 'port')
          UNION ALL VALUES ('dbname', database::text), ('user', current_user::text)) AS o(option, value)
$$;

-- Ids differ from run to run.
CREATE FUNCTION test.masked(message text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(message, '\w+\.[0-9a-f]{8}:\d+\.[0-9a-f]{16}', 'XID', 'g')
$$;

-- Runs a statement at the peer as any client would: no branch. Returns its one column, or its tag.
CREATE FUNCTION test.at_peer(sql text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dblink_connect('at_peer', test.conninfo('dtx_regression_peer'));
    IF sql ~* '^\s*(select|table|with)\y' THEN
        RETURN QUERY SELECT r.line FROM dblink('at_peer', sql) AS r(line text);
    ELSE
        RETURN NEXT dblink_exec('at_peer', sql);
    END IF;
    PERFORM dblink_disconnect('at_peer');
EXCEPTION WHEN OTHERS THEN
    IF 'at_peer' = ANY (dblink_get_connections()) THEN
        PERFORM dblink_disconnect('at_peer');
    END IF;
    RETURN NEXT format('ERROR %s: %s', SQLSTATE, test.masked(SQLERRM));
END
$$;

-- Runs a statement as a branch in a subtransaction, and returns the error that it ends with.
CREATE FUNCTION test.branch_error(sql text, server name DEFAULT 'peer') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    state   text;
    message text;
    detail  text;
    hint    text;
BEGIN
    PERFORM dtx_exec(server, sql);
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN test.masked(concat_ws(E'\n', 'ERROR ' || state || ': ' || message,
                                 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, '')));
END
$$;

-- Waits for the end of a global transaction, and says whether the tables at the peer are
-- exactly what test.keep saw there, and nothing is left in doubt.
CREATE FUNCTION test.undone(xid text, VARIADIC tables text[]) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEXT dtx_wait(xid, '3min');
    RETURN QUERY SELECT test.at_peer(format('SELECT test.differences(VARIADIC %L::text[])', tables));
END
$$;

-- Holds a branch in doubt: runs statements as branches of one transaction in a session of its own.
CREATE FUNCTION test.hold(VARIADIC statements text[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    statement text;
    n         bigint;
    rows      bigint[];
BEGIN
    IF NOT coalesce('holder' = ANY (dblink_get_connections()), false) THEN
        PERFORM dblink_connect('holder', test.conninfo(current_database()));
        PERFORM dblink_exec('holder', 'BEGIN');
    END IF;
    FOREACH statement IN ARRAY statements LOOP
        SELECT r.n INTO n FROM dblink('holder', format('SELECT dtx_exec(''peer'', %L)', statement)) AS r(n bigint);
        rows := rows || n;
    END LOOP;
    RETURN rows;
EXCEPTION WHEN OTHERS THEN
    PERFORM dblink_disconnect('holder');
    RAISE;
END
$$;

-- Ends that transaction; returns its xid.
CREATE FUNCTION test.let_go(command text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    xid text;
BEGIN
    SELECT r.xid INTO xid FROM dblink('holder', 'SELECT dtx_xid()') AS r(xid text);
    PERFORM dblink_exec('holder', command);
    PERFORM dblink_disconnect('holder');
    RETURN xid;
END
$$;

-- Waits until a rollback has run into a conflict at the peer, and returns what is shown there.
CREATE FUNCTION test.conflict(xid text, what text DEFAULT 'conflict') RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    started  timestamptz := clock_timestamp();
    status   text;
    conflict text;
BEGIN
    LOOP
        status := dtx_wait(xid, '20ms');
        SELECT test.at_peer(format('SELECT max(%I) FROM dtx_branches WHERE xid = %L AND side = ''participant''', what, xid))
            INTO conflict;
        EXIT WHEN conflict IS NOT NULL OR status = 'rolled back'
            OR clock_timestamp() > started + interval '30s';
    END LOOP;
    RETURN NEXT status;
    RETURN NEXT test.masked(conflict);
END
$$;

\c dtx_regression_peer
CREATE EXTENSION dtx;
CREATE SCHEMA test;
CREATE SCHEMA kept;

-- Keeps a copy of a table, to compare with.
CREATE FUNCTION test.keep(VARIADIC tables text[]) RETURNS void
LANGUAGE plpgsql SET client_min_messages = warning AS $$
DECLARE
    rel regclass;
BEGIN
    FOREACH rel IN ARRAY tables LOOP
        EXECUTE format('DROP TABLE IF EXISTS kept.%I', rel::oid);
        EXECUTE format('CREATE TABLE kept.%I AS SELECT t.tableoid::regclass AS "kept leaf", t.* FROM %s t', rel::oid, rel);
    END LOOP;
END
$$;

-- Are tables what they were, to the byte, and is nothing in doubt?
CREATE FUNCTION test.differences(VARIADIC tables text[]) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    rel regclass;
    n   bigint;
BEGIN
    FOREACH rel IN ARRAY tables LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %1$L || '': '' || CASE WHEN k.i IS NULL THEN ''has '' || left(t.r::text, 80)'
            '        WHEN t.i IS NULL THEN ''lacks '' || left(k.r::text, 80)'
            '        ELSE ''has '' || left(t.r::text, 80) || '' for '' || left(k.r::text, 80) END'
            ' FROM (SELECT r, row_number() OVER (ORDER BY md5(r::text)) AS i'
            '       FROM (SELECT ROW(t.tableoid::regclass, t.*) AS r FROM %1$s t) AS t) AS t'
            ' FULL JOIN'
            '      (SELECT r, row_number() OVER (ORDER BY md5(r::text)) AS i'
            '       FROM (SELECT ROW(k.*) AS r FROM kept.%2$I k) AS k) AS k USING (i)'
            ' WHERE t.i IS NULL OR k.i IS NULL OR t.r *<> k.r',
            rel, rel::oid);
        GET DIAGNOSTICS n = ROW_COUNT;
        IF n = 0 THEN
            RETURN NEXT format('%s: as before', rel);
        END IF;
    END LOOP;
    RETURN QUERY SELECT format('%s entries in dtx.undo_log', count(*)) FROM dtx.undo_log HAVING count(*) > 0;
    RETURN QUERY SELECT format('%s branches in doubt', count(*)) FROM dtx.joined_branch WHERE state = 'd' HAVING count(*) > 0;
END
$$;

\c dtx_regression
-- there, and a node of its own
SELECT node LIKE 'dtx_regression_peer.%' AS answers FROM dtx_ping('peer');
