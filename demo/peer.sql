-- peer.sql: the way from one bank to the other. Variables: peer, host, port.
CREATE SERVER :peer FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host :'host', port :'port', dbname :'peer');
CREATE USER MAPPING FOR CURRENT_USER SERVER :peer OPTIONS (user 'postgres');
