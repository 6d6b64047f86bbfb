-- a notification of a result, in a transaction of its own
\set n :n + 1
\set order random(1, 1000000)
\set amount random(1, 1000)
SELECT dtx_notify('alive1', 'bench.' || :client_id::text || '.' || :n::text, jsonb_build_object('order', :order::int, 'state', 'paid', 'amount', :amount::int));
