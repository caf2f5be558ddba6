"""Claims as experiments: each file says its question, command, cost and expected result on top, and leaves its answer in `results/NAME`.

`all` runs them; `networks` and `families` are the networks and images that they ask; `claim` judges, by rules, the comparisons that `estimates` makes; `kept` keeps answers and
rows; `page` writes both pages of them, `cited` the table of README.md, `before` says how verdicts changed.
"""
