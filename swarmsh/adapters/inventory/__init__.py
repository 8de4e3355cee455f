"""Inventories: the hosts of a cluster, in Ansible's YAML and INI formats."""

from swarmsh.adapters.inventory.load import load_inventory
from swarmsh.adapters.inventory.records import Inventory, InventoryHost
from swarmsh.adapters.inventory.takeover import describe_changes, regrouped, with_stored_pins

__all__ = ["Inventory", "InventoryHost", "describe_changes", "load_inventory", "regrouped", "with_stored_pins"]
