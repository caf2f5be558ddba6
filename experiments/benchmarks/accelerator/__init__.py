"""Everything that an accelerator has to be asked, in under eight minutes, keeping what it has at any point."""
