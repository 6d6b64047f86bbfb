/*
 * orders.sql: the database of the order service.
 *
 * Run as a superuser in a new database. psql variables: host, port, where the database of the stock service is;
 * password, of the roles.
 */
CREATE EXTENSION dtx;

CREATE TABLE purchase_order (
    order_no text PRIMARY KEY,
    item     text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0)
);
SELECT dtx_attach('purchase_order');

-- the program orders.js, and the other database
CREATE ROLE order_service LOGIN PASSWORD :'password';
CREATE ROLE stock_service LOGIN PASSWORD :'password';
GRANT SELECT, INSERT ON purchase_order TO order_service;

SELECT dtx_peer('stock', format('host=%s port=%s dbname=stock user=stock_service password=%s', :'host', :'port', :'password'),
                role => 'order_service', admit => 'stock_service');
