INSERT INTO outbox (topic, key, payload)
SELECT 'orders.new', g::text, jsonb_build_object('order', g, 'amount', g % 1000) FROM generate_series(1, :n) g;
