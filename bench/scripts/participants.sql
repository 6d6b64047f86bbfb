-- one account here, and one at each of 1, 2 or 4 participants
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
BEGIN;
SELECT dtx_begin(':mode');
UPDATE account_info SET account_balance = account_balance - :amount * :participants WHERE account_no = ':from';
SELECT dtx_exec('party1', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', :amount, ':to');
\if :participants > 1
SELECT dtx_exec('party2', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', :amount, ':to');
\endif
\if :participants > 2
SELECT dtx_exec('party3', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', :amount, ':to');
SELECT dtx_exec('party4', 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2', :amount, ':to');
\endif
COMMIT;
