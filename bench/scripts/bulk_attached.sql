BEGIN;
UPDATE bulk_attached SET balance = balance + 1;
COMMIT;
