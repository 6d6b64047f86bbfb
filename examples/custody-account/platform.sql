/*
 * platform.sql: the platform, whose members lend and borrow, and have accounts at
 * the custody system.
 *
 * Run as a superuser in a new database. psql variables: host, port, where the
 * custody system is; password, of the role from_platform there and of callback here.
 */
CREATE EXTENSION dtx;

-- Who owns what is here, and calls the custody system; nobody logs in as that.
CREATE ROLE lending;

CREATE TABLE custody_account (
    request_no text PRIMARY KEY,
    full_name  text NOT NULL,
    id_no      text NOT NULL,
    state      text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'opened', 'rejected')),
    account_no text UNIQUE,
    reason     text
);
ALTER TABLE custody_account OWNER TO lending;

-- What has come in. It has no key: that dtx lets nothing in twice is to be seen, not to be taken care of here.
CREATE TABLE received_result (
    request_no  text NOT NULL,
    payload     jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE received_result OWNER TO lending;

CREATE SERVER custody FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname 'custody');
GRANT USAGE ON FOREIGN SERVER custody TO lending;
CREATE USER MAPPING FOR lending SERVER custody OPTIONS (user 'from_platform', password :'password');

/* A member wants an account: noted here and accepted there, both or neither. */
CREATE FUNCTION ask_for_account(request_no text, full_name text, id_no text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    answer text;
BEGIN
    INSERT INTO custody_account (request_no, full_name, id_no) VALUES (request_no, full_name, id_no);
    SELECT q.answer INTO STRICT answer
    FROM dtx_query('custody', 'SELECT request_account($1, $2, $3)', request_no, full_name, id_no) AS q(answer text);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION ask_for_account(text, text, text) IS
    'asks the custody system for an account: accepted. The result comes later, see custody_account. ERROR 23505 for a request_no that there is.';
ALTER FUNCTION ask_for_account(text, text, text) OWNER TO lending;

/*
 * The handler: called with each result once, be it told or asked for, in the
 * transaction that also says so to dtx. Whatever fails, it leaves nothing behind.
 */
CREATE FUNCTION take_result(tx_no text, payload jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO received_result (request_no, payload) VALUES (tx_no, payload);
    UPDATE custody_account a
    SET state = payload ->> 'result', account_no = payload ->> 'account_no', reason = payload ->> 'reason'
    WHERE a.request_no = tx_no AND a.state = 'requested';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no request % that has no result', tx_no USING ERRCODE = 'no_data_found';
    END IF;
END
$$;
COMMENT ON FUNCTION take_result(text, jsonb) IS 'takes the result of a request for an account';
ALTER FUNCTION take_result(text, jsonb) OWNER TO lending;
SELECT dtx_on_notification('take_result', 'custody');

/* No result has come for too long: ask. */
CREATE FUNCTION ask_for_result(request_no text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
    SELECT dtx_reconcile('custody', request_no);
END;
COMMENT ON FUNCTION ask_for_result(text) IS
    'asks the custody system for a result, and takes it: applied, known, or unknown, when there is none yet';
ALTER FUNCTION ask_for_result(text) OWNER TO lending;

-- The application
CREATE ROLE member_service LOGIN;
REVOKE ALL ON FUNCTION ask_for_account(text, text, text), take_result(text, jsonb), ask_for_result(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ask_for_account(text, text, text), ask_for_result(text) TO member_service;
GRANT SELECT ON custody_account TO member_service;

-- callback.pl: it brings what comes over HTTP, and touches no table.
CREATE ROLE callback LOGIN PASSWORD :'password';
GRANT EXECUTE ON FUNCTION dtx_accept, take_result(text, jsonb) TO callback;
