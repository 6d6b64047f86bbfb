--
-- AT: rows of every type class come back to the byte.
--
\c dtx_regression_peer
CREATE TYPE mood AS ENUM ('sad', 'fine', 'glad');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN postcode AS text CHECK (VALUE ~ '^\d+$');
CREATE TYPE span AS RANGE (subtype = float8);

CREATE TABLE numbers (
    id     integer PRIMARY KEY,
    i2     smallint, i4 integer, i8 bigint,
    n      numeric, n2 numeric(12, 4),
    f4     real, f8 double precision,
    cash   money, b boolean, o oid, x8 xid8, lsn pg_lsn
);
INSERT INTO numbers VALUES
    (1, 1, 2, 3, 4.50, 5.5, 6.25, 7.125, '8.90', true, 16384, '12', '0/16B3748'),
    (2, -32768, -2147483648, -9223372036854775808, 'NaN', 'NaN', 'NaN', 'NaN', '-92233720368547758.08', false, 0, '0', '0/0'),
    (3, 32767, 2147483647, 9223372036854775807, 'Infinity', 99999999.9999, 'Infinity', '-Infinity', '92233720368547758.07', NULL, 4294967295, '18446744073709551615', 'FFFFFFFF/FFFFFFFF'),
    (4, 0, 0, 0, 0.00000, 0, '-0', '-0', 0, false, 0, '0', '0/0'),
    (5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (6, 1, 1, 1, repeat('1234567890', 300)::numeric / 3, -0.0001, 1e-45, 5e-324, 0.01, true, 1, '1', '0/1'),
    (7, 1, 1, 1, '-Infinity', 1, 3.4028235e38, 1.7976931348623157e308, 1, true, 1, '1', '0/1');

CREATE TABLE strings (
    id  integer PRIMARY KEY,
    t   text, v varchar(20), c char(10), ch "char", n name,
    by  bytea, bi bit(5), vb bit varying(100),
    j   json, jb jsonb, jp jsonpath, x xml, ts tsvector, tq tsquery, u uuid
);
INSERT INTO strings VALUES
    (1, 'text', 'varchar', 'char', 'c', 'name', '\x00ff00', B'10101', B'1', '{"b": 1,   "a": [1, 2]}', '{"b": 1, "a": [1, 2.50]}',
        '$.a[*] ? (@ > 1)', '<a b="c">d</a>', 'fat:2A cat:3 sat:1', 'fat & !cat', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
    (2, '', '', '', '', '', '', B'00000', B'', '""', '""', '$', '', '', '', '00000000-0000-0000-0000-000000000000'),
    (3, E'tab\tnew\nline \\ ''quote'' "double" {brace} (paren), comma', E'\u00e9\u4f60\U0001F600', 'é  ', E'\u007f', 'Mixed Case', '\x5c27', B'11111',
        repeat('01', 50)::varbit, '[1,1,{"a":1,"a":2}]', '{"a": 1, "a": 2}', 'strict $.x', '<?xml version="1.0"?><r/>', $$'it''s':1$$, $$'it''s' | a:*$$, NULL),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, repeat('x', 1024 * 1024), 'x', 'x', 'x', 'x', decode(repeat('ff', 100000), 'hex'), B'11111', B'1', 'null', 'null', '$', 'x', 'x', 'x', NULL),
    (6, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 32768) AS i), 'x', 'x', 'x', 'x', NULL, NULL, NULL,
        (SELECT json_agg(md5(i::text)) FROM generate_series(1, 3000) AS i), (SELECT jsonb_object_agg(md5(i::text), i) FROM generate_series(1, 3000) AS i), NULL, NULL,
        (SELECT array_to_tsvector(array_agg(md5(i::text))) FROM generate_series(1, 500) AS i), NULL, NULL);

