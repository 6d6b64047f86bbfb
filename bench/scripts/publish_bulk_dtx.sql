SELECT count(dtx_publish('orders.new', jsonb_build_object('order', g, 'amount', g % 1000), g::text)) FROM generate_series(1, :n) g;
