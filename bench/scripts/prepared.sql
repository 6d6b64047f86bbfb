-- two-phase commit by hand: prepared at the peer before the local commit, committed there after it
\if :connected = 0
SELECT dblink_connect('peer', 'host=:host port=:port dbname=:peer user=:user');
\set connected 1
\endif
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
\set n :n + 1
BEGIN;
UPDATE account_unsafe SET account_balance = account_balance - :amount WHERE account_no = ':from';
SELECT dblink_exec('peer', 'BEGIN; UPDATE account_unsafe SET account_balance = account_balance + :amount WHERE account_no = '':to''; PREPARE TRANSACTION ''bench-:client_id-:n''');
COMMIT;
SELECT dblink_exec('peer', 'COMMIT PREPARED ''bench-:client_id-:n''');
