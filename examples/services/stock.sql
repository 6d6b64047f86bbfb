/*
 * stock.sql: the database of the stock service.
 *
 * Run as a superuser in a new database. psql variables: host, port, where the database of the order service is;
 * password, of the roles.
 */
CREATE EXTENSION dtx;

CREATE TABLE stock (
    item      text PRIMARY KEY,
    available integer NOT NULL CONSTRAINT in_stock CHECK (available >= 0)
);
INSERT INTO stock VALUES ('tea', 10), ('coffee', 1);
SELECT dtx_attach('stock');

-- the program stock.py; the database of the order service settles as it, too
CREATE ROLE stock_service LOGIN PASSWORD :'password';
GRANT SELECT, UPDATE ON stock TO stock_service;

SELECT dtx_peer('orders', format('host=%s port=%s dbname=orders user=stock_service password=%s', :'host', :'port', :'password'),
                role => 'stock_service', admit => 'stock_service');
