"""Many images: studies on one engine that streams them through all devices into resumable runs."""
