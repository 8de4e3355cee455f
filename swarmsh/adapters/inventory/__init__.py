"""Inventories: the hosts of a cluster, in Ansible's YAML and INI formats."""

from swarmsh.adapters.inventory.load import load_inventory
from swarmsh.adapters.inventory.records import Inventory, InventoryHost

__all__ = ["Inventory", "InventoryHost", "load_inventory"]
