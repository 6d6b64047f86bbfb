/*
 * setup.sql: one database of the bench.
 *
 * psql variables: peer, host, port (of the peer), accounts.
 *
 * account_info is under dtx; account_unsafe is the same table without it, for
 * the variants that do without dtx.
 */
SET client_min_messages = warning;
CREATE EXTENSION dtx;
CREATE EXTENSION dblink;

CREATE TABLE account_info (
    account_no      text PRIMARY KEY,
    account_name    text NOT NULL,
    account_balance numeric NOT NULL
);
INSERT INTO account_info
SELECT i::text, 'Account holder ' || i, 1000000000 FROM generate_series(1, :accounts) i;
CREATE TABLE account_unsafe (LIKE account_info INCLUDING ALL);
INSERT INTO account_unsafe SELECT * FROM account_info;

SELECT dtx_attach('account_info');
SELECT dtx_ledger('account_info');

CREATE SERVER :peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname :'peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER :peer OPTIONS (user :'USER');

-- What dtx_transfer is measured against: the same two updates, and nothing that makes them one.
CREATE FUNCTION unsafe_transfer(from_account text, to_account text, amount numeric) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account_unsafe SET account_balance = account_balance - amount WHERE account_no = from_account;
    PERFORM dblink_exec('peer', format('UPDATE account_unsafe SET account_balance = account_balance + %s WHERE account_no = %L',
                                       amount, to_account));
END
$$;

-- The action that the variant in TCC tries at the peer.
CREATE FUNCTION credit_try(account text, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM account_info WHERE account_no = account;
    IF NOT FOUND THEN
        RAISE 'account % does not exist', account;
    END IF;
END
$$;
CREATE FUNCTION credit_confirm(account text, amount numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account_info SET account_balance = account_balance + amount WHERE account_no = account;
END
$$;
SELECT dtx_tcc_define('credit', 'credit_try(text, numeric)', 'credit_confirm(text, numeric)', NULL);

VACUUM (FREEZE, ANALYZE);
