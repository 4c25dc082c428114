"""Sizes that both ends of a connection agree on."""

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""What a gateway sends and a client takes in one message. It is more than a gateway takes: an answer that was made, and is on
record, must be able to leave."""
