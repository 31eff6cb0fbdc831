//! The STUN client (RFC 8489): what address a server sees this node at.
