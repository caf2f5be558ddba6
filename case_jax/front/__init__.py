"""What most people call: maps of an image, a figure of them, an evaluation over a data set."""
