\set n random(1, 1000000000)
\set r random(1000000000000000, 9999999999999999)
BEGIN;
SELECT dtx.branch_join('bench.00000000:' || :n::text || '.' || :r::text || '/1', 'at', 0, 0, 1, 0);
UPDATE bulk_branch SET balance = balance + 1;
COMMIT;
