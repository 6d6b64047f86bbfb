-- dtx TCC: the try looks whether the account is there, the confirm adds the amount
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
BEGIN;
UPDATE account_info SET account_balance = account_balance - :amount WHERE account_no = ':from';
SELECT dtx_try(':peer', 'credit', '{"account": ":to", "amount": :amount}');
COMMIT;
