/*
 * account_service.sql: who may log in, and by which password.
 *
 * Run as a superuser in a new database. psql variables: password, of the role
 * that the user centre connects as.
 */
CREATE EXTENSION dtx;

CREATE TABLE login_account (
    login         text PRIMARY KEY CHECK (login ~ '^[a-z][a-z0-9_]{2,30}$'),
    user_id       bigint NOT NULL UNIQUE,
    password_hash text NOT NULL,
    enabled       boolean NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- AT: branches may insert here; dtx takes the row back when one is rolled back
SELECT dtx_attach('login_account');

/*
 * TCC: an account that nobody can use yet, which is then enabled or deleted.
 * Names are claimed by the try: whoever comes second is told at once, and the
 * confirm has nothing left to fail at.
 *
 * The functions run with their owner's rights, so that the user centre can do
 * this and no more. It could call them by itself, too: a cancel deletes no
 * account that is in use.
 */
CREATE FUNCTION open_account_try(login text, user_id bigint, password_hash text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
    INSERT INTO login_account (login, user_id, password_hash, enabled)
    VALUES (open_account_try.login, open_account_try.user_id, open_account_try.password_hash, false);
END;

CREATE FUNCTION open_account_confirm(login text, user_id bigint, password_hash text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
    UPDATE login_account a SET enabled = true
    WHERE a.login = open_account_confirm.login AND a.user_id = open_account_confirm.user_id;
END;

CREATE FUNCTION open_account_cancel(login text, user_id bigint, password_hash text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
BEGIN ATOMIC
    DELETE FROM login_account a
    WHERE a.login = open_account_cancel.login AND a.user_id = open_account_cancel.user_id AND NOT a.enabled;
END;

REVOKE ALL ON FUNCTION open_account_try(text, bigint, text), open_account_confirm(text, bigint, text),
    open_account_cancel(text, bigint, text) FROM PUBLIC;
SELECT dtx_tcc_define('open_account', 'open_account_try(text, bigint, text)',
                      'open_account_confirm(text, bigint, text)', 'open_account_cancel(text, bigint, text)');

-- What comes from the user centre. To undo its inserts it needs no right: dtx does that as the table's owner.
CREATE ROLE from_user_centre LOGIN PASSWORD :'password';
SELECT dtx_admit('from_user_centre');
GRANT INSERT (login, user_id, password_hash, enabled) ON login_account TO from_user_centre;
GRANT EXECUTE ON FUNCTION open_account_try(text, bigint, text), open_account_confirm(text, bigint, text),
    open_account_cancel(text, bigint, text) TO from_user_centre;