CREATE TABLE times (
    id  integer PRIMARY KEY,
    d   date, t time, tz timetz, ts timestamp, tstz timestamptz(3), i interval, i0 interval day to second (2)
);
INSERT INTO times VALUES
    (1, '2024-02-29', '23:59:59.999999', '12:00:00.5+05:30', '2024-02-29 12:00', '2024-02-29 12:00:00.123+00', '1 year 2 months 3 days 04:05:06.789', '1 day 1.255'),
    (2, 'infinity', '24:00', '00:00-15:59', 'infinity', '-infinity', '-1 month +30 days', '-0.01'),
    (3, '-infinity', '00:00', '24:00+00', '-infinity', 'infinity', '30 days -24:00', '0'),
    (4, '4713-01-01 BC', '00:00:00.000001', '01:02:03+14', '4713-01-01 BC', '294276-12-31 23:59:59+00', '178000000 years', '24:00'),
    (5, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE nets_and_shapes (
    id integer PRIMARY KEY,
    ip inet, net cidr, mac macaddr, mac8 macaddr8,
    p point, l line, s lseg, b box, pa path, po polygon, c circle
);
INSERT INTO nets_and_shapes VALUES
    (1, '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1,-0)', '{1,2,3}', '[(0,0),(1,1)]', '(2,2),(1,1)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(1,2),3>'),
    (2, '::1', '2001:db8::/32', '00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff:ff:ff', '(NaN,Infinity)', '{-1,0,0}', '[(-0,0),(0,-0)]', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>'),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE compounds (
    id  integer PRIMARY KEY,
    ia  integer[], ta text[], na numeric[][], pa pair[], ma mood[], da positive[],
    m   mood, p pair, dp positive, dt postcode,
    r4  int4range, rn numrange, rt tstzrange, rd daterange, rs span, mr int4multirange, rm nummultirange
);
INSERT INTO compounds VALUES
    (1, '{1,2,3}', '{a,"b c",NULL,"NULL",""}', '{{1.0,2},{3,NaN}}', ARRAY[ROW(1, 'x')::pair, NULL, ROW(NULL, NULL)::pair], '{sad,glad}', '{1,2}',
        'fine', ROW(1, 'a "quoted", (text)'), 1, '12345', '[1,5)', '(1.5,2.50]', '[2024-01-01 00:00+00,)', '(,2024-01-01)', '[-0,1.5]', '{[1,3),[7,9)}', '{(,1),[2.00,3]}'),
    (2, '{}', '{}', '{}', '{}', '{}', '{}', 'sad', ROW(NULL, NULL), 2147483647, '0', 'empty', 'empty', 'empty', 'empty', 'empty', '{}', '{}'),
    (3, '[-2:0]={1,2,3}', '[0:1][5:5]={{a},{b}}', NULL, NULL, NULL, NULL, 'glad', NULL, NULL, NULL, '(,)', '(,)', NULL, NULL, NULL, '{(,)}', NULL),
    (4, (SELECT array_agg(i) FROM generate_series(1, 50000) AS i), (SELECT array_agg(md5(i::text)) FROM generate_series(1, 2000) AS i), NULL, NULL, NULL, NULL,
        NULL, ROW(2, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) AS i)), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

SELECT dtx_attach(t) FROM unnest('{numbers,strings,times,nets_and_shapes,compounds}'::regclass[]) AS t;
SELECT test.keep('numbers', 'strings', 'times', 'nets_and_shapes', 'compounds');
\c dtx_regression

-- every row deleted
BEGIN;
SELECT dtx_exec('peer', 'DELETE FROM ' || t) > 0 FROM unnest('{numbers,strings,times,nets_and_shapes,compounds}'::text[]) AS t;
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'numbers', 'strings', 'times', 'nets_and_shapes', 'compounds');

-- every column of every row set to another value, or NULL
BEGIN;
SELECT dtx_exec('peer', $$UPDATE numbers SET i2 = i2 / 2, i4 = NULL, i8 = 1, n = coalesce(1 / nullif(n, 0), 1), n2 = n2 - 1, f4 = 0, f8 = 0,
    cash = NULL, b = NOT b, o = 1, x8 = '5', lsn = '1/1'$$);
SELECT dtx_exec('peer', $$UPDATE strings SET t = id || t, v = NULL, c = 'other', ch = 'z', n = 'n', by = by || '\x01', bi = B'01010', vb = B'101', j = '{}', jb = jb || '[1]',
    jp = '$.z', x = '<z/>', ts = 'z', tq = 'z', u = gen_random_uuid()$$);
