"""What runs on nodes: the exec'd stub and the resident helper. Standard library only, Python 3.9 to 3.14."""
