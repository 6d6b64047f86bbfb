BEGIN;
UPDATE bulk_plain SET balance = balance + 1;
COMMIT;
