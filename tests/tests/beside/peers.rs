//! With real peers: in the next slice.
