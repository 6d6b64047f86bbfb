-- dtx XA: the remote statement is in a transaction that stays open, and is prepared before the commit
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
BEGIN;
SELECT dtx_begin('xa');
UPDATE account_info SET account_balance = account_balance - :amount WHERE account_no = ':from';
SELECT dtx_exec(':peer', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', :amount, ':to');
COMMIT;
