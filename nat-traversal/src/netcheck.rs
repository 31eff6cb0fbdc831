//! What kind of NAT this node is behind (RFC 5780).
