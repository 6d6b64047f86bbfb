-- The worker's and the cached connections may still hold the peer.
DROP DATABASE dtx_regression_peer WITH (FORCE);
