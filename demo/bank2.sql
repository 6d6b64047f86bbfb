-- bank2.sql: what bank2 has besides: a rule of its own.
CREATE FUNCTION refuse_three() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_balance - OLD.account_balance = 3 THEN
        RAISE EXCEPTION 'bank2 takes in no amount of 3' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_three AFTER UPDATE ON account_info
    FOR EACH ROW EXECUTE FUNCTION refuse_three();
