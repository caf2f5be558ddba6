"""Claims as experiments: each file says its question, command, cost and expected result on top, and leaves its answer in `results/NAME`.

`all` runs them and writes the page; `networks` and `families` are the networks and images that they ask; `claim` is the form of an answer.
"""
