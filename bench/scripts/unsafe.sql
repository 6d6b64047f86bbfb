-- the floor: the remote statement commits on its own
\if :connected = 0
SELECT dblink_connect('peer', 'host=:host port=:port dbname=:peer user=:user');
\set connected 1
\endif
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
BEGIN;
UPDATE account_unsafe SET account_balance = account_balance - :amount WHERE account_no = ':from';
SELECT dblink_exec('peer', 'UPDATE account_unsafe SET account_balance = account_balance + :amount WHERE account_no = '':to''');
COMMIT;
