"""`python -m case_jax.cli`, the same as `case-jax`."""

from case_jax.cli import main

main()
