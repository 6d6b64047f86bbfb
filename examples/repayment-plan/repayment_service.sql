/*
 * repayment_service.sql: what borrowers have to pay back, and when.
 *
 * Run as a superuser in a new database. psql variables: password, of the role
 * that the loan service connects as.
 */
CREATE EXTENSION dtx;

CREATE TABLE plan (
    loan_id   bigint PRIMARY KEY,
    borrower  text NOT NULL,
    principal numeric(12,2) NOT NULL CHECK (principal > 0),
    interest  numeric(12,2) NOT NULL CHECK (interest >= 0),
    made_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE installment (
    loan_id   bigint NOT NULL REFERENCES plan,
    number    integer NOT NULL,
    due       date NOT NULL,
    principal numeric(12,2) NOT NULL CHECK (principal >= 0),
    interest  numeric(12,2) NOT NULL CHECK (interest >= 0),
    amount    numeric(12,2) NOT NULL GENERATED ALWAYS AS (principal + interest) STORED,
    PRIMARY KEY (loan_id, number)
);

-- What has come in. It has no key: that dtx lets nothing in twice is to be seen, not to be taken care of here.
CREATE TABLE received_loan (
    message_id  bigint NOT NULL,
    loan_id     bigint,
    received_at timestamptz NOT NULL DEFAULT now()
);

/* A year's interest, of the terms of a loan: 0.06, say. */
CREATE FUNCTION annual_rate(terms jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp
BEGIN ATOMIC
    SELECT (terms ->> 'annual_rate')::numeric;
END;

/*
 * Equal amounts, each of which pays the month's interest and then some of the
 * principal. They are rounded, and so the last one is different: it pays all that
 * is left. Returns the sum of the interest.
 */
CREATE FUNCTION make_installments(loan_id bigint, principal numeric, rate numeric, months integer, approved_on date) RETURNS numeric
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    payment  numeric := round(CASE rate WHEN 0 THEN principal / months
                                        ELSE principal * (rate / 12) / (1 - (1 + rate / 12) ^ -months) END, 2);
    owed     numeric := principal;
    interest numeric;
    repaid   numeric;
    total    numeric := 0;
BEGIN
    FOR n IN 1 .. months LOOP
        interest := round(owed * rate / 12, 2);
        repaid := CASE WHEN n < months THEN least(payment - interest, owed) ELSE owed END;
        INSERT INTO installment (loan_id, number, due, principal, interest)
        VALUES (make_installments.loan_id, n, approved_on + make_interval(months => n), repaid, interest);
        owed := owed - repaid;
        total := total + interest;
    END LOOP;
    RETURN total;
END
$$;

/*
 * The handler: called with each message once, in the transaction that also says so
 * to dtx. Whatever fails, it leaves nothing behind.
 *
 * A loan that cannot be read will not be read better the next time: DX005 says so
 * to dtx, which puts it to the dead letters. Anything else that goes wrong is tried
 * again later.
 */
CREATE FUNCTION make_plan(id bigint, payload jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    loan     bigint;
    borrower text;
    amount   numeric;
    rate     numeric;
    months   integer;
    approved date;
BEGIN
    BEGIN
        loan := payload ->> 'loan_id';
        borrower := payload ->> 'borrower';
        amount := payload ->> 'amount';
        rate := annual_rate(payload -> 'terms');
        months := payload -> 'terms' ->> 'months';
        approved := payload ->> 'approved_on';
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'loan % cannot be read: %', payload ->> 'loan_id', SQLERRM USING ERRCODE = 'DX005';
    END;
    IF NOT coalesce(loan > 0 AND amount > 0 AND rate >= 0 AND rate < 1 AND months BETWEEN 1 AND 360 AND approved IS NOT NULL
                    AND borrower <> '', false) THEN
        RAISE EXCEPTION 'loan % is not one that a plan can be made for: %', loan, payload USING ERRCODE = 'DX005';
    END IF;

    INSERT INTO received_loan (message_id, loan_id) VALUES (id, loan);

    -- dtx_seek delivers again on purpose: what is made is kept
    INSERT INTO plan (loan_id, borrower, principal, interest) VALUES (loan, borrower, amount, 0)
    ON CONFLICT (loan_id) DO NOTHING;
    IF FOUND THEN
        UPDATE plan SET interest = make_installments(loan, amount, rate, months, approved) WHERE loan_id = loan;
    END IF;
END
$$;
COMMENT ON FUNCTION make_plan(bigint, jsonb) IS 'makes the plan of a loan that was approved';

-- What comes from the loan service: loans that were approved, and nothing else.
REVOKE ALL ON FUNCTION make_plan(bigint, jsonb), make_installments(bigint, numeric, numeric, integer, date) FROM PUBLIC;
CREATE ROLE from_loan_service LOGIN PASSWORD :'password';
SELECT dtx_admit('from_loan_service');
GRANT EXECUTE ON FUNCTION make_plan(bigint, jsonb) TO from_loan_service;
