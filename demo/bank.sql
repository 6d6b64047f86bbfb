-- bank.sql: a bank with one account. Variables: account, name.
CREATE EXTENSION dtx;

CREATE TABLE account_info (
    account_no      text PRIMARY KEY,
    account_name    text NOT NULL,
    account_balance numeric NOT NULL CHECK (account_balance >= 0)
);
INSERT INTO account_info VALUES (:'account', :'name', 10000);

-- branches may change the table, and its rows are locked while one is in doubt
SELECT dtx_attach('account_info');
-- dtx_transfer moves money in this table
SELECT dtx_ledger('account_info');
