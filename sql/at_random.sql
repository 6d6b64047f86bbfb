--
-- AT: random changes, with savepoints, committed or rolled back. The same is
-- done to the same tables here, without dtx: PostgreSQL itself is the model.
--
CREATE SCHEMA storm;
CREATE FUNCTION storm.script() RETURNS text LANGUAGE sql IMMUTABLE AS $script$ VALUES ($sql$
    CREATE TABLE storm.node (
        id      integer PRIMARY KEY,
        code    text UNIQUE,
        rank    integer UNIQUE DEFERRABLE INITIALLY DEFERRED,
        parent  integer REFERENCES storm.node ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE,
        v       numeric CHECK (v < 1000),
        twice   numeric GENERATED ALWAYS AS (v * 2) STORED,
        payload text
    );
    CREATE TABLE storm.leaf (
        a    integer,
        b    text COLLATE "C",
        node integer REFERENCES storm.node ON DELETE SET NULL ON UPDATE CASCADE,
        v    integer,
        PRIMARY KEY (b, a)
    );
    CREATE TABLE storm.region (id integer, area integer, v integer, note text, PRIMARY KEY (id, area)) PARTITION BY LIST (area);
    CREATE TABLE storm.region_1 PARTITION OF storm.region FOR VALUES IN (1);
    CREATE TABLE storm.region_2 (note text, gone integer, v integer, area integer NOT NULL, id integer NOT NULL);
    ALTER TABLE storm.region_2 DROP gone;
    ALTER TABLE storm.region ATTACH PARTITION storm.region_2 FOR VALUES IN (2);
    CREATE TABLE storm.region_rest PARTITION OF storm.region DEFAULT;
    CREATE TABLE storm.total (what text PRIMARY KEY, n integer NOT NULL);
    INSERT INTO storm.total VALUES ('node', 0), ('leaf', 0), ('region', 0);
    CREATE FUNCTION storm.count() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE storm.total SET n = n + CASE TG_OP WHEN 'INSERT' THEN 1 WHEN 'DELETE' THEN -1 ELSE 0 END WHERE what = TG_ARGV[0];
        IF TG_OP = 'UPDATE' AND TG_ARGV[0] = 'leaf' AND pg_trigger_depth() < 3 THEN
            UPDATE storm.leaf SET v = v + 1 WHERE a = NEW.a + 1 AND b = NEW.b;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER a_count AFTER INSERT OR UPDATE OR DELETE ON storm.node FOR EACH ROW EXECUTE FUNCTION storm.count('node');
    CREATE TRIGGER z_count AFTER INSERT OR UPDATE OR DELETE ON storm.leaf FOR EACH ROW EXECUTE FUNCTION storm.count('leaf');
    CREATE TRIGGER a_count AFTER INSERT OR UPDATE OR DELETE ON storm.region FOR EACH ROW EXECUTE FUNCTION storm.count('region');
    CREATE FUNCTION storm.rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.payload := coalesce(NEW.payload, '') || '.';
        RETURN NEW;
    END $$;
    CREATE TRIGGER rewrite BEFORE INSERT OR UPDATE ON storm.node FOR EACH ROW WHEN (NEW.v > 100) EXECUTE FUNCTION storm.rewrite();
    INSERT INTO storm.node (id, code, rank, parent, v) SELECT i, 'c' || i, i, nullif(i / 3, 0), i FROM generate_series(1, 20) AS i;
    INSERT INTO storm.leaf SELECT i % 5, chr(97 + i / 5), i, i FROM generate_series(1, 20) AS i;
    INSERT INTO storm.region SELECT i, 1 + i % 3, i FROM generate_series(1, 20) AS i;
$sql$) $script$;
-- what the tables hold
CREATE FUNCTION storm.fingerprint_script() RETURNS text LANGUAGE sql IMMUTABLE AS $script$ VALUES ($sql$
    SELECT string_agg(format('%s %s %s', what, n, h), '; ' ORDER BY what) FROM (
        SELECT 'leaf' AS what, count(*) AS n, md5(string_agg(t::text, ',' ORDER BY t::text COLLATE "C")) AS h FROM storm.leaf t
        UNION ALL SELECT 'node', count(*), md5(string_agg(t::text, ',' ORDER BY t::text COLLATE "C")) FROM storm.node t
        UNION ALL SELECT 'region', count(*), md5(string_agg(t.tableoid::regclass || t::text, ',' ORDER BY t.tableoid::regclass || t::text COLLATE "C")) FROM storm.region t
        UNION ALL SELECT 'total', count(*), md5(string_agg(t::text, ',' ORDER BY t::text COLLATE "C")) FROM storm.total t) AS q
$sql$) $script$;
DO $$ BEGIN EXECUTE storm.script(); END $$;
SELECT test.at_peer('CREATE SCHEMA storm');
SELECT count(*) > 0 AS made FROM test.at_peer(storm.script());
SET client_min_messages = error;
SELECT count(*) AS attached FROM unnest('{storm.node,storm.leaf,storm.region,storm.total}'::text[]) AS t, test.at_peer(format('SELECT dtx_attach(%L)', t)) AS d WHERE d = '';
RESET client_min_messages;

