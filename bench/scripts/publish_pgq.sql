-- an event of PgQ
\set order random(1, 1000000)
\set amount random(1, 1000)
SELECT pgq.insert_event('bench', 'orders.new', jsonb_build_object('order', :order::int, 'amount', :amount::int, 'at', clock_timestamp())::text,
                        :order::text, NULL, NULL, NULL);
