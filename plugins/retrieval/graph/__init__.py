"""The graph beside the passages: entities and relations in the base's own database, and the way from a question over them."""
