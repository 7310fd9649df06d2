//! Networks, written once against the op set.