SELECT dtx_exec('peer', $$UPDATE times SET d = '2000-01-01', t = '1:00', tz = NULL, ts = now(), tstz = now(), i = '1 month', i0 = NULL$$);
SELECT dtx_exec('peer', $$UPDATE nets_and_shapes SET ip = '1.1.1.1', net = NULL, mac = NULL, mac8 = NULL, p = '(0,0)', l = NULL, s = '[(1,1),(2,2)]', b = NULL, pa = NULL, po = NULL, c = '<(0,0),1>'$$);
SELECT dtx_exec('peer', $$UPDATE compounds SET ia = ia || 1, ta = NULL, na = '{1}', pa = '{}', ma = '{fine}', da = '{3}', m = 'fine', p.a = 7, dp = 9, dt = '9',
    r4 = '[1,2)', rn = NULL, rt = 'empty', rd = NULL, rs = '[1,2]', mr = '{}', rm = NULL$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'numbers', 'strings', 'times', 'nets_and_shapes', 'compounds');

-- rows of every type inserted go
BEGIN;
SELECT dtx_exec('peer', format('INSERT INTO %1$I SELECT (jsonb_populate_record(q, jsonb_build_object(''id'', q.id + 100))).* FROM %1$I q', t)) > 0
FROM unnest('{numbers,strings,times,nets_and_shapes,compounds}'::text[]) AS t;
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'numbers', 'strings', 'times', 'nets_and_shapes', 'compounds');

-- -0 becomes 0 and 0.00000 becomes 0: equal to what was, and yet a change
BEGIN;
SELECT dtx_exec('peer', $$UPDATE numbers SET f4 = 0, f8 = 0, n = 0 WHERE id = 4$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'numbers');
SELECT test.at_peer('SELECT concat_ws('' '', n, f4, f8) FROM numbers WHERE id = 4');

-- json keeps its spaces and its duplicate keys
SELECT test.at_peer('SELECT j::text FROM strings WHERE id IN (1, 3) ORDER BY id');

-- toasted columns that an update does not touch, and toasted ones that it does, compressed or not
\c dtx_regression_peer
CREATE TABLE wide (id integer PRIMARY KEY, n integer, plain text, ext text, main text, extended text);
ALTER TABLE wide ALTER plain SET STORAGE PLAIN, ALTER ext SET STORAGE EXTERNAL, ALTER main SET STORAGE MAIN;
INSERT INTO wide SELECT i, i, 'plain', repeat('e' || i, 20000), repeat('m' || i, 5000), (SELECT string_agg(md5(j::text || i), '') FROM generate_series(1, 2000) AS j)
FROM generate_series(1, 5) AS i;
INSERT INTO wide VALUES (6, 6, NULL, NULL, NULL, repeat('compressible ', 100000));
SELECT dtx_attach('wide');
SELECT test.keep('wide');
\c dtx_regression
BEGIN;
SELECT dtx_exec('peer', 'UPDATE wide SET n = n + 1');
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'wide');
BEGIN;
SELECT dtx_exec('peer', $$UPDATE wide SET ext = ext || 'x' WHERE id = 1$$);
SELECT dtx_exec('peer', $$UPDATE wide SET extended = NULL, n = 0 WHERE id IN (2, 6)$$);
SELECT dtx_exec('peer', $$UPDATE wide SET extended = ext, ext = extended WHERE id = 3$$);
SELECT dtx_exec('peer', $$DELETE FROM wide WHERE id IN (4, 6)$$);
SELECT dtx_exec('peer', $$UPDATE wide SET id = 50 WHERE id = 5$$);
SELECT dtx_exec('peer', $$INSERT INTO wide SELECT 60, 60, plain, ext, main, extended FROM wide WHERE id = 50$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'wide');
-- and kept, when the transaction commits
BEGIN;
SELECT dtx_exec('peer', $$UPDATE wide SET n = 10 * n, extended = repeat('y', 300000) WHERE id = 1$$);
SELECT dtx_exec('peer', $$UPDATE strings SET t = repeat('y', 2097152) WHERE id = 5$$);
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
SELECT test.at_peer($$SELECT concat_ws(' ', n, length(ext), md5(extended) = md5(repeat('y', 300000))) FROM wide WHERE id = 1$$);
SELECT test.at_peer($$SELECT length(t)::text FROM strings WHERE id = 5$$);

