SELECT count(pgq.insert_event('bench', 'orders.new', jsonb_build_object('order', g, 'amount', g % 1000)::text, g::text, NULL, NULL, NULL))
FROM generate_series(1, :n) g;
