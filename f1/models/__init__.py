"""Models on disk: found, fetched and opened. Start at `checkpoint.load_checkpoint`."""
