/*
 * capture.sql: tables to measure capture alone, beside setup.sql.
 *
 * psql variables: rows (of the tables that single rows are changed in).
 *
 * Every variant has a table of its own, so that all of them age alike.
 */
SET client_min_messages = warning;
CREATE TABLE row_plain (
    id      bigint PRIMARY KEY,
    name    text NOT NULL,
    balance numeric NOT NULL
) WITH (fillfactor = 90);
INSERT INTO row_plain SELECT i, 'Account holder ' || i, 10000 FROM generate_series(1, :rows) i;
CREATE TABLE row_attached (LIKE row_plain INCLUDING ALL) WITH (fillfactor = 90);
INSERT INTO row_attached SELECT * FROM row_plain;
CREATE TABLE row_noop (LIKE row_plain INCLUDING ALL) WITH (fillfactor = 90);
INSERT INTO row_noop SELECT * FROM row_plain;
CREATE TABLE row_branch (LIKE row_plain INCLUDING ALL) WITH (fillfactor = 90);
INSERT INTO row_branch SELECT * FROM row_plain;
SELECT dtx_attach('row_attached');
SELECT dtx_attach('row_branch');

CREATE TABLE bulk_plain (
    id      bigint PRIMARY KEY,
    name    text NOT NULL,
    balance numeric NOT NULL
);
INSERT INTO bulk_plain SELECT i, 'Account holder ' || i, 10000 FROM generate_series(1, 100000) i;
CREATE TABLE bulk_attached (LIKE bulk_plain INCLUDING ALL);
INSERT INTO bulk_attached SELECT * FROM bulk_plain;
CREATE TABLE bulk_branch (LIKE bulk_plain INCLUDING ALL);
INSERT INTO bulk_branch SELECT * FROM bulk_plain;
CREATE TABLE bulk_jsonb (LIKE bulk_plain INCLUDING ALL);
INSERT INTO bulk_jsonb SELECT * FROM bulk_plain;
SELECT dtx_attach('bulk_attached');
SELECT dtx_attach('bulk_branch');

-- What one would write by hand: the images as jsonb.
CREATE TABLE jsonb_log (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    op       text NOT NULL,
    before   jsonb,
    after    jsonb
);
CREATE FUNCTION jsonb_capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jsonb_log (relation, op, before, after)
    VALUES (TG_RELID, TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END
$$;
CREATE TRIGGER jsonb_capture AFTER UPDATE ON bulk_jsonb FOR EACH ROW EXECUTE FUNCTION jsonb_capture();

-- Settle the branches that the bench made up, with commit: many in one call, as a worker does.
CREATE PROCEDURE settle_made_up_branches() LANGUAGE plpgsql AS $$
DECLARE
    gids    text[];
    unlike  text;
BEGIN
    LOOP
        SELECT array_agg(gid) INTO gids
        FROM (SELECT gid FROM dtx.joined_branch WHERE gid LIKE 'bench.00000000:%' LIMIT 500) batch;
        EXIT WHEN gids IS NULL;
        SELECT outcome || coalesce(': ' || detail, '') INTO unlike
        FROM dtx.branch_settle(ARRAY['bench.00000000'], 1, 0, gids, array_fill(true, ARRAY[cardinality(gids)]),
                               repeat('a', cardinality(gids)), '{}')
        WHERE outcome <> 'settled' AND written IS NULL LIMIT 1;
        IF unlike IS NOT NULL THEN
            RAISE 'a branch was not settled: %', unlike;
        END IF;
        COMMIT;
    END LOOP;
END
$$;

VACUUM (FREEZE, ANALYZE);
