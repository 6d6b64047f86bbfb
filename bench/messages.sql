/*
 * messages.sql: what the part "messages" needs in both databases.
 *
 * psql variables: pgq (1: PgQ is there).
 *
 * bank1 publishes, bank2 handles. The handler is the same for all; dtx knows by
 * itself which messages were handled, the others by a unique key.
 */
SET client_min_messages = warning;

CREATE TABLE handled (
    id         bigint NOT NULL,
    topic      text NOT NULL,
    key        text,
    payload    jsonb NOT NULL,
    handled_at timestamptz NOT NULL
);
CREATE FUNCTION handle(id bigint, topic text, key text, payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO handled VALUES (id, topic, key, payload, clock_timestamp());
END
$$;

CREATE TABLE received (id bigint PRIMARY KEY);
CREATE FUNCTION receive_batch(batch jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    handled bigint;
BEGIN
    WITH message AS (
        SELECT * FROM jsonb_to_recordset(batch) AS m(id bigint, topic text, key text, payload jsonb)
    ), fresh AS (
        INSERT INTO received SELECT m.id FROM message m ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT count(handle(o.id, o.topic, o.key, o.payload)) INTO handled
    FROM (SELECT m.* FROM message m JOIN fresh USING (id) ORDER BY m.id) o;
    RETURN handled;
END
$$;

CREATE TABLE outbox (
    id         bigserial PRIMARY KEY,
    topic      text NOT NULL,
    key        text,
    payload    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- A connection to the receiver, with the call prepared there.
CREATE PROCEDURE open_receiver(connection text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dblink_connect('receiver', connection);
    PERFORM dblink_exec('receiver', 'PREPARE receive (jsonb) AS SELECT receive_batch($1)');
END
$$;

/*
 * Both consumers end when they have sent as many messages as they were told. What
 * a commit here would lose in a crash is sent again, and known there: it need not
 * be waited for.
 */
CREATE PROCEDURE consume_outbox(connection text, batch_size int, messages bigint, idle float8) LANGUAGE plpgsql AS $$
DECLARE
    sent  bigint := 0;
    count bigint;
    batch json;
BEGIN
    SET synchronous_commit = off;
    CALL open_receiver(connection);
    WHILE sent < messages LOOP
        -- deleted once the batch is there: until the commit below the rows are ours only
        WITH taken AS (
            DELETE FROM outbox WHERE ctid = ANY (ARRAY(
                SELECT o.ctid FROM outbox o ORDER BY o.id LIMIT batch_size FOR UPDATE SKIP LOCKED))
            RETURNING id, topic, key, payload
        )
        SELECT json_agg(t), count(*) INTO batch, count FROM taken t;
        IF count > 0 THEN
            PERFORM FROM dblink('receiver', format('EXECUTE receive (%L)', batch)) AS r(handled bigint);
            sent := sent + count;
            COMMIT;
        ELSE
            COMMIT;
            PERFORM pg_sleep(idle);
        END IF;
    END LOOP;
    PERFORM dblink_disconnect('receiver');
END
$$;

\if :pgq
CREATE EXTENSION pgq;
SELECT pgq.create_queue('bench');

CREATE PROCEDURE consume_pgq(connection text, batch_size int, messages bigint, idle float8) LANGUAGE plpgsql AS $$
DECLARE
    sent     bigint := 0;
    count    bigint;
    batch    json;
    batch_id bigint;
BEGIN
    SET synchronous_commit = off;
    CALL open_receiver(connection);
    WHILE sent < messages LOOP
        batch_id := pgq.next_batch('bench', 'bench');
        IF batch_id IS NULL THEN
            COMMIT;
            PERFORM pg_sleep(idle);
            CONTINUE;
        END IF;
        -- as pgq.get_batch_events does, without taking the rows through PL/pgSQL
        EXECUTE format('SELECT json_agg(t), count(*) FROM (SELECT ev_id AS id, ev_type AS topic, ev_extra1 AS key, ev_data::json AS payload FROM (%s) e) t',
                       pgq.batch_event_sql(batch_id)) INTO batch, count;
        IF count > 0 THEN
            PERFORM FROM dblink('receiver', format('EXECUTE receive (%L)', batch)) AS r(handled bigint);
            sent := sent + count;
        END IF;
        PERFORM pgq.finish_batch(batch_id);
        COMMIT;
    END LOOP;
    PERFORM dblink_disconnect('receiver');
END
$$;
\endif

VACUUM (FREEZE, ANALYZE);
