"""`jukebox live`: live generation of unbounded length."""
