--
-- AT: tables with random constraints and random triggers, changed by random
-- statements. Rolled back, each is as it was.
--
CREATE SCHEMA gale;
CREATE FUNCTION gale.any(n integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 1 + floor(random() * n)::integer';
CREATE FUNCTION gale.one_of(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE AS
    'SELECT choices[gale.any(cardinality(choices))]';
-- a change of the row's neighbours, inside a trigger or outside; $K is the key at hand
CREATE FUNCTION gale.change() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT replace(replace(gale.one_of(
        'UPDATE gale.t SET f = false WHERE f AND id <> @k',
        'UPDATE gale.t SET f = NOT f WHERE id = @k + 1',
        'DELETE FROM gale.t WHERE id = @k',
        'DELETE FROM gale.t WHERE u = (@k) AND id <> @k',
        'UPDATE gale.t SET u = NULL, r = NULL WHERE id = @k + 1',
        'UPDATE gale.t SET u = @n WHERE id = @k',
        'UPDATE gale.t SET v = v + 1 WHERE id BETWEEN @k AND @k + 3',
        'UPDATE gale.t SET id = id + 20 WHERE id = @k + 1',
        'UPDATE gale.t SET id = @n WHERE id = @k',
        'UPDATE gale.t SET r = int4range(@n, @n + 3) WHERE id = @k',
        'UPDATE gale.t SET p = @k WHERE id = @k + 2',
        'INSERT INTO gale.t (id, u, f) VALUES (@k, @n, @n % 2 = 0)',
        'INSERT INTO gale.t (id, u, v) VALUES (@k + 1, @k, @n) ON CONFLICT (id) DO UPDATE SET v = gale.t.v + 1, u = excluded.u',
        'INSERT INTO gale.s VALUES (@k, 1) ON CONFLICT (id) DO UPDATE SET n = gale.s.n + 1',
        'DELETE FROM gale.s WHERE id BETWEEN @k AND @k + 2',
        'UPDATE gale.s SET n = (SELECT count(*) FROM gale.t) WHERE id = @k'),
        '@k', CASE WHEN random() < 0.5 THEN '$K' ELSE gale.any(20)::text END), '@n', gale.any(20)::text)
$$;
-- what the peer is to have
CREATE FUNCTION gale.script() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    sql text;
BEGIN
    sql := 'SET client_min_messages = error; DROP SCHEMA IF EXISTS gale CASCADE; CREATE SCHEMA gale;'
        'CREATE TABLE gale.t (id integer PRIMARY KEY, u integer, f boolean NOT NULL DEFAULT false, r int4range, p integer, v integer NOT NULL DEFAULT 0,'
        ' w integer GENERATED ALWAYS AS (v * 2) STORED);'
        'CREATE TABLE gale.s (id integer PRIMARY KEY, n integer);'
        'INSERT INTO gale.t (id, u, f, r, p, v) SELECT i, i, i = 5, int4range(i * 5, i * 5 + 3), nullif(i / 2, 0), i FROM generate_series(1, 12) AS i;'
        'INSERT INTO gale.s SELECT i, i FROM generate_series(1, 10) AS i;'
        -- a deferred trigger begins anew each time: it must come to an end
        'CREATE FUNCTION gale.much() RETURNS boolean LANGUAGE sql AS $f$ SELECT set_config(''gale.fired'','
        ' (coalesce(nullif(current_setting(''gale.fired'', true), ''''), ''0'')::integer + 1)::text, true)::integer > 40 $f$;'
        'CREATE FUNCTION gale.x(k integer) RETURNS integer LANGUAGE plpgsql AS $f$ BEGIN '
        || replace(gale.change(), '$K', 'k') || '; RETURN k; END $f$;';
    -- each holds for the rows above
    IF random() < 0.6 THEN
        sql := sql || 'CREATE UNIQUE INDEX ON gale.t (f) WHERE f;';
    END IF;
    sql := sql || gale.one_of('CREATE UNIQUE INDEX ON gale.t (u);', 'CREATE UNIQUE INDEX ON gale.t ((u % 100)) WHERE u > 3;',
        'ALTER TABLE gale.t ADD UNIQUE (u) DEFERRABLE;', 'ALTER TABLE gale.t ADD UNIQUE (u) DEFERRABLE INITIALLY DEFERRED;', '');
    sql := sql || gale.one_of('ALTER TABLE gale.t ADD EXCLUDE USING gist (r WITH &&);',
        'ALTER TABLE gale.t ADD EXCLUDE USING gist (r WITH &&) WHERE (v < 30) DEFERRABLE INITIALLY DEFERRED;', '');
    sql := sql || gale.one_of('ALTER TABLE gale.t ADD FOREIGN KEY (p) REFERENCES gale.t ON DELETE CASCADE ON UPDATE CASCADE;',
        'ALTER TABLE gale.t ADD FOREIGN KEY (p) REFERENCES gale.t ON DELETE SET NULL ON UPDATE SET NULL;',
        'ALTER TABLE gale.t ADD FOREIGN KEY (p) REFERENCES gale.t DEFERRABLE INITIALLY DEFERRED;', '');
    sql := sql || gale.one_of('ALTER TABLE gale.s ADD FOREIGN KEY (id) REFERENCES gale.t ON DELETE CASCADE ON UPDATE CASCADE;', '', '');
    sql := sql || gale.one_of('ALTER TABLE gale.t REPLICA IDENTITY USING INDEX t_pkey;', '');
    FOR i IN 1 .. gale.any(4) LOOP
        sql := sql || format('CREATE FUNCTION gale.f%s() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN'
            ' IF pg_trigger_depth() > 3 OR gale.much() THEN RETURN coalesce(NEW, OLD); END IF; %s; %s RETURN coalesce(NEW, OLD); END $f$;', i,
            replace(gale.change(), '$K', 'coalesce(NEW.id, OLD.id, 7)'),
            gale.one_of('', '', replace(gale.change(), '$K', 'coalesce(OLD.id, NEW.id, 3)') || ';',
                        'IF TG_OP <> ''DELETE'' AND TG_WHEN = ''BEFORE'' AND TG_LEVEL = ''ROW'' AND TG_RELID = ''gale.t''::regclass THEN NEW.v := NEW.v + 1; END IF;',
                        'BEGIN ' || replace(gale.change(), '$K', '2') || '; IF random() < 0.5 THEN RAISE division_by_zero; END IF;'
                        ' EXCEPTION WHEN division_by_zero OR integrity_constraint_violation THEN END;'));
        sql := sql || CASE gale.any(4) WHEN 1 THEN
            format('CREATE CONSTRAINT TRIGGER %s AFTER %s ON gale.%s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION gale.f%s();',
                   gale.one_of('a', 'z') || i, gale.one_of('INSERT', 'UPDATE', 'DELETE', 'INSERT OR UPDATE OR DELETE'), gale.one_of('t', 's'), i)
        ELSE
            format('CREATE TRIGGER %s %s %s ON gale.%s FOR EACH %s EXECUTE FUNCTION gale.f%s();',
                   gale.one_of('a', 'z') || i, gale.one_of('BEFORE', 'AFTER'),
                   gale.one_of('INSERT', 'UPDATE', 'DELETE', 'INSERT OR UPDATE', 'INSERT OR UPDATE OR DELETE'),
                   gale.one_of('t', 't', 's'), gale.one_of('ROW', 'ROW', 'STATEMENT'), i) END;
    END LOOP;
    RETURN sql || 'CREATE VIEW gale.w AS SELECT * FROM gale.t;'
        'CREATE FUNCTION gale.instead() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN ' || replace(gale.change(), '$K', 'OLD.id') || ';'
        ' UPDATE gale.t SET u = NEW.u, f = NEW.f, v = NEW.v WHERE id = OLD.id; RETURN NEW; END $f$;'
        'CREATE TRIGGER instead INSTEAD OF UPDATE ON gale.w FOR EACH ROW EXECUTE FUNCTION gale.instead();'
        'DO $a$ BEGIN PERFORM dtx_attach(''gale.t''), dtx_attach(''gale.s''); END $a$';
END $$;
CREATE FUNCTION gale.statement() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    k         text := gale.any(20);
    n         text := gale.any(20);
    statement text;
    body      text := '';
BEGIN
    statement := replace(gale.one_of(
        gale.change(), gale.change(), gale.change(), gale.change(),
        'UPDATE gale.t SET v = v + gale.x(id) WHERE id BETWEEN $K AND $K + 2',
        'UPDATE gale.t SET u = NULL, v = gale.x(id + 1) WHERE id = $K',
        'INSERT INTO gale.t (id, u, v) SELECT i, i, gale.x(i) FROM generate_series($K, $K + 2) AS i ON CONFLICT (id) DO NOTHING',
        'DELETE FROM gale.t WHERE id = $K OR gale.x(id) = 0',
        'WITH d AS (DELETE FROM gale.t WHERE id = $K RETURNING *) INSERT INTO gale.t (id, u, f, r) SELECT id + 20, u, f, r FROM d',
        'WITH a AS (UPDATE gale.t SET f = false, u = NULL WHERE id = $K RETURNING *), b AS (UPDATE gale.t SET v = 50 WHERE id = $K + 1 RETURNING *)'
            ' INSERT INTO gale.s SELECT id + 30, v FROM a UNION SELECT id + 60, v FROM b',
        'MERGE INTO gale.t USING generate_series($K, $K + 4) AS i ON id = i WHEN MATCHED AND i % 3 = 0 THEN DELETE'
            ' WHEN MATCHED THEN UPDATE SET v = v + gale.x(i) WHEN NOT MATCHED THEN INSERT (id, u) VALUES (i, i)',
        'UPDATE gale.w SET v = v + 1, f = true WHERE id BETWEEN $K AND $K + 1',
        'UPDATE gale.t SET id = id + 100 WHERE id > $K',
        'UPDATE gale.t SET id = -id, u = -u, r = NULL',
        'UPDATE gale.t SET f = (id = $K) WHERE f OR id = $K'), '$K', k);
    IF random() < 0.6 THEN
        FOR i IN 1 .. gale.any(5) LOOP
            body := body || format(' BEGIN %s; %s EXCEPTION WHEN OTHERS THEN NULL; END;', replace(gale.change(), '$K', gale.any(20)::text),
                                   CASE WHEN random() < 0.2 THEN 'RAISE division_by_zero;' END);
        END LOOP;
        statement := format('DO $x$ BEGIN%s BEGIN %s; EXCEPTION WHEN OTHERS THEN NULL; END; END $x$', body, statement);
    END IF;
    RETURN statement;
END $$;
CREATE FUNCTION gale.fingerprint() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT string_agg(f, E'\n') FROM test.at_peer(
        'SELECT t::text FROM (SELECT * FROM gale.t ORDER BY id) AS t UNION ALL SELECT ''s '' || s::text FROM (SELECT * FROM gale.s ORDER BY id) AS s') AS f
$$;
CREATE PROCEDURE gale.blow(tables integer, rounds integer) LANGUAGE plpgsql AS $$
DECLARE
    script    text;
    statement text;
    history   text;
    before    text;
    after     text;
    xid       text;
    status    text;
    done      integer := 0;
    changed   integer := 0;
BEGIN
    FOR i IN 1 .. tables LOOP
        script := gale.script();
        SELECT string_agg(r, ' ') INTO status FROM test.at_peer(script) AS r;
        IF status LIKE 'ERROR%' THEN
            RAISE NOTICE E'table %: %\n%', i, status, script;
            EXIT;
        END IF;
        FOR round IN 1 .. rounds LOOP
            before := gale.fingerprint();
            xid := dtx_begin();
            history := '';
            FOR j IN 1 .. gale.any(4) LOOP
                statement := gale.statement();
                BEGIN
                    PERFORM dtx_exec('peer', statement);
                    history := history || E'\n' || statement;
                    done := done + 1;
                EXCEPTION WHEN OTHERS THEN
                    IF SQLSTATE ~ '^(XX|DX|57|08|40)' THEN
                        RAISE;
                    END IF;
                END;
            END LOOP;
            changed := changed + (gale.fingerprint() IS DISTINCT FROM before)::integer;
            ROLLBACK;
            status := dtx_wait(xid, '3min');
            COMMIT;
            after := gale.fingerprint();
            IF after IS DISTINCT FROM before OR status NOT IN ('rolled back', 'unknown') THEN
                RAISE NOTICE E'table %, round %: %\n% %\nbefore %\nafter %', i, round, status, script, history, before, after;
                RETURN;
            END IF;
        END LOOP;
    END LOOP;
    RAISE NOTICE '% statements, % changes undone', done > tables * rounds, changed > tables * rounds / 2;
END $$;
SELECT setseed(0.15);
CALL gale.blow(25, 4);
SELECT test.at_peer('SELECT count(*)::text FROM dtx.undo_log');
SELECT test.at_peer('SELECT count(*)::text FROM dtx.joined_branch WHERE state = ''d''');
SET client_min_messages = warning;
DROP SCHEMA gale CASCADE;
SELECT test.at_peer('SET client_min_messages = error; DROP SCHEMA gale CASCADE');
