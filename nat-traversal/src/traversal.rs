//! One peer: from candidates to paths that work.
