/*
 * bank1_pay.sql: the payment system, which takes in what accounts are topped up with.
 *
 * Run as a superuser in a new database. psql variables: host, port, where bank1
 * is; password, of the role from_bank1_pay there and of from_bank1 here.
 */
CREATE EXTENSION dtx;

-- Who owns what is here, and notifies bank1; nobody logs in as that.
CREATE ROLE payments;

CREATE TABLE account_pay (
    tx_no      text PRIMARY KEY,
    account_no text NOT NULL,
    -- NaN is greater than 0, too
    pay_amount numeric NOT NULL CHECK (pay_amount > 0 AND pay_amount < 1e12 AND scale(pay_amount) <= 2),
    result     text NOT NULL CHECK (result IN ('success', 'fail')),
    paid_at    timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE account_pay OWNER TO payments;

-- What bank1 may do here: ask for results, of what it is told.
CREATE ROLE from_bank1 LOGIN PASSWORD :'password';
SELECT dtx_admit('from_bank1');

CREATE SERVER bank1 FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'bank1', receiver 'from_bank1');
GRANT USAGE ON FOREIGN SERVER bank1 TO payments;
CREATE USER MAPPING FOR payments SERVER bank1 OPTIONS (user 'from_bank1_pay', password :'password');

/*
 * A top-up has come to its end, good or bad: it is recorded, and bank1 is told,
 * both when this commits, or neither. Nothing is asked of bank1, which may be down.
 *
 * The same once more, since the caller has not had the answer, changes nothing.
 *
 * notify false: bank1 is not told, and has to ask.
 */
CREATE FUNCTION record_recharge(tx_no text, account_no text, pay_amount numeric, result text,
                                schedule interval[] DEFAULT NULL, notify boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO account_pay (tx_no, account_no, pay_amount, result) VALUES (tx_no, account_no, pay_amount, result)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM FROM account_pay p WHERE p.tx_no = record_recharge.tx_no AND p.account_no = record_recharge.account_no
            AND p.pay_amount = record_recharge.pay_amount AND p.result = record_recharge.result;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'top-up % was recorded before, and was another', tx_no USING ERRCODE = 'unique_violation';
        END IF;
        RETURN 'known';
    END IF;

    PERFORM dtx_notify(CASE WHEN notify THEN 'bank1' END, tx_no,
                       jsonb_build_object('account_no', account_no, 'pay_amount', pay_amount, 'result', result), schedule);
    RETURN 'recorded';
END
$$;
COMMENT ON FUNCTION record_recharge(text, text, numeric, text, interval[], boolean) IS
    'records a top-up and has bank1 told, and says recorded; or known, for one that was. ERROR 23505 when that was another.';
ALTER FUNCTION record_recharge(text, text, numeric, text, interval[], boolean) OWNER TO payments;

-- The application
CREATE ROLE cashier LOGIN;
REVOKE ALL ON FUNCTION record_recharge(text, text, numeric, text, interval[], boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_recharge(text, text, numeric, text, interval[], boolean) TO cashier;
GRANT SELECT ON account_pay TO cashier;

-- A result comes from a top-up: nobody else tells bank1 anything.
GRANT EXECUTE ON FUNCTION dtx_notify TO payments;
