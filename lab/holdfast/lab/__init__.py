"""Virtual storage and compute hosts on one machine, and the real servers that Holdfast needs."""
