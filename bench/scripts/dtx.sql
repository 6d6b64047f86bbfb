-- dtx AT: the remote statement is a branch of the local transaction
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
BEGIN;
UPDATE account_info SET account_balance = account_balance - :amount WHERE account_no = ':from';
SELECT dtx_exec(':peer', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', :amount, ':to');
COMMIT;
