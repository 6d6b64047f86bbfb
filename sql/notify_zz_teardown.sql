-- What notify_00_setup.sql has set up, and what is pending.
SET client_min_messages = warning;
SELECT dtx_discard(array_agg(id)) >= 0 AS discarded FROM dtx_notifications;
DROP SCHEMA n CASCADE;
