"""The studies: one file each, on one engine."""
