-- the floor, all in one call
\if :connected = 0
SELECT dblink_connect('peer', 'host=:host port=:port dbname=:peer user=:user');
\set connected 1
\endif
\set from random(1, :accounts)
\set to random(1, :accounts)
\set amount random(1, 10)
SELECT unsafe_transfer(':from', ':to', :amount);
