"""Which items a user will like next: the task plugin, its two towers, the item index, and the commands that change it."""
