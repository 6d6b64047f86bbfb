/*
 * participant.sql: one of the databases that a transaction has as participants.
 *
 * psql variables: accounts.
 */
SET client_min_messages = warning;
CREATE EXTENSION dtx;

CREATE TABLE account_info (
    account_no      text PRIMARY KEY,
    account_name    text NOT NULL,
    account_balance numeric NOT NULL
);
INSERT INTO account_info
SELECT i::text, 'Account holder ' || i, 1000000000 FROM generate_series(1, :accounts) i;
SELECT dtx_attach('account_info');

VACUUM (FREEZE, ANALYZE);
