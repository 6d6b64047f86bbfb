-- bank1.sql: what bank1 has besides: a rule that is checked when the transaction
-- ends.
CREATE FUNCTION refuse_two() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.account_balance - NEW.account_balance = 2 THEN
        RAISE EXCEPTION 'bank1 pays out no amount of 2' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_two AFTER UPDATE ON account_info DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse_two();
