/*
 * user_centre.sql: who our users are, and how one registers.
 *
 * Run as a superuser in a new database, after account_service.sql. psql
 * variables: host, port, where the account service is; password, of the role
 * from_user_centre there.
 */
CREATE EXTENSION dtx;

CREATE TABLE invitation (
    code      text PRIMARY KEY,
    uses_left integer NOT NULL CONSTRAINT invitation_is_used_up CHECK (uses_left >= 0)
);

CREATE TABLE registered_user (
    user_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email         text NOT NULL UNIQUE CHECK (email ~ '^[^@ ]+@[^@ ]+$'),
    full_name     text NOT NULL CHECK (full_name <> ''),
    invited_by    text NOT NULL REFERENCES invitation,
    registered_at timestamptz NOT NULL DEFAULT now()
);

CREATE SERVER account_service FOREIGN DATA WRAPPER dtx_fdw
    OPTIONS (host :'host', port :'port', dbname 'account_service');

/*
 * Both functions: the user here, the login account there, and at last the
 * invitation. Many register by the same one, so its row is locked for as short
 * as can be; when it is used up, the account exists already, and goes again.
 */
CREATE FUNCTION register_at(email text, full_name text, invited_by text, login text, password_hash text) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    new_id bigint;
BEGIN
    INSERT INTO registered_user (email, full_name, invited_by) VALUES (email, full_name, invited_by)
    RETURNING user_id INTO new_id;

    PERFORM dtx_exec('account_service',
                     'INSERT INTO login_account (login, user_id, password_hash, enabled) VALUES ($1, $2, $3, true)',
                     login, new_id, password_hash);

    UPDATE invitation i SET uses_left = uses_left - 1 WHERE i.code = invited_by;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION register_at(text, text, text, text, text) IS
    'registers a user, who can log in as soon as the account service has the account: for a moment even before this commits';

CREATE FUNCTION register_tcc(email text, full_name text, invited_by text, login text, password_hash text) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    new_id bigint;
BEGIN
    INSERT INTO registered_user (email, full_name, invited_by) VALUES (email, full_name, invited_by)
    RETURNING user_id INTO new_id;

    PERFORM dtx_try('account_service', 'open_account',
                    jsonb_build_object('login', login, 'user_id', new_id, 'password_hash', password_hash));

    UPDATE invitation i SET uses_left = uses_left - 1 WHERE i.code = invited_by;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION register_tcc(text, text, text, text, text) IS
    'registers a user, who can log in once this has committed and the account service has been told: never before';

-- The application. It has the rights of the two functions, which run with its own.
CREATE ROLE registrar LOGIN;
GRANT SELECT ON invitation TO registrar;
GRANT UPDATE (uses_left) ON invitation TO registrar;
GRANT INSERT (email, full_name, invited_by) ON registered_user TO registrar;
GRANT SELECT (user_id) ON registered_user TO registrar;
REVOKE ALL ON FUNCTION register_at(text, text, text, text, text), register_tcc(text, text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION register_at(text, text, text, text, text), register_tcc(text, text, text, text, text) TO registrar;
GRANT USAGE ON FOREIGN SERVER account_service TO registrar;
CREATE USER MAPPING FOR registrar SERVER account_service OPTIONS (user 'from_user_centre', password :'password');

INSERT INTO invitation VALUES ('SPRING', 1000), ('FRIEND', 0);
