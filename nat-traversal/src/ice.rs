//! ICE (RFC 8445) with one peer, by str0m's agent: the only module that names it.