--
-- Keys
--
\c dtx_regression_peer
-- of two columns, in another order than the table's
CREATE TABLE composite_key (a integer, v text, b text, c integer, PRIMARY KEY (b, a));
INSERT INTO composite_key SELECT i % 3, 'v' || i, chr(97 + i / 3), i FROM generate_series(0, 8) AS i;
-- text, with what text may hold
CREATE TABLE text_key (k text PRIMARY KEY, v integer);
INSERT INTO text_key VALUES ('', 1), (' ', 2), ('it''s', 3), ('"quoted"', 4), (E'line\nbreak', 5), (E'\u4f60\u597d', 6), ('a', 7), ('A', 8), (repeat('long', 600), 9);
-- names that need quotes
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Mixed.Case ""Table""" ("Key One" integer, "key,two" text, "select" text, "Value'" numeric, PRIMARY KEY ("Key One", "key,two"));
INSERT INTO "Odd Schema"."Mixed.Case ""Table""" VALUES (1, 'a', 'x', 1.50), (1, 'b', NULL, NULL), (2, 'a', 'z', 3);
-- types whose equality is not that of the bytes
CREATE TABLE numeric_key (k numeric PRIMARY KEY, v integer);
INSERT INTO numeric_key VALUES (1.0, 1), (2.50, 2), ('NaN', 3), (0.000, 4);
CREATE TABLE float_key (k float8 PRIMARY KEY, v integer);
INSERT INTO float_key VALUES ('-0', 1), ('NaN', 2), ('Infinity', 3), (1.5, 4);
CREATE TABLE char_key (k char(5) PRIMARY KEY, v integer);
INSERT INTO char_key VALUES ('a', 1), ('b', 2);
CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE no_case_key (k text COLLATE no_case PRIMARY KEY, v integer);
INSERT INTO no_case_key VALUES ('Anna', 1), ('bert', 2);
-- and others
CREATE TABLE other_key (u uuid, ts timestamptz, i inet, m mood, r int4range, ia integer[], v integer, PRIMARY KEY (u, ts, i, m, r, ia));
INSERT INTO other_key SELECT md5(i::text)::uuid, '2024-01-01 00:00+00'::timestamptz + i * interval '1 day', '10.0.0.1'::inet + i, 'fine', int4range(i, i + 1), ARRAY[i, i], i FROM generate_series(1, 5) AS i;
CREATE TABLE domain_key (k postcode PRIMARY KEY, v integer);
INSERT INTO domain_key VALUES ('1', 1), ('2', 2);
SELECT dtx_attach(t) FROM unnest(ARRAY['composite_key', 'text_key', '"Odd Schema"."Mixed.Case ""Table"""', 'numeric_key', 'float_key', 'char_key', 'no_case_key', 'other_key', 'domain_key']::regclass[]) AS t;
SELECT test.keep('composite_key', 'text_key', '"Odd Schema"."Mixed.Case ""Table"""', 'numeric_key', 'float_key', 'char_key', 'no_case_key', 'other_key', 'domain_key');
\c dtx_regression

-- values changed, under each of these keys
BEGIN;
SELECT dtx_exec('peer', 'UPDATE composite_key SET v = v || c, c = c + 1 WHERE c % 2 = 0');
SELECT dtx_exec('peer', 'UPDATE text_key SET v = -v');
SELECT dtx_exec('peer', 'UPDATE "Odd Schema"."Mixed.Case ""Table""" SET "select" = ''changed'', "Value''" = 0 WHERE "Key One" = 1');
SELECT dtx_exec('peer', 'UPDATE ' || t || ' SET v = v + 100') > 0
FROM unnest('{numeric_key,float_key,char_key,no_case_key,other_key,domain_key}'::text[]) AS t;
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'composite_key', 'text_key', '"Odd Schema"."Mixed.Case ""Table"""', 'numeric_key', 'float_key', 'char_key', 'no_case_key', 'other_key', 'domain_key');

