//! The outbox as a whole.
