"""Agreement with reference numbers of published PyTorch implementations."""