-- rows deleted and inserted
BEGIN;
SELECT dtx_exec('peer', 'DELETE FROM composite_key WHERE a = 1');
SELECT dtx_exec('peer', $$INSERT INTO composite_key VALUES (1, 'new', 'a', 0), (7, 'new', 'a', 0)$$);
SELECT dtx_exec('peer', 'DELETE FROM text_key');
SELECT dtx_exec('peer', $$INSERT INTO text_key VALUES ('', 0), ('b', 0)$$);
SELECT dtx_exec('peer', 'DELETE FROM "Odd Schema"."Mixed.Case ""Table""" WHERE "key,two" = ''a''');
SELECT dtx_exec('peer', 'INSERT INTO "Odd Schema"."Mixed.Case ""Table""" VALUES (1, ''a'', ''new'', 7), (3, ''c'', ''new'', 7)');
SELECT dtx_exec('peer', 'DELETE FROM ' || t) > 0
FROM unnest('{numeric_key,float_key,char_key,no_case_key,other_key,domain_key}'::text[]) AS t;
SELECT dtx_exec('peer', 'INSERT INTO numeric_key VALUES (1.00, 0), (7, 0)');
SELECT dtx_exec('peer', 'INSERT INTO float_key VALUES (0, 0)');
SELECT dtx_exec('peer', $$INSERT INTO no_case_key VALUES ('ANNA', 0)$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'composite_key', 'text_key', '"Odd Schema"."Mixed.Case ""Table"""', 'numeric_key', 'float_key', 'char_key', 'no_case_key', 'other_key', 'domain_key');

-- keys changed, also to ones that are equal and yet not the same
BEGIN;
SELECT dtx_exec('peer', 'UPDATE composite_key SET a = a + 10 WHERE c < 5');
SELECT dtx_exec('peer', $$UPDATE composite_key SET b = b || 'x' WHERE c > 3$$);
SELECT dtx_exec('peer', $$UPDATE text_key SET k = k || '!'$$);
SELECT dtx_exec('peer', 'UPDATE "Odd Schema"."Mixed.Case ""Table""" SET "Key One" = 9 WHERE "key,two" = ''b''');
SELECT dtx_exec('peer', $$UPDATE numeric_key SET k = 1.0000, v = 0 WHERE k = 1$$);
SELECT dtx_exec('peer', $$UPDATE numeric_key SET k = 0 WHERE k = 0$$);
SELECT dtx_exec('peer', $$UPDATE float_key SET k = 0 WHERE k = 0$$);
SELECT dtx_exec('peer', $$UPDATE char_key SET k = 'c' WHERE k = 'a'$$);
SELECT dtx_exec('peer', $$UPDATE no_case_key SET k = 'ANNA' WHERE k = 'anna'$$);
SELECT dtx_exec('peer', $$UPDATE other_key SET m = 'sad', ia = ia || 1, r = int4range(lower(r), lower(r) + 9)$$);
SELECT dtx_exec('peer', $$UPDATE domain_key SET k = k || '0'$$);
SELECT dtx_xid() AS xid \gset
ROLLBACK;
SELECT test.undone(:'xid', 'composite_key', 'text_key', '"Odd Schema"."Mixed.Case ""Table"""', 'numeric_key', 'float_key', 'char_key', 'no_case_key', 'other_key', 'domain_key');

-- commit keeps them
BEGIN;
SELECT dtx_exec('peer', 'UPDATE composite_key SET a = a + 10, v = ''kept'' WHERE c = 4');
SELECT dtx_exec('peer', 'UPDATE "Odd Schema"."Mixed.Case ""Table""" SET "Key One" = 9, "select" = ''kept'' WHERE "key,two" = ''b''');
SELECT dtx_exec('peer', $$UPDATE no_case_key SET k = 'ANNA' WHERE k = 'anna'$$);
SELECT dtx_xid() AS xid \gset
COMMIT;
SELECT dtx_wait(:'xid', '3min');
\c dtx_regression_peer
SELECT * FROM composite_key WHERE v = 'kept';
SELECT * FROM "Odd Schema"."Mixed.Case ""Table""" WHERE "select" = 'kept';
SELECT * FROM no_case_key ORDER BY v;
SELECT count(*) FROM dtx.undo_log;
DROP TABLE numbers, strings, times, nets_and_shapes, compounds, wide, composite_key, text_key, numeric_key, float_key, char_key, no_case_key, other_key, domain_key;
SET client_min_messages = warning;
DROP SCHEMA "Odd Schema" CASCADE;
DROP COLLATION no_case CASCADE;
DROP TYPE mood, pair, positive, postcode, span CASCADE;
