"""`jukebox live`: music without end."""
