-- a message with dtx
\set order random(1, 1000000)
\set amount random(1, 1000)
SELECT dtx_publish('orders.new', jsonb_build_object('order', :order::int, 'amount', :amount::int, 'at', clock_timestamp()), :order::text);
