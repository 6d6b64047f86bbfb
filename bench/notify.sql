/*
 * notify.sql: what the part "notify" needs in bank1, beside messages.sql.
 *
 * psql variables: port and hanging_port, of the endpoints that answer and of those
 * that never do; alive and hanging, how many there are of each.
 */
SET client_min_messages = warning;

SELECT format('CREATE SERVER %s FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url %L, allow_private ''true'')', name, url)
FROM (SELECT 'alive' || i, format('http://127.0.0.%s:%s/', i, :'port') FROM generate_series(1, :alive) i) e (name, url)
\gexec
-- a request that hangs is given up, counted, and made again, all the time
SELECT format('CREATE SERVER hanging%s FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url %L, allow_private ''true'', timeout ''1s'')',
              i, format('http://127.0.0.1:%s/%s', :'hanging_port', i))
FROM generate_series(1, :hanging) i
\gexec
SELECT format('CREATE USER MAPPING FOR CURRENT_USER SERVER %s OPTIONS (secret ''whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'')', srvname)
FROM pg_foreign_server WHERE srvname ~ '^(alive|hanging)'
\gexec

-- So many notifications to each of these servers.
CREATE FUNCTION notify_all(servers name[], each int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(dtx_notify(s, 'bench.' || g, jsonb_build_object('order', g, 'state', 'paid', 'amount', g % 1000), array_fill('1s'::interval, ARRAY[100])))
    FROM generate_series(1, each) g, unnest(servers) s
$$;

-- Wait until so many notifications were delivered in all, and their record is committed.
CREATE PROCEDURE wait_delivered(wanted bigint, servers name[]) LANGUAGE plpgsql AS $$
BEGIN
    WHILE (SELECT value FROM dtx_stats WHERE name = 'notifications_delivered') < wanted
        OR EXISTS (SELECT FROM dtx.notification n JOIN pg_foreign_server s ON s.oid = n.server
                   WHERE n.next_attempt IS NOT NULL AND s.srvname = ANY (servers)) LOOP
        COMMIT;
        PERFORM pg_sleep(0.02);
        IF clock_timestamp() > statement_timestamp() + interval '10min' THEN RAISE 'notifications are not delivered'; END IF;
    END LOOP;
END
$$;

-- Transfers to bank2, one after the other; how long each takes from its commit until it is settled.
CREATE TABLE settling (ms float8 NOT NULL);
CREATE PROCEDURE settle_transfers(length interval, pause interval) LANGUAGE plpgsql AS $$
DECLARE
    until     timestamptz := clock_timestamp() + length;
    account   text;
    xid       text;
    committed timestamptz;
BEGIN
    WHILE clock_timestamp() < until LOOP
        account := 1 + floor(random() * 10000)::int;
        UPDATE account_info SET account_balance = account_balance - 1 WHERE account_no = account;
        PERFORM dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance + 1 WHERE account_no = $1', account);
        xid := dtx_xid();
        COMMIT;
        committed := clock_timestamp();
        IF dtx_wait(xid) <> 'committed' THEN RAISE 'transfer % is not settled', xid; END IF;
        INSERT INTO settling VALUES (extract(epoch FROM clock_timestamp() - committed) * 1000);
        COMMIT;
        PERFORM pg_sleep(extract(epoch FROM pause));
    END LOOP;
END
$$;

VACUUM (FREEZE, ANALYZE);
