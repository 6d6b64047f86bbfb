/*
 * loan_service.sql: who borrows how much, and from whom.
 *
 * Run as a superuser in a new database, after repayment_service.sql. psql
 * variables: host, port, where the repayment service is; password, of the role
 * from_loan_service there.
 */
CREATE EXTENSION dtx;

CREATE TABLE loan (
    loan_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    borrower    text NOT NULL CHECK (borrower <> ''),
    amount      numeric(12,2) NOT NULL CHECK (amount >= 100),
    terms       jsonb NOT NULL,     -- as the borrower has filled in the form
    funded      numeric(12,2) NOT NULL DEFAULT 0 CONSTRAINT loan_needs_no_more CHECK (funded <= amount),
    state       text NOT NULL DEFAULT 'funding' CHECK (state IN ('funding', 'repaying')),
    approved_on date,
    CHECK ((state = 'repaying') = (approved_on IS NOT NULL)),
    CHECK (state = 'funding' OR funded = amount)
);

CREATE TABLE funding (
    loan_id  bigint NOT NULL REFERENCES loan,
    investor text NOT NULL,
    amount   numeric(12,2) NOT NULL CHECK (amount > 0),
    at       timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION apply_for_loan(borrower text, amount numeric, terms jsonb) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
    INSERT INTO loan (borrower, amount, terms) VALUES (borrower, amount, terms) RETURNING loan_id;
END;

CREATE FUNCTION fund_loan(loan_id bigint, investor text, amount numeric) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE loan l SET funded = l.funded + fund_loan.amount WHERE l.loan_id = fund_loan.loan_id AND l.state = 'funding';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'loan % does not need funding', loan_id USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO funding (loan_id, investor, amount) VALUES (loan_id, investor, amount);
END
$$;

/*
 * The loan is repaying, and the message that says so is there, when this commits;
 * neither is when it does not. Nothing is asked of the repayment service, which may
 * be down.
 *
 * It runs with its owner's rights: nobody can do half of it.
 */
CREATE FUNCTION approve_loan(loan_id bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    approved loan;
BEGIN
    SELECT * INTO approved FROM loan l WHERE l.loan_id = approve_loan.loan_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'loan % does not exist', loan_id USING ERRCODE = 'no_data_found';
    ELSIF approved.state = 'repaying' THEN
        RAISE EXCEPTION 'loan % was approved before', loan_id
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is repaying since %s.', approved.approved_on);
    ELSIF approved.funded < approved.amount THEN
        RAISE EXCEPTION 'loan % is not fully funded', loan_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('It has %s of %s.', approved.funded, approved.amount);
    END IF;

    UPDATE loan l SET state = 'repaying', approved_on = current_date WHERE l.loan_id = approve_loan.loan_id
    RETURNING l.* INTO approved;
    RETURN dtx_publish('loan.approved', to_jsonb(approved) - '{funded, state}'::text[], key => loan_id::text);
END
$$;
COMMENT ON FUNCTION approve_loan(bigint) IS
    'approves a loan that is fully funded, which starts its repayment, and returns the id of the message to the repayment service. ERROR P0002 for an unknown loan, 55000 for one that is not fully funded or was approved before.';

-- The application
CREATE ROLE loan_officer LOGIN;
REVOKE ALL ON FUNCTION apply_for_loan(text, numeric, jsonb), fund_loan(bigint, text, numeric), approve_loan(bigint)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION apply_for_loan(text, numeric, jsonb), fund_loan(bigint, text, numeric), approve_loan(bigint)
    TO loan_officer;
GRANT SELECT ON loan, funding TO loan_officer;

-- A message says that a loan was approved: none comes from elsewhere.
REVOKE EXECUTE ON FUNCTION dtx_publish, dtx_message_prepare FROM PUBLIC;

-- Who takes messages to the repayment service; its members look after dead letters.
CREATE ROLE loan_messages;
CREATE SERVER repayment_service FOREIGN DATA WRAPPER dtx_fdw
    OPTIONS (host :'host', port :'port', dbname 'repayment_service');
GRANT USAGE ON FOREIGN SERVER repayment_service TO loan_messages;
CREATE USER MAPPING FOR loan_messages SERVER repayment_service OPTIONS (user 'from_loan_service', password :'password');
GRANT EXECUTE ON FUNCTION dtx_subscribe TO loan_messages;
SET ROLE loan_messages;
SELECT dtx_subscribe('loan.approved', 'repayment_service', 'make_plan', name => 'repayment plans');
RESET ROLE;
