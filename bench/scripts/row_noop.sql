-- what row_branch.sql is measured against: the same four messages, without a branch
\set n :n + 1
\set id 1 + (:n * 4 + :client_id) * 7919 % :rows
\set r random(1000000000000000, 9999999999999999)
BEGIN;
SELECT octet_length('bench.00000000:' || :n::text || '.' || :r::text || '/1');
UPDATE row_noop SET balance = balance + 1 WHERE id = :id;
COMMIT;
