//! The TURN client (RFC 8656): this node's allocations on relays, and the framing of what goes by them.
