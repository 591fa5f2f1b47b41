"""What a request has to pass: connections, bodies, keys, and what browsers and proxies expect."""
