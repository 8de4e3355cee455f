"""The node's network: what the kernel, IPVS, iptables and DNS must hold for the tasks that run here."""
