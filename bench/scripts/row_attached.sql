-- one row by its key, every row once
\set n :n + 1
\set id 1 + (:n * 4 + :client_id) * 7919 % :rows
UPDATE row_attached SET balance = balance + 1 WHERE id = :id;
