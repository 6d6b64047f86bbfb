-- dtx AT, all in one call
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
SELECT dtx_transfer(':peer', ':from', ':to', :amount);
