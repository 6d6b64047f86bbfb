-- What modes_00_setup.sql has set up, the peer excepted.
SET client_min_messages = warning;
DROP SERVER c CASCADE;
DROP DATABASE dtx_regression_third WITH (FORCE);
DROP SCHEMA m CASCADE;
