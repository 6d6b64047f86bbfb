BEGIN;
UPDATE bulk_jsonb SET balance = balance + 1;
COMMIT;
