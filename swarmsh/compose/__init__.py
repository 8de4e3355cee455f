"""Compose files: `load` reads and checks them, `convert` makes of them what a cluster runs."""
