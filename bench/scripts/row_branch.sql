-- one row by its key, every row once, in a branch of a coordinator that does not exist
\set n :n + 1
\set id 1 + (:n * 4 + :client_id) * 7919 % :rows
\set r random(1000000000000000, 9999999999999999)
BEGIN;
SELECT dtx.branch_join('bench.00000000:' || :n::text || '.' || :r::text || '/1', 'at', 0, 0, 1, 0);
UPDATE row_branch SET balance = balance + 1 WHERE id = :id;
COMMIT;
