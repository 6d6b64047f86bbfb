-- a message into a plain outbox
\set order random(1, 1000000)
\set amount random(1, 1000)
INSERT INTO outbox (topic, key, payload)
VALUES ('orders.new', :order::text, jsonb_build_object('order', :order::int, 'amount', :amount::int, 'at', clock_timestamp()));