-- some number from 1 to n
CREATE FUNCTION storm.any(n integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 1 + floor(random() * n)::integer';
CREATE FUNCTION storm.change() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT replace(replace(replace(replace(replace((ARRAY[
        'UPDATE storm.node SET v = v + %2 WHERE id BETWEEN %1 AND %3',
        'UPDATE storm.node SET payload = repeat(md5(id::text), %2 * 100) WHERE id = %1',
        'UPDATE storm.node SET id = %3 WHERE id = %1',
        'UPDATE storm.node SET rank = 60 - rank WHERE rank BETWEEN %1 AND 60 - %1',
        'UPDATE storm.node SET code = ''d'' || %3, parent = %2 WHERE id = %1',
        'UPDATE storm.node SET parent = NULL WHERE parent = %1',
        'INSERT INTO storm.node (id, code, rank, v) SELECT i, ''n'' || i, 100 + i, i FROM generate_series(%3, %3 + %4) AS i ON CONFLICT (id) DO NOTHING',
        'INSERT INTO storm.node (id, code, rank, v) VALUES (%1, ''u%1'', 200 + %1, %2) ON CONFLICT (id) DO UPDATE SET v = excluded.v + storm.node.v',
        'DELETE FROM storm.node WHERE id = %1',
        'DELETE FROM storm.node WHERE v BETWEEN %1 AND %1 + %4',
        'UPDATE storm.leaf SET v = v + %2 WHERE a = %4',
        'UPDATE storm.leaf SET v = v + 1',
        'UPDATE storm.leaf SET node = %1 WHERE node BETWEEN %2 AND %3',
        'UPDATE storm.leaf SET b = chr(97 + %4), a = a + 10 WHERE a = %4 AND b = chr(98 + %4)',
        'INSERT INTO storm.leaf VALUES (%4, chr(96 + %5), %1, %2) ON CONFLICT (a, b) DO UPDATE SET node = excluded.node',
        'DELETE FROM storm.leaf WHERE v %% 7 = %4',
        'MERGE INTO storm.leaf l USING storm.node n ON l.node = n.id AND n.id < %1 WHEN MATCHED AND n.id %% 3 = 0 THEN DELETE'
            ' WHEN MATCHED THEN UPDATE SET v = l.v + n.id WHEN NOT MATCHED AND n.id = %2 THEN INSERT VALUES (50, ''m'', n.id, 1)',
        'UPDATE storm.region SET area = 1 + (area + %4) %% 4 WHERE id BETWEEN %1 AND %3',
        'UPDATE storm.region SET v = v + 1, note = repeat(note || ''x'', %4) WHERE area = %4',
        'INSERT INTO storm.region SELECT i, %4, i FROM generate_series(%1, %1 + %2) AS i ON CONFLICT (id, area) DO UPDATE SET v = storm.region.v * 2, note = ''again''',
        'DELETE FROM storm.region WHERE id = %1',
        'WITH d AS (DELETE FROM storm.region WHERE area = %4 RETURNING *) INSERT INTO storm.leaf SELECT d.id, ''w'', NULL, d.v FROM d ON CONFLICT DO NOTHING',
        'UPDATE storm.total SET n = -n WHERE what = ''leaf'''
    ])[storm.any(23)], '%%', '#'), '%1', storm.any(30)::text), '%2', storm.any(30)::text), '%3', storm.any(30)::text), '%4', storm.any(5)::text)
$$;
-- one branch: one change, or some in a DO block of which a part may be taken back
CREATE FUNCTION storm.statement() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    statement text := storm.change();
BEGIN
    IF random() < 0.5 THEN
        statement := 'DO $x$ BEGIN ' || statement || ';';
        FOR i IN 1 .. storm.any(4) LOOP
            statement := statement || CASE WHEN random() < 0.3
                THEN format(' BEGIN %s; %s; %s EXCEPTION WHEN division_by_zero OR integrity_constraint_violation THEN NULL; END;',
                            storm.change(), storm.change(), CASE WHEN random() < 0.4 THEN 'RAISE division_by_zero;' END)
                ELSE ' ' || storm.change() || ';' END;
        END LOOP;
        statement := statement || ' END $x$';
    END IF;
    RETURN replace(replace(statement, '#', '%'), '%5', storm.any(20)::text);
END $$;
CREATE PROCEDURE storm.rage(rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    statement  text;
    history    text;
    xid        text;
    status     text;
    here       text;
    there      text;
    committed  integer := 0;
    branches   integer := 0;
    rolled     integer := 0;
BEGIN
    FOR round IN 1 .. rounds LOOP
        xid := dtx_begin();
        history := '';
        FOR i IN 1 .. storm.any(8) LOOP
            statement := storm.statement();
            BEGIN
                PERFORM dtx_exec('peer', statement);
                EXECUTE statement;
                SET CONSTRAINTS ALL IMMEDIATE;
                SET CONSTRAINTS ALL DEFERRED;
                branches := branches + 1;
                history := history || E'\n' || statement;
                IF random() < 0.2 THEN
                    RAISE division_by_zero;
                END IF;
            EXCEPTION WHEN division_by_zero OR integrity_constraint_violation THEN
                history := history || E'\n -- taken back: ' || SQLERRM;
            END;
        END LOOP;
        IF random() < 0.6 THEN
            ROLLBACK;
            rolled := rolled + 1;
        ELSE
            COMMIT;
            committed := committed + 1;
        END IF;
        status := dtx_wait(xid, '3min');
        COMMIT;
        EXECUTE storm.fingerprint_script() INTO here;
        SELECT test.at_peer(storm.fingerprint_script()) INTO there;
        IF here IS DISTINCT FROM there OR status NOT IN ('committed', 'rolled back', 'unknown') THEN
            RAISE NOTICE E'round %: %\nhere  %\nthere %\n%', round, status, here, there, history;
            EXIT;
        END IF;
    END LOOP;
    RAISE NOTICE '% committed and % rolled back', committed > rounds / 10, rolled > rounds / 10;
    RAISE NOTICE '% branches', branches > rounds;
END $$;
SELECT setseed(0.42);
CALL storm.rage(40);
SELECT test.at_peer('SELECT count(*)::text FROM dtx.undo_log');
SELECT test.at_peer('SELECT count(*)::text FROM dtx.joined_branch WHERE state = ''d''');
SET client_min_messages = warning;
DROP SCHEMA storm CASCADE;
SELECT test.at_peer('DROP SCHEMA storm CASCADE');
