"""Tests on real kernels, in the lab."""
