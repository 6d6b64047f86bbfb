/*
 * custody.sql: the bank's custody system, which keeps the accounts of the platform's
 * members.
 *
 * Run as a superuser in a new database. psql variables: callback, the URL at which
 * the platform takes results, and secret, by which these are signed (whsec_...);
 * password, of the role from_platform here.
 */
CREATE EXTENSION dtx;

-- Who owns what is here, and notifies the platform; nobody logs in as that.
CREATE ROLE custodian;

CREATE TABLE account_request (
    request_no text PRIMARY KEY CHECK (request_no <> ''),
    full_name  text NOT NULL CHECK (full_name <> ''),
    id_no      text NOT NULL,
    state      text NOT NULL DEFAULT 'accepted' CHECK (state IN ('accepted', 'opened', 'rejected')),
    account_no text UNIQUE,
    reason     text,
    CHECK ((state = 'opened') = (account_no IS NOT NULL)),
    CHECK ((state = 'rejected') = (reason IS NOT NULL))
);
ALTER TABLE account_request OWNER TO custodian;
CREATE SEQUENCE account_number START 62220001;
ALTER SEQUENCE account_number OWNER TO custodian;

-- A request is there when the platform's transaction is committed, and until then nobody decides on it
SELECT dtx_attach('account_request');

-- The platform: it sends requests, and may ask for what it is told.
CREATE ROLE from_platform LOGIN PASSWORD :'password';
SELECT dtx_admit('from_platform');

-- allow_private: dtx sends nothing to private addresses and loopback otherwise
CREATE SERVER platform FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url :'callback', allow_private 'true', receiver 'from_platform');
GRANT USAGE ON FOREIGN SERVER platform TO custodian;
CREATE USER MAPPING FOR custodian SERVER platform OPTIONS (secret :'secret');

/* A request comes in. The answer is that it did; the result comes later. */
CREATE FUNCTION request_account(request_no text, full_name text, id_no text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO account_request (request_no, full_name, id_no) VALUES (request_no, full_name, id_no);
    RETURN 'accepted';
END
$$;
ALTER FUNCTION request_account(text, text, text) OWNER TO custodian;

/*
 * The custody system has decided, good or bad: the request's state is that, and the
 * platform is told, both when this commits, or neither.
 */
CREATE FUNCTION decide(request_no text, state text, account_no text, reason text, schedule interval[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE account_request r SET state = decide.state, account_no = decide.account_no, reason = decide.reason
    WHERE r.request_no = decide.request_no AND r.state = 'accepted';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'request % is not one to be decided on', request_no USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    PERFORM dtx_notify('platform', request_no,
                       jsonb_strip_nulls(jsonb_build_object('result', state, 'account_no', account_no, 'reason', reason)), schedule);
END
$$;
ALTER FUNCTION decide(text, text, text, text, interval[]) OWNER TO custodian;

CREATE FUNCTION open_account(request_no text, schedule interval[] DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    account_no text := nextval('account_number');
BEGIN
    PERFORM decide(request_no, 'opened', account_no, NULL, schedule);
    RETURN account_no;
END
$$;
COMMENT ON FUNCTION open_account(text, interval[]) IS
    'opens the account that was asked for, has the platform told, and returns its number. ERROR 55000 for a request that there is not, or that was decided on.';
ALTER FUNCTION open_account(text, interval[]) OWNER TO custodian;

CREATE FUNCTION reject_account(request_no text, reason text, schedule interval[] DEFAULT NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
    SELECT decide(request_no, 'rejected', NULL, reason, schedule);
END;
COMMENT ON FUNCTION reject_account(text, text, interval[]) IS
    'rejects a request for an account, and has the platform told. ERROR 55000 as for open_account.';
ALTER FUNCTION reject_account(text, text, interval[]) OWNER TO custodian;

/*
 * What an HTTP front end such as PostgREST would expose to a platform that is no
 * PostgreSQL database: GET /rpc/account_result?request_no=..., as from_platform. It
 * runs with the rights of who asks, so that each learns its own results only.
 */
CREATE FUNCTION account_result(request_no text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = public, pg_temp
BEGIN ATOMIC
    SELECT o.payload FROM dtx_outcome(request_no) o LIMIT 1;
END;
COMMENT ON FUNCTION account_result(text) IS 'the result of a request for an account, as the platform was or is to be told; NULL: there is none';

-- The back office
CREATE ROLE clerk LOGIN;
REVOKE ALL ON FUNCTION request_account(text, text, text), decide(text, text, text, text, interval[]),
    open_account(text, interval[]), reject_account(text, text, interval[]), account_result(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION open_account(text, interval[]), reject_account(text, text, interval[]) TO clerk;
GRANT SELECT ON account_request TO clerk;
GRANT EXECUTE ON FUNCTION request_account(text, text, text), account_result(text) TO from_platform;

-- A result comes from a decision: nobody else tells the platform anything.
GRANT EXECUTE ON FUNCTION dtx_notify TO custodian;
