"""What a host may be to a volume. Apart from roles.py: a worker needs the words, and none of the records."""

PRIMARY, MIRROR, JOINER = "primary", "mirror", "joiner"
