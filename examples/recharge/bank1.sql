/*
 * bank1.sql: the accounts, which are credited with what was paid.
 *
 * Run as a superuser in a new database. psql variables: host, port, where the
 * payment system is; password, of the role from_bank1 there and of from_bank1_pay
 * here.
 */
CREATE EXTENSION dtx;

-- Who owns what is here; nobody logs in as that.
CREATE ROLE accounts;

CREATE TABLE account_info (
    account_no      text PRIMARY KEY,
    account_name    text NOT NULL,
    account_balance numeric NOT NULL CHECK (account_balance >= 0)
);
ALTER TABLE account_info OWNER TO accounts;
INSERT INTO account_info VALUES ('1', 'Zhang San', 1000), ('2', 'Li Si', 0);

-- What has come in. It has no key: that dtx lets nothing in twice is to be seen, not to be taken care of here.
CREATE TABLE recharge (
    tx_no       text NOT NULL,
    account_no  text NOT NULL,
    pay_amount  numeric NOT NULL,
    result      text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE recharge OWNER TO accounts;

/*
 * The handler: called with each result once, be it told or asked for, in the
 * transaction that also says so to dtx. Whatever fails, it leaves nothing behind.
 *
 * A result that cannot be read will not be read better the next time: DX005 says
 * so to dtx, which does not try again by itself. Anything else that goes wrong, such
 * as an account that is not opened yet, is tried again by the sender's schedule.
 */
CREATE FUNCTION credit_recharge(tx_no text, payload jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    account text := payload ->> 'account_no';
    result  text := payload ->> 'result';
    amount  numeric;
BEGIN
    BEGIN
        amount := payload ->> 'pay_amount';
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'top-up % cannot be read: %', tx_no, SQLERRM USING ERRCODE = 'DX005';
    END;
    -- 'NaN' and 'Infinity' are greater than 0, too
    IF NOT coalesce(account <> '' AND amount > 0 AND amount < 1e12 AND result IN ('success', 'fail'), false) THEN
        RAISE EXCEPTION 'top-up % is none: %', tx_no, payload USING ERRCODE = 'DX005';
    END IF;

    INSERT INTO recharge (tx_no, account_no, pay_amount, result) VALUES (tx_no, account, amount, result);
    IF result = 'success' THEN
        UPDATE account_info i SET account_balance = i.account_balance + amount WHERE i.account_no = account;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'account % does not exist', account USING ERRCODE = 'no_data_found';
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION credit_recharge(text, jsonb) IS 'credits an account with a top-up that was paid';
ALTER FUNCTION credit_recharge(text, jsonb) OWNER TO accounts;
REVOKE ALL ON FUNCTION credit_recharge(text, jsonb) FROM PUBLIC;
SELECT dtx_on_notification('credit_recharge', 'bank1_pay');

-- What comes from the payment system: results, and nothing else.
CREATE ROLE from_bank1_pay LOGIN PASSWORD :'password';
SELECT dtx_admit('from_bank1_pay');
GRANT EXECUTE ON FUNCTION credit_recharge(text, jsonb) TO from_bank1_pay;

-- Who asks the payment system, and credits what it says. That is a job, not a person: it can credit accounts.
CREATE ROLE reconciler LOGIN;
CREATE SERVER bank1_pay FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'bank1_pay');
GRANT USAGE ON FOREIGN SERVER bank1_pay TO reconciler;
CREATE USER MAPPING FOR reconciler SERVER bank1_pay OPTIONS (user 'from_bank1', password :'password');
GRANT EXECUTE ON FUNCTION credit_recharge(text, jsonb) TO reconciler;
