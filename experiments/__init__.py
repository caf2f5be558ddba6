"""Claims as experiments: each file says its question, command, cost and expected result on top."""
